#!/bin/bash
# SPDX-License-Identifier: MIT
# rdma-migrate itself, with a small guest: each way to finish, each drill, two commands on "two machines".
set -u
program=$2/rdma-migrate
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
failed=0
guest=(--memory 128M --working-set 32M --dirty-rate 20000 --floor off --quiet)

# verdict NAME EXIT_CODE JSON_FILE PATTERN...: exit code 0, and the last object has all patterns in it
verdict()
{
	local name=$1 code=$2 json=$3 bad="" pattern
	shift 3

	[ "$code" = 0 ] || bad="exit code $code"
	for pattern in "$@"; do
		tail -n 1 "$json" 2>/dev/null | grep -qE -- "$pattern" || bad="$bad no match for $pattern;"
	done
	if [ -z "$bad" ]; then
		echo "[PASS] cli_run::$name"
	else
		echo "[FAIL] cli_run::$name: $bad"
		cat "$tmp/out" "$json" 2>/dev/null
		failed=1
	fi
}

clean='"pages_bad":0,"guest_errors":0,"outputs_seen":[1-9][0-9]*,"outputs_missing":0,"outputs_repeated":0'
checked='"pages_checked":32768'

# run NAME OUTCOME [options]
run()
{
	local name=$1 outcome=$2
	shift 2

	rm -f "$tmp/json"
	timeout 120 "$program" run "${guest[@]}" --json "$tmp/json" "$@" >"$tmp/out" 2>&1
	set -- $?
	if [ "$outcome" = discarded ]; then
		verdict "$name" "$1" "$tmp/json" '"outcome":"discarded"' '"owner":"none"' "$clean"
	else
		verdict "$name" "$1" "$tmp/json" "\"outcome\":\"($outcome)\"" "$clean" "$checked"
	fi
}

for kind in anon memfd; do
	for mode in stop-and-copy post-copy auto; do
		run "$mode $kind" migrated --mode $mode --memory-kind $kind
	done
done
run "small pages" migrated --mode post-copy --max-rounds 1 --thp off
run "memfd on huge pages" migrated --mode post-copy --max-rounds 1 --memory-kind memfd --thp on
run "classic post-copy" migrated --mode post-copy --max-rounds 1 --commit-at switchover
run "idle guest" migrated --mode stop-and-copy --dirty-rate 0
run "two vCPUs and channels" migrated --vcpus 2 --channels 2 --mode post-copy --max-rounds 1 --memory-kind memfd
run "one page after the other" migrated --pattern sequential --mode post-copy --max-rounds 1 --memory-kind memfd
run "zipf" migrated --pattern zipf --mode post-copy --max-rounds 1
run "mostly holes" migrated --populate 0
run "target killed in pre-copy" 'refused|fell-back' --kill target@precopy
run "target killed in stop-and-copy" fell-back --kill target@stop-and-copy
run "target killed in post-copy" fell-back --mode post-copy --max-rounds 1 --kill target@postcopy
run "link cut in pre-copy" 'refused|fell-back' --kill link@precopy
run "link cut in post-copy" fell-back --mode post-copy --max-rounds 1 --memory-kind memfd --kill link@postcopy
run "link heals in post-copy" migrated --mode post-copy --max-rounds 1 --kill link@postcopy:200
grep -q '"reconnects":[1-9]' "$tmp/json" || { echo "[FAIL] cli_run::link heals in post-copy: it never was lost"; failed=1; }
run "source killed in pre-copy" discarded --kill source@precopy

# Every field that a reader of the JSON may rely on
rm -f "$tmp/json"
timeout 120 "$program" run --memory 64M --quiet --repeat 2 --json "$tmp/json" --mode post-copy --max-rounds 1 >"$tmp/out" 2>&1
code=$?
fields=()
for f in transport memory_bytes memory_kind mode commit_at mutator outcome owner rounds round_list total_ms \
	reserve_ms precopy_ms downtime_us downtime stood_us postcopy_ms bytes_sent pages_sent pages_zero pages_hole throughput_mb_s \
	pattern faults fault_p50_us fault_p99_us fault_max_us fault_total_ms postcopy_stamps cpu_ms pages_checked pages_bad outputs_seen outputs_missing \
	outputs_repeated floor ratios policy detail seed; do
	fields+=("\"$f\":")
done
[ "$(wc -l <"$tmp/json")" = 2 ] || code="$code, not one object a run"
verdict "json fields" "$code" "$tmp/json" "${fields[@]}" '"memory_kind":"anon","thp":"on"' '"reserve_ms":[0-9.]*[1-9]'

# Both ends by hand
rm -f "$tmp/source" "$tmp/target"
mkfifo "$tmp/listening"
timeout 120 "$program" target --listen "tcp:127.0.0.1:0" --json "$tmp/target" >"$tmp/out" 2>"$tmp/listening" &
target=$!
exec 3<"$tmp/listening"
read -r _ _ uri <&3
timeout 120 "$program" source --to "$uri" "${guest[@]:0:6}" --json "$tmp/source" >>"$tmp/out" 2>&1
verdict "source command" $? "$tmp/source" '"outcome":"migrated"' '"owner":"target"'
wait $target
verdict "target command" $? "$tmp/target" '"outcome":"migrated"' "$clean" "$checked"
exit $failed
