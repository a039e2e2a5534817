#!/bin/bash
# SPDX-License-Identifier: MIT
# What cannot be written is said, with why and a cure, and the exit code is not 0; the migration ends as it would have.
set -u
program=$2/rdma-migrate
build=$2
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
failed=0
run=(run --memory 64M --working-set 16M --dirty-rate 20000 --floor off --quiet --mode stop-and-copy)

verdict() # NAME WHY
{
	if [ -z "$2" ]; then
		echo "[PASS] cli_out::$1"
	else
		echo "[FAIL] cli_out::$1: $2"
		failed=1
	fi
}

# said NAME CODE WANT_CODE PATTERN: the code, and one line of $tmp/err that matches; no pattern: nothing was said
said()
{
	local why=""
	[ "$2" = "$3" ] || why="exit code $2, not $3;"
	if [ -n "$4" ]; then
		[ "$(grep -cE -- "^rdma-migrate: $4" "$tmp/err")" = 1 ] || why="$why no one line says \"$4\": $(cat "$tmp/err")"
	elif [ -s "$tmp/err" ]; then
		why="$why it says: $(cat "$tmp/err")"
	fi
	verdict "$1" "$why"
}

# What the doctor finds missing on this host counts more for its exit code than an output that was lost.
"$program" doctor >/dev/null 2>&1
found=$?
want() # ARGS...
{
	[ "$1" = doctor ] && [ $found != 0 ] && echo $found || echo 6
}

full='No space left on device.*; free space, or name another place\.$'

# stdout that has no room, and that is not there
for args in help --help version "help run" doctor "doctor --json -" "floor --memory 32M" "floor --memory 32M --json -"; do
	timeout 120 "$program" $args >/dev/full 2>"$tmp/err"
	said "$args >/dev/full" $? "$(want $args)" "standard output was not written: $full"
	timeout 120 "$program" $args >&- 2>"$tmp/err"
	said "$args >&-" $? "$(want $args)" "standard output was not written: Bad file descriptor"
done
for where in "" "--json -" "--record -"; do
	timeout 120 "$program" "${run[@]}" $where >/dev/full 2>"$tmp/err"
	said "run $where >/dev/full" $? 6 "standard output was not written: $full"
done
timeout 120 "$program" "${run[@]}" --json "$tmp/whole" >&- 2>"$tmp/err"
said "run >&-" $? 6 "standard output was not written: Bad file descriptor"
verdict "the JSON beside a closed stdout is whole" "$(grep -q '^{.*"outcome":"migrated".*"exit_code":0}$' "$tmp/whole" || cat "$tmp/whole")"
timeout 120 "$program" "${run[@]}" --json "$tmp/nothing_else" <&- >&- 2>&-
verdict "no file of ours takes the place of a closed descriptor" "$([ $? = 6 ] && grep -q '^{' "$tmp/nothing_else" && [ "$(wc -l <"$tmp/nothing_else")" = 1 ] || cat "$tmp/nothing_else")"

# Files
for option in json record; do
	timeout 120 "$program" "${run[@]}" --$option /dev/full --json "$tmp/migrated" >"$tmp/table" 2>"$tmp/err"
	code=$?
	[ $option = record ] || timeout 120 "$program" "${run[@]}" --json /dev/full >"$tmp/table" 2>"$tmp/err" || code=$?
	said "run --$option /dev/full" $code 6 "--$option /dev/full was not written: $full"
	verdict "run --$option /dev/full migrates" "$(grep -q 'migrated, owner target' "$tmp/table" || cat "$tmp/table")"
done
timeout 120 "$program" "${run[@]}" --repeat 5 --json /dev/full >"$tmp/table" 2>"$tmp/err"
said "run --repeat --json /dev/full" $? 6 "--json /dev/full was not written: $full"
verdict "no more runs are made for an output that is full" "$([ "$(grep -c 'run . of 5' "$tmp/table")" = 1 ] || cat "$tmp/table")"
for args in "doctor" "floor --memory 32M"; do
	timeout 120 "$program" $args --json /dev/full >/dev/null 2>"$tmp/err"
	said "$args --json /dev/full" $? "$(want $args)" "--json /dev/full was not written: $full"
