#!/bin/bash
# SPDX-License-Identifier: MIT
# What docs/observability.md promises: the program uses public symbols alone, the probes are there, the events are listed.
set -u
src=$1 build=$2
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
suite=observe
. "$src/tests/lib/verdict.sh"
doc=$src/docs/observability.md

# rdma-migrate: the library's exported symbols, by their version, and no header of its inside
nm -D --undefined-only "$build/rdma-migrate" | awk '{ print $2 }' | grep '^ferry_' >"$tmp/used"
why=""
[ "$(wc -l <"$tmp/used")" -ge 10 ] || why="it uses only $(wc -l <"$tmp/used") functions of the library;"
while read -r symbol; do
	grep -q "^	${symbol%@*};\$" "$src/runtime/ferry.map" || why="$why $symbol is not in ferry.map;"
	[[ $symbol == *@FERRY_1.* || $symbol == ferry_drill@FERRY_PRIVATE ]] || why="$why $symbol has no version;"
done <"$tmp/used"
readelf -d "$build/rdma-migrate" | grep -q 'NEEDED.*\[libferry\.so\.1\]' || why="$why it does not need libferry.so.1;"
# Two headers that are nothing but constants and inline functions are shared with the library.
for header in $(cd "$src/bench" && grep -hoE '^#include "[^"]+"' cli/*.[ch] floor/*.[ch] picture/*.[ch] vmm/*.[chS] |
	sed 's/.*"\(.*\)"/\1/' | sort -u); do
	case $header in
	bench/* | ferry/* | transport/tcp/congestion.h | runtime/arbiter/json_bound.h) ;;
	*/*) why="$why it includes \"$header\";" ;;
	esac
done
verdict "rdma-migrate uses $(wc -l <"$tmp/used") public functions and nothing else" "$why"

# Probes: those of the table, with as many arguments
readelf -n "$build/libferry.so" >"$tmp/notes"
if grep -q stapsdt "$tmp/notes"; then
	awk '/Name:/ { name = $2 } /Arguments:/ { print name, NF - 1 }' "$tmp/notes" | sort -u >"$tmp/have"
	awk -F'|' '/^\| probe / { on = 1; next } on && /^\| `/ { gsub(/[` ]/, "", $2); gsub(/\([^)]*\)/, "", $3); print $2, split($3, a, ",") }' "$doc" |
		sort >"$tmp/promised"
	verdict "$(wc -l <"$tmp/have") probes" "$(diff "$tmp/promised" "$tmp/have" | tr '\n' ' ')"
	if command -v bpftrace >/dev/null; then
		grep -oE "bpftrace -e '.*'" "$doc" | sed "s|LIB|$build/libferry.so|; s/^bpftrace -e '//; s/'\$//" >"$tmp/liners"
		why=""
		while read -r liner; do
			# Compiled only: attaching would trace every process of the machine.
			bpftrace -d -e "$liner" >"$tmp/out" 2>&1 || why="$why $(tail -n 1 "$tmp/out")"
		done <"$tmp/liners"
		verdict "$(wc -l <"$tmp/liners") one-liners of bpftrace" "$why"
	else
		echo "[SKIP] observe::one-liners: there is no bpftrace here"
	fi
else
	echo "[SKIP] observe::probes: this build has none (no sys/sdt.h, or FERRY_USDT=OFF)"
fi

# Log lines: the events in the sources are those of the table (their form is checked by every test under e2e)
cat "$src"/runtime/*.c "$src"/runtime/*/*.c | tr -d '\n\t' | grep -oE 'session_log\(s, [^;]*;' | grep -oE '"[a-z-]+( [a-z_]+=|")' |
	sed 's/^"\([a-z-]*\).*/\1/' | sort -u >"$tmp/logged"
awk -F'|' '/^\| level / { on = 1; next } /^$/ { on = 0 } on && $3 ~ /`/ { gsub(/[` ]/, "", $3); print $3 }' "$doc" |
	sort -u >"$tmp/listed"
verdict "$(wc -l <"$tmp/logged") events in the log" "$(diff "$tmp/listed" "$tmp/logged" | tr '\n' ' ')"
exit $failed
