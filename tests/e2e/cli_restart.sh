#!/bin/bash
# SPDX-License-Identifier: MIT
# A target that is started again as soon as it dies, as a service manager does, and dies in post-copy: the source falls back in
# the time that it was given, and the new target waits for a source of its own. FERRY_RESTART_ROUNDS: how often (2).
set -u
program=$2/rdma-migrate
. "$(dirname "$0")/../lib/patience.sh"
tmp=$(mktemp -d)
trap 'touch "$tmp/stop"; kill $(jobs -p) 2>/dev/null; rm -rf "$tmp"' EXIT
failed=0
rounds=${FERRY_RESTART_ROUNDS:-2}
guest=(--memory 64M --working-set 16M --dirty-rate 20000 --quiet --report-port 0)
limits=(--reconnect $((1000 * PATIENCE))ms --timeout $((1000 * PATIENCE))ms)

verdict() # NAME WHY
{
	if [ -z "$2" ]; then
		echo "[PASS] cli_restart::$1"
	else
		echo "[FAIL] cli_restart::$1: $2"
		tail -n 20 "$tmp"/*.out "$tmp"/*.err 2>/dev/null
		failed=1
	fi
}

# keep_up STAGE: a target on $port, again and again; the first one dies in that phase
keep_up()
{
	local n kill=(--kill "target@$1")

	for ((n = 1; ; n++)); do
		timeout 120 "$program" target --listen "tcp:127.0.0.1:$port" --report-port 0 --quiet "${limits[@]}" "${kill[@]}" \
			>"$tmp/t$n.out" 2>"$tmp/t$n.err"
		echo $? >"$tmp/t$n.code"
		kill=()
		[ ! -e "$tmp/stop" ] || return
	done
}

listens() # N: the Nth target does
{
	until grep -q '^listening on ' "$tmp/t$1.err" 2>/dev/null; do
		kill -0 $loop || return 1
		sleep 0.02
	done
}

free_port()
{
	while :; do
		port=$((10000 + RANDOM % 20000))
		ss -Htln "sport = :$port" | grep -q . || break
	done
}

move() # NAME [options]: a source to its end; its code in code
{
	timeout 120 "$program" source --to "tcp:127.0.0.1:$port" "${guest[@]}" "${limits[@]}" "${@:2}" >"$tmp/$1.out" 2>"$tmp/$1.err"
	code=$?
}

restarted() # STAGE NAME-OF-THE-CASE OPTIONS-OF-THE-SOURCE...
{
	rm -f "$tmp"/*
	free_port
	keep_up "$1" &
	loop=$!
	listens 1 || return
	move old "${@:3}"
	verdict "$2: the source has its VM" "$([ $code = 2 ] && grep -q 'so  *The VM \(went on at the source\|was never paused\|stayed\)' "$tmp/old.out" || echo "exit code $code")"
	verdict "$2: it says who listens there" "$(grep -q 'it is not the target of this migration' "$tmp/old.out" || echo no)"
	listens 2
	verdict "$2: the new target waits" "$([ ! -e "$tmp/t2.code" ] || echo "it has ended: $(cat "$tmp/t2.code")")"
	touch "$tmp/stop"
	move new --mode post-copy
	wait $loop
	verdict "$2: the new target takes a VM of its own" "$([ "$code $(cat "$tmp/t2.code")" = "0 0" ] || echo "exit codes $code and $(cat "$tmp/t2.code")")"
}

for ((round = 1; round <= rounds; round++)); do
	restarted post-copy "post-copy, $round of $rounds" --mode post-copy --max-rounds 1
done
restarted pre-copy "pre-copy"
exit $failed
