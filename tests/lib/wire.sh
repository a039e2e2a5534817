# SPDX-License-Identifier: MIT
# Two network namespaces joined by tests/net/wire.c, for the scripts of tests/net. Sourced by bash.
#	wire_up BINARY_DIR NAME		namespaces $A (10.98.0.1, fd98::1) and $B (10.98.0.2, fd98::2); WIRE_WHY when it cannot
#	wire COMMAND...			a command of the wire's, its answer in $WIRE; one that it does not obey sets failed=1
#	wire_carried ab|ba		bytes that have crossed in that direction
#	wire_dropped			packets that have vanished in both
#	wire_await ab|ba BYTES		until so many have; fails after 60 s
#	wire_down			takes it all away; for a trap at EXIT
# What runs in the background or in a subshell cannot speak to the wire: bash gives the descriptors to the main shell alone.

wire_up()
{
	local end n answer

	A=ferry-$$-a B=ferry-$$-b
	command -v ip >/dev/null || { WIRE_WHY="there is no ip here (iproute2)"; return 1; }
	[ -c /dev/net/tun ] || { WIRE_WHY="there is no /dev/net/tun here"; return 1; }
	WIRE_WHY=$(ip netns add "$A" 2>&1 && ip netns add "$B" 2>&1) ||
		{ WIRE_WHY="no network namespace is permitted here: $WIRE_WHY"; return 1; }
	coproc WIRE_IO { exec "$1/tests/net/wire" "$A" "$B" 2>&1; }
	WIRE_PID=$!
	read -r answer <&"${WIRE_IO[0]}"
	[ "$answer" = up ] || { WIRE_WHY=$answer; return 1; }
	for end in A B; do
		n=$([ $end = A ] && echo 1 || echo 2)
		ip -n "${!end}" link set lo up
		ip -n "${!end}" link set wire0 up txqueuelen 2000
		ip -n "${!end}" addr add 10.98.0.$n/24 dev wire0
		ip -n "${!end}" addr add fd98::$n/64 dev wire0 nodad
	done
}

wire()
{
	echo "$*" >&"${WIRE_IO[1]}" && read -r WIRE <&"${WIRE_IO[0]}" || WIRE="error: the wire is gone"
	case $WIRE in
	error*)
		echo "[FAIL] wire $*: $WIRE"
		failed=1 # the script's: a cable that was not made bad proves nothing
		return 1
		;;
	esac
}

wire_carried()
{
	wire count || return
	# shellcheck disable=SC2086
	set -- "$1" $WIRE
	[ "$1" = ab ] && WIRE=$4 || WIRE=$8
}

wire_dropped()
{
	wire count || return
	# shellcheck disable=SC2086
	set -- $WIRE
	WIRE=$(($4 + $8))
}

wire_await()
{
	local deadline=$((SECONDS + 60))

	while wire_carried "$1" && [ "$WIRE" -lt "$2" ]; do
		[ $SECONDS -lt $deadline ] || return 1
		sleep 0.02
	done
}

wire_down()
{
	[ -z "${WIRE_PID:-}" ] || { kill "$WIRE_PID"; wait "$WIRE_PID"; } 2>/dev/null
	ip netns del "$A" 2>/dev/null
	ip netns del "$B" 2>/dev/null
}
