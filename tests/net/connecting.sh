#!/bin/bash
# SPDX-License-Identifier: MIT
# connecting.sh SOURCE_DIR BINARY_DIR: how the source finds the target over a bad cable. A way of 100 and 300 ms there and back
# with 16 channels, lost SYNs, names of which some addresses are dead: the first connection, and one that comes back.
set -u
. "$1/tests/lib/wire.sh"
program=${PROGRAM:-$2/rdma-migrate}
tmp=$(mktemp -d)
failed=0
guest=(--memory 32M --working-set 4M --dirty-rate 2000 --report-port 0 --quiet)

finish()
{
	wire_down
	rm -rf "$tmp"
}
trap finish EXIT

wire_up "$2" || { echo "[SKIP] connecting: $WIRE_WHY"; exit 77; }

verdict() # NAME WHY
{
	if [ -z "$2" ]; then
		echo "[PASS] connecting::$1"
	else
		echo "[FAIL] connecting::$1: $2"
		head -n 5 "$tmp"/s.err "$tmp"/t.err
		failed=1
	fi
}

# The names that the source can resolve, one a line: ADDRESS NAME
names()
{
	cat >"$tmp/hosts"
}
names </dev/null

# The source's host: its names are those of $tmp/hosts, and no resolver but that file is asked.
at_source()
{
	exec ip netns exec "$A" bash -c 'mount --bind "$0/hosts" /etc/hosts && mount --bind "$0/nsswitch" /etc/nsswitch.conf && exec "$@"' \
		"$tmp" "$@"
}
echo "hosts: files" >"$tmp/nsswitch"

target() # URI [options]
{
	local uri=$1

	shift
	rm -f "$tmp"/t.*
	mkfifo "$tmp/t.fifo"
	(exec ip netns exec "$B" timeout -s KILL 120 "$program" target --listen "$uri" --report-port 0 --json "$tmp/t.json" \
		--quiet "$@") >"$tmp/t.out" 2>"$tmp/t.fifo" &
	target=$!
	exec 3<"$tmp/t.fifo"
	read -r _ <&3 # it listens
	cat <&3 >"$tmp/t.err" &
	exec 3<&-
}

source() # URI [options]
{
	local uri=$1

	shift
	rm -f "$tmp"/s.*
	(at_source timeout -s KILL 120 "$program" source --to "$uri" "${guest[@]}" --json "$tmp/s.json" "$@") \
		>"$tmp/s.out" 2>"$tmp/s.err" &
	source=$!
}

# vanish PACKETS: as many at least must before the next verdict, or the cable was not as bad as it was to be
must=0
vanish()
{
	wire_dropped || return
	dropped=$WIRE must=$1
}

