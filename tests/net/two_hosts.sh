#!/bin/bash
# SPDX-License-Identifier: MIT
# Two hosts: network namespaces with a shaped link between them, host names and clocks of their own. Real guests move over
# IPv4 and IPv6, at both frame sizes, at 1 and 10 Gb/s; both ends print one table.
set -u
program=$2/rdma-migrate
tmp=$(mktemp -d)
a=ferry-$$-a b=ferry-$$-b
failed=0
guest=(--memory 64M --working-set 16M --dirty-rate 20000)

finish()
{
	ip netns del "$a" 2>/dev/null
	ip netns del "$b" 2>/dev/null
	rm -rf "$tmp"
}
trap finish EXIT

skip()
{
	echo "[SKIP] two_hosts: $*"
	exit 77
}

for tool in ip tc unshare; do
	command -v $tool >/dev/null || skip "there is no $tool here (iproute2, util-linux)"
done
why=$(ip netns add "$a" 2>&1) || skip "no network namespace is permitted here: $why"
ip netns add "$b" || exit 1
why=$(ip link add va netns "$a" type veth peer name vb netns "$b" 2>&1) || skip "no veth pair: $why"
for end in a b; do
	n=$([ $end = a ] && echo 1 || echo 2)
	ip -n "${!end}" link set lo up
	ip -n "${!end}" link set v$end up
	ip -n "${!end}" addr add 10.99.0.$n/24 dev v$end
	ip -n "${!end}" addr add fd99::$n/64 dev v$end nodad
done
why=$(tc -n "$a" qdisc add dev va root tbf rate 1gbit burst 256k latency 50ms 2>&1) || skip "no tbf: $why"
tc -n "$b" qdisc add dev vb root tbf rate 1gbit burst 256k latency 50ms

# The target's clock is a day ahead, where a host may have a clock of its own.
clock=(--time --monotonic 86400 --boottime 86400 --fork)
unshare "${clock[@]}" true 2>/dev/null || {
	echo "[SKIP] two_hosts::clocks of their own: no time namespace is permitted here; both ends share one"
	clock=()
}

# shape MTU RATE BURST
shape()
{
	local end
	for end in a b; do
		ip -n "${!end}" link set v$end mtu "$1"
		tc -n "${!end}" qdisc replace dev v$end root tbf rate "$2" burst "$3" latency 50ms
	done
}

host() # NAMESPACE NAME ARGUMENTS...: the program there
{
	local ns=$1 name=$2 own=()
	shift 2
	[ "$name" = beta ] && own=("${clock[@]}")
	exec ip netns exec "$ns" timeout -s KILL 120 unshare --uts "${own[@]}" bash -c 'hostname "$0"; exec "$@"' "$name" "$program" "$@"
}

# migrate HOST [source options] [-- target options]: both ends; their codes in scode and tcode
migrate()
{
	local at=$1 uri source=() fifo=$tmp/listening
	shift
	while [ $# -gt 0 ] && [ "$1" != -- ]; do source+=("$1"); shift; done
	shift || true
	rm -f "$tmp"/s.* "$tmp"/t.* "$fifo"
	mkfifo "$fifo"
	(host "$b" beta target --listen "tcp:$at:7000" --json "$tmp/t.json" --quiet "$@") >"$tmp/t.out" 2>"$fifo" &
	target=$!
	exec 3<"$fifo"
	read -r _ _ uri <&3
	(host "$a" alpha source --to "$uri" "${guest[@]}" --json "$tmp/s.json" --quiet "${source[@]}") >"$tmp/s.out" 2>"$tmp/s.err" &
	source=$!
	[ -z "${meanwhile:-}" ] || $meanwhile
	wait $source
	scode=$?
	wait $target
	tcode=$?
	cat <&3 >"$tmp/t.err"
	exec 3<&-
}

# field NAME FILE: the first of that name
field()
{
	grep -oE "\"$1\":(\"[^\"]*\"|[^,}]*)" "$2" | head -n 1 | sed 's/^"[a-z_]*"://; s/"//g'
}

# judge NAME CODE PATTERN...: both ends' codes, one table at both, and patterns in both objects
judge()
{
	local name=$1 code=$2 why="" f pattern
	shift 2
	[ "$scode $tcode" = "$code" ] || why="exit codes $scode and $tcode, not $code;"
	cmp -s "$tmp/s.out" "$tmp/t.out" || why="$why the tables differ: $(diff "$tmp/s.out" "$tmp/t.out" | head -n 6);"
	for f in s t; do
		for pattern in '"both_ends":true' '"source_host":"alpha","target_host":"beta"' \
			'"pages_bad":0,"guest_errors":0,"outputs_seen":[1-9][0-9]*,"outputs_missing":0,"outputs_repeated":0' "$@"; do
			grep -qE -- "$pattern" "$tmp/$f.json" || why="$why $f has no $pattern;"
		done
	done
	verdict "$name" "$why"
}

verdict() # NAME WHY
{
	if [ -z "$2" ]; then
		echo "[PASS] two_hosts::$1"
	else
		echo "[FAIL] two_hosts::$1: $2"
		head -n 30 "$tmp"/s.out "$tmp"/s.err "$tmp"/t.out "$tmp"/t.err
		failed=1
	fi
}

moved='"outcome":"migrated","owner":"target"'
proved='"pages_checked":16384'
for rate in "1gbit 256k 125" "10gbit 4m 1250"; do
	for mtu in 1500 9000; do
		shape $mtu $rate
		for at in 10.99.0.2 '[fd99::2]'; do
			mode=$([ $mtu = 1500 ] && echo post-copy || echo stop-and-copy)
			migrate "$at" --mode $mode
			judge "$mode, ${at%%[.9]*}.. at ${rate%% *}, MTU $mtu" "0 0" "$moved" "$proved" "\"mode\":\"$mode\""
			# No slow machine can break this: the shaped link gives no more.
			verdict "no more than ${rate%% *}" "$(field throughput_mb_s "$tmp/s.json" |
				awk -v most="${rate##* }" '{ if ($1 <= 0 || $1 > most * 1.2) print $1 " MB/s" }')"
		done
	done
