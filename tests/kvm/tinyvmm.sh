#!/bin/bash
# SPDX-License-Identifier: MIT
# The example that docs/embedding.md walks through: as short as it says, and its VM moves without a gap.
set -u
src=$1 build=$2
tmp=$(mktemp -d)
trap 'jobs -p | xargs -r kill 2>/dev/null; wait; rm -rf "$tmp"' EXIT
trap '' PIPE # a VMM that has died says so itself
suite=tinyvmm
. "$src/tests/lib/verdict.sh"
. "$src/tests/lib/patience.sh"

# until CONDITION...: true in time
until_true()
{
	local deadline=$((SECONDS + 60 * PATIENCE))

	until "$@"; do
		[ $SECONDS -lt $deadline ] || return 1
		sleep 0.02
	done
}

lines() { [ "$(wc -l <"$1")" -ge "$2" ]; }
says() { grep -q -- "$2" "$1"; }
ended() { ! kill -0 "$1" 2>/dev/null; }
# ends PID WHO: by itself, with 0; else why is set
ends() { until_true ended "$1" && wait "$1" || why="$why $2 did not end, or not with 0;"; }
# one more each line, from FIRST on
counts() { awk -v n="$2" '$1 != n++ { exit 1 }' "$1"; }

added=$(diff "$src/docs/examples/tinyvmm-before.c" "$src/docs/examples/tinyvmm.c" | grep -c '^[<>]')
total=$(wc -l <"$src/docs/examples/tinyvmm.c")
why=""
[ "$added" -lt 100 ] && [ "$total" -lt 300 ] || why="$total lines, of which $added are not in both"
verdict "length: $total lines, $added of them changed" "$why"

# What docs/embedding.md quotes of it is there, line by line.
why=""
awk '/^```c tinyvmm$/ { on = 1; next } /^```$/ { on = 0 } on' "$src/docs/embedding.md" >"$tmp/quoted"
[ "$(wc -l <"$tmp/quoted")" -gt 15 ] || why="docs/embedding.md quotes $(wc -l <"$tmp/quoted") lines"
while IFS= read -r line; do
	grep -qxF -- "$line" "$src/docs/examples/tinyvmm.c" || why="$why \"$line\" is not in it;"
done <"$tmp/quoted"
verdict "docs/embedding.md quotes $(wc -l <"$tmp/quoted") lines of it" "$why"

cc=("${CC:-cc}" -std=gnu11 -D_GNU_SOURCE -O2 -Wall -Wextra -Werror ${SANITIZE:+-fsanitize=$SANITIZE} -I "$src/include" -pthread)
"${cc[@]}" -o "$tmp/before" "$src/docs/examples/tinyvmm-before.c" &&
	"${cc[@]}" -o "$tmp/tinyvmm" "$src/docs/examples/tinyvmm.c" -L "$build" -lferry -Wl,-rpath,"$build" ||
	{ echo "[FAIL] tinyvmm::build: the example does not compile"; exit 1; }

if ! [ -r /dev/kvm ] || ! [ -w /dev/kvm ]; then
	for name in before refused moved; do
		echo "[SKIP] tinyvmm::$name: no /dev/kvm that can be used"
	done
	[ $failed = 0 ] && exit 77
	exit 1
fi

# Before: it runs, pauses, runs on.
mkfifo "$tmp/commands"
"$tmp/before" <"$tmp/commands" >"$tmp/out" 2>"$tmp/err" &
exec 4>"$tmp/commands"
why=""
until_true lines "$tmp/out" 5 || why="it prints nothing: $(cat "$tmp/err")"
printf 'pause\nresume\n' >&4
until_true lines "$tmp/out" $(($(wc -l <"$tmp/out") + 5)) || why="it did not go on after pause and resume"
echo quit >&4
ends $! "it"
exec 4>&-
counts "$tmp/out" 1 || why="it does not count from 1"
verdict before "$why"

# After: refused once, where nobody listens; then moved. move_once: sets refused and why, tells whether pages were left at
# the switchover; what the guest writes between the last round and its stop is the scheduler's to say.
move_once()
{
	local source target

	rm -f "$tmp"/{source,target}*
	mkfifo "$tmp/source_in" "$tmp/target_in"
	"$tmp/tinyvmm" <"$tmp/source_in" >"$tmp/source" 2>"$tmp/source_err" &
	source=$!
	exec 4>"$tmp/source_in"
	refused="" why=""
	until_true lines "$tmp/source" 5 || refused="the source prints nothing: $(cat "$tmp/source_err")"
	echo 'migrate udp:nowhere' >&4
	until_true says "$tmp/source_err" "the VM is the source's" || refused="no word of a refusal"
	until_true lines "$tmp/source" $(($(wc -l <"$tmp/source") + 5)) || refused="it did not go on after a refusal"

	"$tmp/tinyvmm" tcp:127.0.0.1:0 <"$tmp/target_in" >"$tmp/target" 2>"$tmp/target_err" & # it waits 10 s for a source
	target=$!
	exec 5>"$tmp/target_in"
	until_true says "$tmp/target_err" 'tinyvmm: at tcp:' || why="the target does not listen: $(cat "$tmp/target_err")"
	echo "migrate $(sed -n 's/^tinyvmm: at //p' "$tmp/target_err")" >&4
	ends $source "the source"
	until_true lines "$tmp/target" 50 || why="the target prints nothing"
	echo quit >&5
	ends $target "the target"
	exec 4>&- 5>&-
	cat "$tmp/source" "$tmp/target" >"$tmp/both"
	counts "$tmp/both" 1 || why="$why what was printed has a gap or a repeat"
	says "$tmp/source_err" 'migrated: .* pages sent, [1-9][0-9]* of them after the switchover'
}

for ((try = 1; try <= 20; try++)); do
	! move_once && [ -z "$refused$why" ] || break
done
verdict refused "$refused"
[ $try -le 20 ] || why="no page was left at the switchover, in 20 moves"
[ -z "$why" ] || tail "$tmp"/*_err
verdict "moved after $(wc -l <"$tmp/source") outputs" "$why"
exit $failed