# The migration has gone well: both codes, and reconnects as often as the condition wants
migrated() # NAME [RECONNECTS-PATTERN]
{
	local s t why=""

	wait $source
	s=$?
	[ $s = 0 ] || kill $target 2>/dev/null
	wait $target
	t=$?
	[ "$s $t" = "0 0" ] || why="exit codes $s and $t, not 0 0;"
	grep -q '"outcome":"migrated","owner":"target"' "$tmp/s.json" 2>/dev/null ||
		why="$why $(grep -oE '"(outcome|detail)":"[^"]*"' "$tmp/s.json" 2>/dev/null | tr '\n' ' ')"
	grep -qE "\"reconnects\":${2:-0}[,}]" "$tmp/s.json" 2>/dev/null || why="$why $(grep -oE '"reconnects":[0-9]+' "$tmp/s.json" 2>/dev/null)"
	if [ $must != 0 ]; then
		wire_dropped || WIRE=$dropped
		[ $((WIRE - dropped)) -ge $must ] || why="$why $((WIRE - dropped)) packets vanished, $must were to;"
		must=0
	fi
	verdict "$1" "$why"
	wire clear || failed=1
}

# 16 channels over a long way: connections made one behind another would take 18 round trips
for rtt in 100 300; do
	wire delay $((rtt / 2)) || exit 1
	target tcp:0.0.0.0:7000
	source tcp:10.98.0.2:7000 --channels 16 --mode post-copy
	migrated "first, 16 channels at $rtt ms"

	# The network goes, and nobody is told, while memory moves
	wire delay $((rtt / 2)) || exit 1
	target tcp:0.0.0.0:7000 --timeout 2s
	wire_carried ab
	before=$WIRE
	source tcp:10.98.0.2:7000 --channels 16 --mode stop-and-copy --bandwidth 4M --downtime 20s --timeout 2s --reconnect 20s
	wire_await ab $((before + 4000000)) || failed=1
	wire cut 3500
	migrated "back, 16 channels at $rtt ms, the network was gone in pre-copy" "[1-9][0-9]*"

	# The link breaks while the VM runs at the target
	wire delay $((rtt / 2)) || exit 1
	target tcp:0.0.0.0:7000
	source tcp:10.98.0.2:7000 --channels 16 --mode post-copy --max-rounds 1 --kill link@post-copy:300 --reconnect 20s
	migrated "back, 16 channels at $rtt ms, the link was cut in post-copy" "[1-9][0-9]*"
done

# As many SYNs are lost as a link has connections, at first and again when it comes back
wire delay 10 || exit 1
vanish 36
wire_carried ab
before=$WIRE
wire syn 18
target tcp:0.0.0.0:7000
source tcp:10.98.0.2:7000 --channels 16 --mode post-copy --max-rounds 1 --kill link@post-copy:300 --reconnect 5s
wire_await ab $((before + 1000000)) || failed=1 # the first link is up
wire syn 18
migrated "18 SYNs are lost, at first and again" "[1-9][0-9]*"

# A tenth of all packets is lost until memory moves
wire delay 50 || exit 1
vanish 1
wire loss 10
wire_carried ab
before=$WIRE
target tcp:0.0.0.0:7000
source tcp:10.98.0.2:7000 --channels 16 --mode post-copy
wire_await ab $((before + 200000)) || failed=1
wire loss 0
migrated "16 channels at 100 ms, a tenth of the packets is lost"

# named NAME [dead ADDRESS]...: both connections of a migration, the second after a break in post-copy
named()
{
	local name=$1 dead

	shift
	vanish $# # but what stands behind an address that answers is not asked
	[ "$(order | head -n 1)" = "${1:-}" ] || [ $# -gt 1 ] || must=0
	for dead; do
		wire dead "$dead" || failed=1
	done
	wire delay 10 || failed=1
	target "$listen" --reconnect 5s
	source tcp:vm-host:7000 --mode post-copy --max-rounds 1 --kill link@post-copy:300 --reconnect 5s
	migrated "$name" "[1-9][0-9]*"
}

# What the name comes to at the source, in the order in which it is tried
order()
{
	(at_source getent ahosts vm-host) | awk '$2 == "STREAM" { print $1 }'
}

for n in 3 4 5; do
	ip -n "$B" addr add 10.98.0.$n/24 dev wire0
done
listen=tcp:0.0.0.0:7000
names <<<"fd98::2 vm-host
10.98.0.2 vm-host"
[ "$(order | head -n 1)" = fd98::2 ] || verdict "the IPv6 address comes first" "$(order)"
named "the AAAA is dead, the A is fine" fd98::2

listen='tcp:[::]:7000'
named "the A is dead, the AAAA is fine" 10.98.0.2

listen=tcp:0.0.0.0:7000
named "nobody listens at the AAAA"

# All but the last one that is tried are black holes
names <<<"fd98::2 vm-host
10.98.0.2 vm-host
10.98.0.3 vm-host
10.98.0.4 vm-host
10.98.0.5 vm-host"
mapfile -t addresses < <(order)
[ ${#addresses[@]} = 5 ] || verdict "five addresses" "${addresses[*]}"
named "four of five addresses are dead" "${addresses[@]:0:4}"

# One refuses, the next one is a black hole, the others are not there at all
listen=tcp:${addresses[4]}:7000
named "refused, dead, and then fine" "${addresses[@]:1:2}"

# A target that is not there yet, behind an address that is dead: it is asked again and again
names <<<"fd98::2 vm-host
10.98.0.2 vm-host"
vanish 1
wire dead fd98::2
wire_carried ab
before=$WIRE
source tcp:vm-host:7000 --mode post-copy
wire_await ab $((before + 2000)) || failed=1 # it has knocked
target tcp:0.0.0.0:7000
migrated "the target comes later, at the second address"

# Of a name that was found once nobody is asked again
listen=tcp:0.0.0.0:7000
wire_carried ab
before=$WIRE
target "$listen" --reconnect 5s
source tcp:vm-host:7000 --mode post-copy --max-rounds 1 --kill link@post-copy:300 --reconnect 5s
wire_await ab $((before + 8000000)) || failed=1
names </dev/null
migrated "the name is gone when the link comes back" "[1-9][0-9]*"
exit $failed
