#!/bin/bash
# SPDX-License-Identifier: MIT
# The benches of the library's insides run, and what they find that is not a time is as it must be.
set -u
src=$1 build=$2
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
failed=0

# verdict NAME WHY: an empty WHY is a pass
verdict()
{
	if [ -z "$2" ]; then
		echo "[PASS] benches::$1"
	else
		echo "[FAIL] benches::$1: $2"
		failed=1
	fi
}

field()
{
	grep -oE "\"$1\":[0-9.]*" | cut -d: -f2
}

out=$(timeout 600 "$build/bench/replay" "$src"/bench/micro/scenarios/*.json 2>&1)
verdict "replay of all scenarios" "$([ $? = 0 ] && ! grep -q NOT <<<"$out" || echo "$out")"
sed 's/"verdict": "[a-z-]*"/"verdict": "gave up"/' "$src/bench/micro/scenarios/idle.json" >"$tmp/wrong.json"
out=$(timeout 600 "$build/bench/replay" "$tmp/wrong.json" 2>&1)
verdict "replay that expects another verdict" "$([ $? = 1 ] && grep -q 'NOT AS EXPECTED' <<<"$out" || echo "$out")"
echo '{"mode":' >"$tmp/half.json"
out=$(timeout 600 "$build/bench/replay" "$tmp/half.json" 2>&1)
verdict "replay of what is no trace" "$([ $? = 2 ] && grep -q "half.json:" <<<"$out" || echo "$out")"

# 48 MiB for 1 TiB and end, so 3 MiB for 64 GiB, and as much again for the process; all pages in every full round
out=$(timeout 600 "$build/bench/scale" 64 2>&1)
status=$?
most=$(grep '"round"' <<<"$out" | field metadata_mib | sort -n | tail -n 1)
pages=$(grep '"everything' <<<"$out" | field pages | sort -u)
[ -n "${SANITIZE:-}" ] && most=0 # its shadow is anonymous memory too
verdict "scale: at most 48 MiB a TiB" "$([ $status = 0 ] && awk -v m="${most:-99}" 'BEGIN { exit m > 6 }' || echo "$out")"
verdict "scale: every page is sent" "$([ "$pages" = 16777216 ] || echo "$out")"

for kind in anon memfd; do
	for threads in 1 8; do
		out=$(timeout 600 "$build/bench/faults" $threads $kind 16 2>&1) # proves every page
		verdict "faults: $threads threads, $kind" "$([ $? = 0 ] && [ "$(field pages <<<"$out")" = 4096 ] || echo "$out")"
	done
done

# The bare pull checks itself that each page has come.
for kind in anon memfd; do
	for channels in 1 3; do
		out=$(timeout 600 "$build/rdma-migrate" floor --memory 64M --memory-kind $kind --working-set 32M --dirty-rate 100000 \
			--pull 8000 --channels $channels --json - 2>&1)
		verdict "pull: $channels channels, $kind" "$([ $? = 0 ] && grep -qE '"pull":\{"pages":8000,"working_set":33554432,"dirty_rate":100000,"channels":'$channels',"total_ms":[0-9.]*[1-9][0-9.]*,"touched":[0-9]+,"faults":[0-9]+,"fault_p50_us":[0-9.]+,"fault_p99_us":[0-9.]+\}\}$' <<<"$out" || echo "$out")"
	done
done
out=$(timeout 600 "$build/rdma-migrate" floor --memory 32M --working-set 8M --dirty-rate 0 --pull 2048 2>&1) # every page, no toucher
verdict "pull: every page of the working set" "$([ $? = 0 ] && grep -qE '^  pull +2,048 of 2,048 pages in .* 0 faults' <<<"$out" || echo "$out")"

if command -v python3 >/dev/null; then
	rows='[<>]= [0-9.]+ +(met|MISSED by [0-9]+ %)$'
	out=$(timeout 1800 python3 "$src/bench/goals.py" --build "$build" --repeat 1 --only zero,bandwidth 2>&1)
	verdict "goals prints a row a goal" "$([ $? = 0 ] && [ "$(grep -cE "$rows" <<<"$out")" = 3 ] || echo "$out")"
	out=$(timeout 1800 python3 "$src/bench/goals.py" --build "$build" --repeat 1 --only fresh --guest 128M --qemu /nonexistent/qemu 2>&1)
	verdict "goals of a fresh target" "$([ $? = 0 ] && [ "$(grep -cE "$rows" <<<"$out")" = 8 ] &&
		grep -q '^fresh  *NOT MEASURED: /nonexistent/qemu does not run' <<<"$out" || echo "$out")"
	out=$(timeout 1800 python3 "$src/bench/goals.py" --build "$build" --repeat 1 --only pull --guest 256M 2>&1)
	verdict "goals of the bare pull" "$([ $? = 0 ] && { [ "$(grep -cE "$rows" <<<"$out")" = 12 ] ||
		grep -q '^pull  *NOT MEASURED: no run had a fault' <<<"$out"; } || echo "$out")"
	out=$(timeout 1800 python3 "$src/bench/goals.py" --build "$build" --only speed 2>&1)
	verdict "goals refuses a group that there is not" "$([ $? = 2 ] && grep -q 'only takes throughput' <<<"$out" || echo "$out")"
fi
exit $failed
