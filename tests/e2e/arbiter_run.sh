#!/bin/bash
# SPDX-License-Identifier: MIT
# Doubt between real processes: a guest, an end that is killed or cut off around the commit, and an arbiter on a directory
# or in a real etcd, which may be away or frozen at that moment. The record, both ends and the guest must agree.
set -u
program=$2/rdma-migrate
tmp=$(mktemp -d)
etcd=
cleanup()
{
	[ -z "$etcd" ] || kill -KILL "$etcd"
	rm -rf "$tmp"
}
trap cleanup EXIT
failed=0
. "$1/tests/lib/patience.sh"
guest=(--memory 64M --working-set 16M --dirty-rate 20000 --floor off --quiet --timeout $((500 * PATIENCE))ms --reconnect $((300 * PATIENCE))ms)

json() # FIELD of the last run, text or number
{
	sed -n "s/.*\"$1\":\"\{0,1\}\([^\",}]*\).*/\1/p" "$tmp/json"
}

# What the arbiter holds for the last run: source, target or nothing
record()
{
	case $(json arbiter) in
	file*) head -n 1 "$tmp/records/$(json session).owner" 2>/dev/null ;;
	etcd*) ETCDCTL_API=3 etcdctl --endpoints="$url" get --print-value-only "ferry/$(json session)" | head -n 1 ;;
	esac
}

# settles NAME ARBITER EXIT SOURCE_SAYS TARGET_SAYS RECORD OPTIONS..: "-" is anything
settles()
{
	local name=$1 arbiter=$2 exit=$3 source=$4 target=$5 due=$6 code bad=""
	shift 6

	rm -f "$tmp/json"
	timeout 120 "$program" run "${guest[@]}" --arbiter "$arbiter" --json "$tmp/json" "$@" >"$tmp/out" 2>&1
	code=$?
	[ $code = "$exit" ] || bad="exit code $code;"
	[ "$source" = - ] || [ "$(json source_says)" = "$source" ] || bad="$bad the source says $(json source_says);"
	[ "$target" = - ] || [ "$(json target_says)" = "$target" ] || bad="$bad the target says $(json target_says);"
	[ "$due" = - ] || [ "$(record)" = "$due" ] || bad="$bad the record is \"$(record)\";"
	[ "$(json pages_bad)$(json outputs_missing)$(json outputs_repeated)" = 000 ] || bad="$bad the proof failed;"
	if [ -z "$bad" ]; then
		echo "[PASS] arbiter_run::$name"
	else
		echo "[FAIL] arbiter_run::$name:$bad"
		cat "$tmp/out" "$tmp/json" 2>/dev/null
		failed=1
	fi
}

# all NAME ARBITER: each row of "in doubt" that a kill at a phase can come to
all()
{
	local name=$1 arbiter=$2

	settles "$name: source killed, PREPARED was sent" "$arbiter" 0 nothing migrated target \
		--mode post-copy --max-rounds 1 --kill source@commitment
	settles "$name: COMMIT lost" "$arbiter" 0 migrated migrated target --mode post-copy --max-rounds 1 --kill link@commitment
	settles "$name: PREPARED lost in the downtime" "$arbiter" 0 fell-back discarded source \
		--mode stop-and-copy --kill link@commitment
	settles "$name: PREPARED lost with pages missing" "$arbiter" 0 fell-back discarded source \
		--mode post-copy --max-rounds 1 --commit-at switchover --kill link@commitment
	settles "$name: target killed, COMMIT was sent" "$arbiter" 0 migrated nothing target \
		--mode post-copy --max-rounds 1 --kill target@activation
	settles "$name: target killed in post-copy" "$arbiter" 0 fell-back nothing source \
		--mode post-copy --max-rounds 1 --memory-kind memfd --kill target@post-copy
}

mkdir "$tmp/records"
all file "file:$tmp/records"
settles "file: nobody needs it" "file:$tmp/records" 0 migrated migrated "" --mode post-copy --max-rounds 1
# At 32 MB/s half a second of pages is missing when the link goes: without a limit the target may have had them all
settles "file: a page server lost" "file:$tmp/records" 4 lost lost "" --mode post-copy --max-rounds 1 --commit-at switchover \
	--bandwidth 32M --kill link@post-copy
settles "file: the directory is gone" "file:$tmp/elsewhere" 4 in-doubt in-doubt - --mode post-copy --max-rounds 1 --kill link@commitment

# The two ends by hand, and one of them without
rm -f "$tmp/json"
mkfifo "$tmp/listening"
timeout 120 "$program" target --listen "tcp:127.0.0.1:0" --arbiter "file:$tmp/records" --json "$tmp/target" >"$tmp/out" 2>"$tmp/listening" &
target=$!
exec 3<"$tmp/listening"
read -r _ _ uri <&3
timeout 120 "$program" source --to "$uri" "${guest[@]:0:6}" --json "$tmp/json" >>"$tmp/out" 2>&1
code=$?
wait $target
if [ $code = 2 ] && [ "$(json source_says)" = refused ] && json detail | grep -q 'only the target has an arbiter: give both ends'; then
	echo "[PASS] arbiter_run::an arbiter at one end is refused"
else
	echo "[FAIL] arbiter_run::an arbiter at one end is refused: exit code $code"
	cat "$tmp/out" "$tmp/json"
	failed=1
fi

if timeout 60 "$program" run --arbiter etcd:http://127.0.0.1:1 --memory 0 2>&1 | grep -q 'etcd is not in this build'; then
	echo "[SKIP] arbiter_run::etcd: it is not in this build (libcurl or jansson was not found)"
	exit $failed
elif ! command -v etcd >/dev/null || ! command -v etcdctl >/dev/null; then
	echo "[SKIP] arbiter_run::etcd: there is none to run; tests/run installs etcd-server and etcd-client on Debian"
	exit $failed
fi

# A port that was free a moment ago may be taken: then etcd ends, and another is tried.
for _ in 1 2 3 4 5; do
	port=$((20000 + RANDOM % 10000 * 2))
	url=http://127.0.0.1:$port peer=http://127.0.0.1:$((port + 1))
	rm -rf "$tmp/etcd"
	etcd --data-dir "$tmp/etcd" --listen-client-urls $url --advertise-client-urls $url --listen-peer-urls $peer \
		--initial-advertise-peer-urls $peer --initial-cluster default=$peer --heartbeat-interval 20 \
		--election-timeout 200 >"$tmp/log" 2>&1 &
	etcd=$!
	for _ in $(seq 600); do
		ETCDCTL_API=3 etcdctl --endpoints=$url endpoint health >/dev/null 2>&1 && break 2
		kill -0 $etcd 2>/dev/null || break
		sleep 0.1
	done
	kill -KILL $etcd 2>/dev/null
	wait $etcd 2>/dev/null
	etcd=
done
if [ -z "$etcd" ]; then
	echo "[FAIL] arbiter_run::etcd: it does not begin"
	tail -n 20 "$tmp/log"
	exit 1
fi
all etcd "etcd:$url"
kill -STOP $etcd
settles "etcd: frozen at that moment" "etcd:$url" 4 in-doubt in-doubt - --mode post-copy --max-rounds 1 --kill link@commitment
kill -CONT $etcd
settles "etcd: the next one is settled again" "etcd:$url" 0 migrated migrated target --mode post-copy --max-rounds 1 --kill link@commitment
kill -KILL $etcd
wait $etcd 2>/dev/null
etcd=
settles "etcd: away at that moment" "etcd:$url" 4 in-doubt in-doubt - --mode post-copy --max-rounds 1 --kill link@commitment
exit $failed
