#!/bin/bash
# SPDX-License-Identifier: MIT
# A migration between "two machines" that takes longer than any limit that one end sets for the other on one machine.
set -u
program=$2/rdma-migrate
suite=cli_long
. "$1/tests/lib/verdict.sh"
tmp=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$tmp"' EXIT
LIMIT_MS=121000 # of which OTHER_LIMIT in bench/cli/run.c is the longest

"$program" target --listen tcp:127.0.0.1:0 --quiet --json "$tmp/target" >"$tmp/said" 2>&1 &
target=$!
until uri=$(sed -n 's/^listening on //p' "$tmp/said") && [ -n "$uri" ]; do
	kill -0 $target 2>/dev/null || { verdict "a target listens" "$(cat "$tmp/said")"; exit 1; }
	sleep 0.1
done
# 32 MiB at 240 KiB a second
timeout 600 "$program" source --to "$uri" --memory 32M --working-set 1M --dirty-rate 0 --mode stop-and-copy --bandwidth 240K --max-rounds 2 \
	--quiet --json "$tmp/source" >"$tmp/source.said" 2>&1
code=$?
wait $target
why=""
[ "$code $?" = "0 0" ] || why="the ends did not both end with 0: $(cat "$tmp/said" "$tmp/source.said"); "
for end in source target; do
	grep -q '"outcome":"migrated","owner":"target"' "$tmp/$end" || why+="of the $end: $(cat "$tmp/$end"); "
done
took=$(sed -n 's/.*"total_ms":\([0-9]*\).*/\1/p' "$tmp/source")
[ "${took:-0}" -gt $LIMIT_MS ] || why+="it took ${took:-no} ms, so this has tested nothing; "
verdict "it ends as any other" "$why"
exit $failed