done
timeout 120 "$program" "${run[@]}" --kill target@post-copy --json /dev/full >/dev/null 2>"$tmp/err"
said "what the run came to counts more" $? 2 "--json /dev/full was not written: $full"

# A reader that has had enough
timeout 120 "$program" "${run[@]}" --json "$tmp/piped" 2>"$tmp/err" | true
said "run | true" ${PIPESTATUS[0]} 0 ''
verdict "run | true has its JSON" "$(grep -q '"outcome":"migrated"' "$tmp/piped" || echo "no object")"
timeout 120 "$program" "${run[@]}" --repeat 100000 --json - 2>"$tmp/err" | head -n 2 >"$tmp/two"
said "run --repeat 100000 | head -n 2" ${PIPESTATUS[0]} 0 ''
verdict "head had whole objects" "$([ "$(grep -c '"exit_code":0}$' "$tmp/two")" = 2 ] || cat "$tmp/two")"

# A limit on the size of files: the object that was there stays, no half one follows it
cp "$tmp/whole" "$tmp/limited"
(ulimit -f $(($(stat -c %s "$tmp/limited") / 1024 + 1)); exec timeout 120 "$program" "${run[@]}" --json "$tmp/limited" >/dev/null 2>"$tmp/err")
said "run --json beyond ulimit -f" $? 6 '--json .*/limited was not written: File too large, .*raise the limit \(ulimit -f\)'
verdict "no half object stays" "$(cmp "$tmp/whole" "$tmp/limited" 2>&1)"

# The small programs
for args in "zero 1" "scale 1" "faults 1 anon 1" "replay $1/bench/micro/scenarios/idle.json" "replay --help"; do
	out=$(timeout 300 "$build/bench/"$args 2>&1 >/dev/full)
	verdict "bench/${args%% *} >/dev/full" "$([ $? = 0 ] || ! grep -q 'standard output was not written: No space left' <<<"$out" && echo "said: $out")"
done

# A tmpfs that is full: pictures, recordings
if ! unshare -m true 2>/dev/null; then
	echo "[SKIP] cli_out::full file systems: no mount namespace is permitted here"
	exit $failed
fi
timeout 120 "$program" "${run[@]}" --record "$tmp/rec" >/dev/null 2>&1
mkdir "$tmp/small"
in_small() # SIZE COMMAND: with $tmp/small as a tmpfs
{
	unshare -m bash -c 'mount -t tmpfs -o size=$0 none "$1" && cd "$1" && eval "$2"' "$1" "$tmp/small" "$2" 2>"$tmp/err"
}
export program tmp
in_small 64k 'timeout 120 $program '"${run[*]}"' --sample 100us --record x >"$tmp/table"; code=$?; ls >"$tmp/left"; exit $code'
said "run --record on a full file system" $? 6 "--record x was not written: No space left on device, and nothing of it is left; free space"
verdict "no half recording is left" "$(cat "$tmp/left")"
verdict "the VM is migrated all the same" "$(grep -q 'migrated, owner target' "$tmp/table" || cat "$tmp/table")"
if ! command -v gnuplot >/dev/null; then
	echo "[SKIP] cli_out::pictures: gnuplot is not installed (gnuplot-nox)"
	exit $failed
fi
for kind in html svg png; do
	in_small 16k 'echo old >x.'$kind'; head -c 10k /dev/zero >fill; timeout 120 $program plot "$tmp/rec" -o x.'$kind'; code=$?; cat x.'$kind' >"$tmp/left"; ls | grep -vx "fill\|x.'$kind'" >>"$tmp/left"; exit $code'
	said "plot -o x.$kind on a full file system" $? 6 "--out x.$kind was not written: No space left on device, the file is as it was; free space"
	verdict "the old x.$kind is there, and no piece of the new one" "$([ "$(cat "$tmp/left")" = old ] || echo "there is: $(head -c 300 "$tmp/left")")"
	ln -sf /dev/full "$tmp/device.$kind"
	timeout 120 "$program" plot "$tmp/rec" -o "$tmp/device.$kind" 2>"$tmp/err"
	said "plot -o a device without room, $kind" $? 6 "--out .*/device.$kind was not written: $full"
	verdict "the link to it is there, $kind" "$([ -L "$tmp/device.$kind" ] || echo gone)"
