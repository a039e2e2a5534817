#!/bin/bash
# SPDX-License-Identifier: MIT
# run --record, plot and sweep: the recording says what the result says, and each picture is one.
set -u
program=$2/rdma-migrate
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
failed=0
guest=(--memory 64M --working-set 16M --floor off --quiet)

# check NAME CONDITION...: the condition is a command
check()
{
	local name=$1
	shift
	if "$@" >"$tmp/out" 2>&1; then
		echo "[PASS] pictures::$name"
	else
		echo "[FAIL] pictures::$name: $*"
		head -c 2000 "$tmp/out"
		failed=1
	fi
}

lines() # TYPE END: so many
{
	grep -c "^{\"type\":\"$1\",\"end\":\"$2\"" "$rec"
}

if ! command -v gnuplot >/dev/null; then
	echo "[SKIP] pictures: gnuplot is not installed (gnuplot-nox)"
	exit 77
fi
rec=$tmp/post.jsonl
check record timeout 120 "$program" run "${guest[@]}" --mode post-copy --max-rounds 1 --record "$rec"
check "samples of both ends" test "$(lines sample source)" -ge 20 -a "$(lines sample target)" -ge 20
check "phases of both ends" test "$(lines event source)" -ge 8 -a "$(lines event target)" -ge 8
# The last sample of the target may be of before the last fault, the histogram is not.
check "the histogram has every fault" awk '
	/"type":"faults"/ { s = $0; sub(/.*"buckets_ns":\[\[/, "", s); n = split(s, b, /\],\[/)
		for (i = 1; i <= n; i++) { split(b[i], v, ","); sum += v[3] } }
	/"type":"result"/ { match($0, /"faults":[0-9]+/); want = substr($0, RSTART + 9, RLENGTH - 9) }
	END { print sum, want; exit !(want > 0 && sum == want) }' "$rec"
check "the guest's stamps never go back" awk '
	/"type":"sample"/ { e = /"end":"source"/; match($0, /"stamps":[0-9]+/); v = substr($0, RSTART + 9, RLENGTH - 9) + 0
		if (v < last[e]) { print; bad = 1 } last[e] = v }
	END { exit bad || last[0] <= last[1] || last[1] == 0 }' "$rec"
check "what sampling costs is told" grep -qE '"type":"sampler","end":"target","samples":[1-9][0-9]*,"period_us":1000,"cpu_us":[1-9]' "$rec"

check "record with a kill" timeout 120 "$program" run "${guest[@]}" --mode post-copy --max-rounds 1 --kill target@post-copy \
	--sample 5ms --record "$tmp/kill.jsonl"
check "the killed end's samples are there" grep -q '"type":"sample","end":"target"' "$tmp/kill.jsonl"

check png timeout 120 "$program" plot "$rec" -o "$tmp/one.png"
check "png is a picture" test "$(head -c 8 "$tmp/one.png" | od -An -tx1 | tr -d ' \n')" = 89504e470d0a1a0a
check svg timeout 120 "$program" plot "$rec" --out="$tmp/one.svg"
check "svg has what was asked for" grep -q 'post-copy over tcp: migrated, owner target' "$tmp/one.svg"
check "svg names the items of the downtime" grep -q '>load<\|load' "$tmp/one.svg"
check comparison timeout 120 "$program" plot "$rec" "$tmp/kill.jsonl" -o "$tmp/two.svg"
check "comparison has both" grep -q 'kill target@post-copy' "$tmp/two.svg"
check html timeout 120 "$program" plot "$rec" "$tmp/kill.jsonl" -o "$tmp/two.html"
check "html holds three pictures" test "$(grep -c '<svg' "$tmp/two.html")" = 3
check "html fetches nothing" test "$(grep -cE '(src|href)="?(https?:)?//|@import' "$tmp/two.html")" = 0
check "html has the results" grep -q 'pages_checked' "$tmp/two.html"

# A histogram from 0, and numbers as large as they may be: gnuplot ends, too.
recording() # T_US NUMBER: one run that lasts until T_US
{
	cat <<-EOF
		{"type":"run","format":1}
		{"type":"event","end":"source","t_us":0,"event":"phase","phase":"pre-copy"}
		{"type":"event","end":"source","t_us":1000,"event":"phase","phase":"stop-and-copy"}
		{"type":"event","end":"source","t_us":$1,"event":"phase","phase":"done"}
		{"type":"sample","end":"source","t_us":0,"stamps":1,"bytes":1,"remaining":$2,"running":true}
		{"type":"sample","end":"source","t_us":$1,"stamps":$2,"bytes":$2,"remaining":1,"running":true}
		{"type":"faults","end":"target","buckets_ns":[[0,1,3],[1,2,1],[40000,42000,2]]}
		{"type":"result","result":{"faults":$2,"fault_max_us":$2,"downtime_us":$2,"downtime":{"save_us":$2},"dirty_rate":1}}
	EOF
}
recording 20000 6 >"$tmp/zero.jsonl"
recording 1e13 4e18 >"$tmp/large.jsonl"
recording 20000 1e-9 >"$tmp/tiny.jsonl"
recording 1e18 6 >"$tmp/absurd.jsonl"
for kind in svg png html; do
	check "a fault of no time, $kind" timeout 300 "$program" plot "$tmp/zero.jsonl" -o "$tmp/zero.$kind"
	check "the largest numbers, $kind" timeout 300 "$program" plot "$tmp/large.jsonl" -o "$tmp/large.$kind"
	check "the smallest numbers, $kind" timeout 300 "$program" plot "$tmp/tiny.jsonl" -o "$tmp/tiny.$kind"
	check "the smallest beside others, $kind" timeout 300 "$program" plot "$tmp/tiny.jsonl" "$tmp/zero.jsonl" -o "$tmp/both.$kind"
	check "the largest beside others, $kind" timeout 300 "$program" plot "$tmp/large.jsonl" "$rec" -o "$tmp/both.$kind"
done
check sweep timeout 300 "$program" sweep "${guest[@]/16M/8M,16M}" --dirty-rate 20000 --mode post-copy,stop-and-copy \
	--run-on 20ms -o "$tmp/sweep.html" --json "$tmp/sweep.json"
check "sweep ran every cell" test "$(sed 's/.*"working_set":\([0-9]*\),.*"mode":"\([a-z-]*\)".*/\1 \2/' "$tmp/sweep.json" |
	sort | tr '\n' ' ')" = "16777216 post-copy 16777216 stop-and-copy 8388608 post-copy 8388608 stop-and-copy "
check "sweep ends in a page with every cell" test "$(grep -c '<svg' "$tmp/sweep.html")" = 5

# refused PATTERN ARGUMENTS...: exit code 1 and that sentence; nothing is written
refused()
{
	local pattern=$1 out
	shift
	out=$(timeout 300 "$program" "$@" 2>&1)
	check "refused: $*" test $? = 1 -a -n "$(grep -E -- "$pattern" <<<"$out")"
}

refused 'plot needs the name of a file' plot -o "$tmp/x.png"
refused 'plot needs -o FILE' plot "$rec"
refused '--out takes a file name that ends in .svg, .png or .html, not "x.gif"' plot "$rec" -o x.gif
refused 'No such file' plot "$tmp/none" -o "$tmp/x.png"
refused ':1: .*takes what --record wrote' plot "$1/README.md" -o "$tmp/x.png"
refused ':4: t_us is not a number from' plot "$tmp/absurd.jsonl" -o "$tmp/x.png"
refused ':1: a line of more than the 1048576 bytes' plot /dev/zero -o "$tmp/x.png"
refused '--sample takes a duration from 100us to 1s' run --sample 10us
refused '--dirty-rate takes pages per second' sweep --dirty-rate 100,fast
refused '--mode takes auto' sweep --mode post-copy,,auto
refused 'working-set takes at most' sweep --memory 64M --working-set 16M,64M
check "what was refused left no file" test ! -e "$tmp/x.png"
out=$(timeout 120 env PATH=/nonexistent "$program" plot "$rec" -o "$tmp/x.png" 2>&1)
check "without gnuplot the sentence says what to install" test $? = 5 -a -n "$(grep 'apt-get install gnuplot-nox' <<<"$out")"
exit $failed