done

# Both recorded: either file has both ends, on one clock.
migrate 10.99.0.2 --mode post-copy --max-rounds 1 --record "$tmp/s.rec" -- --record "$tmp/t.rec"
judge "recorded at both ends" "0 0" "$moved" "$proved"
for f in s t; do
	verdict "the ${f}'s recording is of both, on one clock" "$(awk '
		/"type":"(sample|event)"/ {
			match($0, /"end":"[a-z]*"/); end = substr($0, RSTART + 7, RLENGTH - 8)
			match($0, /"t_us":[-0-9.]*/); t = substr($0, RSTART + 7, RLENGTH - 7) + 0
			n[end]++
			if (/"event":"phase"/) { match($0, /"phase":"[a-z-]*"/); at[end, substr($0, RSTART + 9, RLENGTH - 10)] = t }
			if (t > 120e6 || t < -120e6) far = t
		}
		END {
			if (n["source"] < 20 || n["target"] < 20) print "samples and events: " n["source"] ", " n["target"]
			if (far) print "a time of " far " us"
			if (at["target", "stop-and-copy"] < at["source", "stop-and-copy"] - 2000)
				print "the target had the state before the source stopped"
			if (at["source", "post-copy"] < at["target", "post-copy"] - 2000)
				print "the source knew that the VM ran before it did"
		}' "$tmp/$f.rec")"
done
verdict "a downtime of one clock" "$(for f in s t; do
	[ "$(field downtime_us "$tmp/$f.json")" -gt 0 ] && [ "$(field downtime_us "$tmp/$f.json")" -lt 60000000 ] ||
		echo "$f: $(field downtime_us "$tmp/$f.json") us"
done)"

migrate 10.99.0.2 --mode post-copy --max-rounds 1 -- --kill target@post-copy
judge "the target is killed in post-copy" "0 0" '"outcome":"fell-back","owner":"source"' "$proved" '"kill":"target@post-copy"'
migrate '[fd99::2]' --mode post-copy --max-rounds 1 --kill link@post-copy
judge "the link is cut in post-copy" "0 0" '"outcome":"fell-back","owner":"source"' "$proved" '"kill":"link@post-copy"'

migrate 10.99.0.2 -- --report-port 7555
judge "a port of one's own for the results" "0 0" "$moved" "$proved"
migrate 10.99.0.2 --report-port 0 -- --report-port 0
verdict "no results exchanged" "$([ "$scode $tcode $(field both_ends "$tmp/s.json") $(field both_ends "$tmp/t.json")" = "0 0 false false" ] ||
	cat "$tmp/s.err" "$tmp/t.err")$(cat "$tmp/s.err")"

# The network is gone for good while memory moves: each end has its own table, and says what it does not know.
gone()
{
	local n
	for ((n = 0; n < 600; n++)); do
		[ "$(ip netns exec "$a" cat /sys/class/net/va/statistics/tx_bytes)" -gt $((before + 10000000)) ] && break
		sleep 0.05
	done
	ip -n "$b" link set vb down
}
before=$(ip netns exec "$a" cat /sys/class/net/va/statistics/tx_bytes)
meanwhile=gone
migrate 10.99.0.2 --mode stop-and-copy --bandwidth 20M --timeout 300ms --reconnect 200ms -- --timeout 300ms --reconnect 200ms
verdict "the network goes away" "$(
	[ "$scode $tcode" = "2 2" ] || echo "exit codes $scode and $tcode, not 2 2;"
	grep -q '"outcome":"refused","owner":"source"' "$tmp/s.json" || echo "the source has $(field outcome "$tmp/s.json");"
	grep -q '"outcome":"discarded"' "$tmp/t.json" || echo "the target has $(field outcome "$tmp/t.json");"
	grep -q "target's results did not come (port [0-9]*: " "$tmp/s.err" || echo "the source does not say what it does not know;"
	grep -q "source's results did not come (port [0-9]*: " "$tmp/t.err" || echo "the target does not say what it does not know"
)"
exit $failed