done
# A file that can be written, in a directory that cannot: it is written in place, and not before there is something to write
mkdir "$tmp/room"
in_place() # COMMAND: $tmp/small is read-only but for x.html, which lies elsewhere
{
	in_small 64k 'mount -t tmpfs none $tmp/room && echo old >$tmp/room/x.html && touch x.html && mount -o remount,ro $tmp/small &&
		mount --bind $tmp/room/x.html x.html || exit 99; '"$1"'; code=$?; cp $tmp/room/x.html "$tmp/left"; exit $code'
}
echo nothing >"$tmp/no_recording"
in_place 'timeout 120 $program plot $tmp/no_recording -o x.html'
said "plot of no recording, in place" $? 1 '.*no_recording'
verdict "the old page stays while there is no new one" "$([ "$(cat "$tmp/left")" = old ] || echo "there is: $(head -c 300 "$tmp/left")")"
in_place 'timeout 120 $program plot $tmp/rec -o x.html'
said "plot in place" $? 0 ''
verdict "the new page is in place of the old one" "$(tail -n 1 "$tmp/left" | grep -q '</html>' && ! grep -q '^old' "$tmp/left" || echo "there is: $(head -c 300 "$tmp/left")")"
timeout 120 "$program" plot "$tmp/rec" -o "$tmp/none/x.svg" 2>"$tmp/err"
said "plot -o into no directory" $? 1 '--out .*/none/x.svg: No such file or directory; name a file that can be written\.$'
echo old >"$tmp/far.svg"
ln -s far.svg "$tmp/near.svg"
timeout 120 "$program" plot "$tmp/rec" -o "$tmp/near.svg" 2>"$tmp/err"
said "plot -o a link" $? 0 ''
verdict "the picture is where the link leads" "$([ -L "$tmp/near.svg" ] && grep -q '<svg' "$tmp/far.svg" || ls -l "$tmp")"
timeout 300 "$program" sweep "${run[@]:1:6}" --floor off --quiet --mode stop-and-copy --dirty-rate 0,20000 --json /dev/full -o "$tmp/sweep.html" >"$tmp/table" 2>"$tmp/err"
said "sweep --json /dev/full" $? 6 "--json /dev/full was not written: $full"
verdict "a sweep ends at an output that is full" "$([ "$(grep -c ' of \|[0-9]/2' "$tmp/table")" = 1 ] || cat "$tmp/table")"
timeout 300 "$program" sweep "${run[@]:1:6}" --floor off --quiet --mode stop-and-copy --dirty-rate 0 -o "$tmp/none/sweep.html" >"$tmp/table" 2>"$tmp/err"
said "a sweep whose page has no place does not begin" $? 1 '--out .*/none/sweep.html: No such file'
verdict "and makes no run" "$(cat "$tmp/table")"
timeout 300 "$program" sweep "${run[@]:1:6}" --floor off --quiet --mode stop-and-copy --dirty-rate 0 -o "$tmp/sweep.html" >/dev/full 2>"$tmp/err"
said "sweep >/dev/full" $? 6 "standard output was not written: $full"
verdict "its page is made all the same" "$(grep -q '</html>' "$tmp/sweep.html" || echo none)"
rm "$tmp/sweep.html"
timeout 300 "$program" sweep "${run[@]:1:6}" --floor off --quiet --mode stop-and-copy --dirty-rate 0,10000,20000 --json - -o "$tmp/sweep.html" 2>"$tmp/err" | head -n 1 >"$tmp/one"
said "sweep --json - | head -n 1" ${PIPESTATUS[0]} 0 ''
verdict "head had a whole object of the sweep" "$(grep -q '"exit_code":0}$' "$tmp/one" || echo "it had: $(cat "$tmp/one")")"
verdict "the page is made though nobody reads on" "$(grep -q '</html>' "$tmp/sweep.html" || echo none)"
exit $failed
