# SPDX-License-Identifier: MIT
# Two guests, and what befalls two hosts in post-copy: the link cut for good and to heal, one of them killed, one
# frozen. Before the commit the VM goes on at the source (docs/failure-model.md). Sourced by tests/rdma/run; each
# test_NAME is a test of its own, in this order.
. "$TOP/tests/rdma/pair.sh"

PAGES=$((64 << 8))
FIRST_ROUND=70000000 # bytes on the wire: more than that is post-copy
TIMEOUT=2s RECONNECT=2s
DEADLINE=40 # seconds; ten times what the two allow

# strike ID RECONNECT: a migration that is in the middle of post-copy. The residue crosses slowly, at what the pulling
# end pays for: seconds to strike in.
strike()
{
	local id=$1 options="--timeout $TIMEOUT --reconnect $2 --report-port 0 --quiet" tx="/sys/class/net/eth0/statistics/tx_bytes"

	revive
	run_target "$id" "?bandwidth=3M" "$options" || return
	guest_do a "$id.tx" 30 "cat $tx" || return
	run_source "$id" "$options" --memory 64M --working-set 40M --dirty-rate 100000 --mode post-copy --max-rounds 1 || return
	guest_do a "$id.moving" 60 "until [ \$(cat $tx) -gt $((OUTPUT + FIRST_ROUND)) ]; do
		[ ! -s /results/$id.s.json ] || exit 1
		sleep 0.05
	done" || {
		fail "$id" "it did not come to post-copy"
		return
	}
	STRUCK=${EPOCHREALTIME/[.,]/}
}

# What an earlier test has killed boots again.
revive()
{
	local name

	for name in "${!KILLED[@]}"; do
		hosts_start 1024 "$name" && unset "KILLED[$name]"
	done
}

# link NAME... cut|whole: nothing comes in, silently
link()
{
	local name verb=${*: -1} command

	command='tc qdisc del dev eth0 ingress'
	[ "$verb" = whole ] || command='for m in sch_ingress act_gact cls_matchall; do
			grep -q "^$m " /proc/modules || /run/busybox insmod /run/modules/$m.ko || exit
		done
		tc qdisc add dev eth0 ingress && tc filter add dev eth0 ingress matchall action drop'
	for name in "${@:1:$#-1}"; do
		guest_do "$name" "link.$name" 30 "$command" || return
	done
}

# ended ID END STATUS PATTERN...: that end within the deadline, with that exit status, and what its JSON must have
ended()
{
	local id=$1 end=$2 want=$3 guest=a pattern now
	shift 3

	[ "$end" = s ] || guest=b
	guest_wait $guest "$id.$end" $DEADLINE
	now=${EPOCHREALTIME/[.,]/}
	echo "$guest: ended $(((now - STRUCK) / 1000)) ms after the strike"
	cat "$RESULTS/$id.$end.out"
	[ "${STATUS[$guest.$id.$end]}" = "$want" ] || { fail "$id" "end $end: ${STATUS[$guest.$id.$end]}, not $want"; return; }
	for pattern in "$@"; do
		grep -qE -- "$pattern" "$RESULTS/$id.$end.json" || {
			fail "$id" "end $end has no $pattern: $(cat "$RESULTS/$id.$end.json")"
			return
		}
	done
}

# The source has the VM again, whole, and nobody outside has seen another.
fell_back()
{
	ended "$1" s 2 '"outcome":"fell-back","owner":"source"' '"pages_residue":[1-9]' &&
		proved "$1" "$RESULTS/$1.s.json" $PAGES
}

# The target gave it up, and nothing that it said came out.
discarded()
{
	ended "$1" t 2 '"outcome":"discarded"' '"outputs_seen":0,'
}

test_link_cut_heals()
{
	strike link_cut_heals 60s && link a b cut || return
	sleep 5 # the drill itself: longer than either end waits before it takes the link for lost
	link a b whole || return
	both_end link_cut_heals $DEADLINE || { fail link_cut_heals "an end failed"; return; }
	proved link_cut_heals "$RESULTS/link_cut_heals.t.json" $PAGES '"outcome":"migrated","owner":"target"' \
		'"reconnects":[1-9]' && pass link_cut_heals
}

# The source's host cannot send the first packets of what is read from it, a few times for a moment: soft-RoCE then gives
# up the queue pair, and says of the READ that it gave it up on that it went well (transport/rdma/io.c).
test_read_given_up()
{
	strike read_given_up 60s || return
	guest_do a read_given_up.tc 60 'for m in sch_ingress act_gact cls_u32; do
			grep -q "^$m " /proc/modules || /run/busybox insmod /run/modules/$m.ko || exit
		done
		tc qdisc add dev eth0 clsact || exit
		for i in 1 2 3; do
			tc filter add dev eth0 egress protocol ip u32 match u8 0x0d 0xff at 28 action drop || exit
			sleep 0.05
			tc filter del dev eth0 egress || exit
			sleep 0.3
		done
		tc qdisc del dev eth0 clsact' || return
	both_end read_given_up $DEADLINE || { fail read_given_up "an end failed"; return; }
	proved read_given_up "$RESULTS/read_given_up.t.json" $PAGES '"outcome":"migrated","owner":"target"' \
		'"reconnects":[1-9]' && pass read_given_up
}

test_link_cut()
{
	strike link_cut $RECONNECT && link a b cut && fell_back link_cut && discarded link_cut
	local status=$?
	link a b whole
	[ $status = 0 ] && pass link_cut
}

test_target_frozen()
{
	strike target_frozen $RECONNECT || return
	guest_freeze b || return
	fell_back target_frozen
	local status=$?
	guest_thaw b
	[ $status = 0 ] && discarded target_frozen && pass target_frozen
}

test_target_killed()
{
	strike target_killed $RECONNECT || return
	kill_host b
	fell_back target_killed && pass target_killed
}

# The VM dies with its host, as it would have without a migration.
test_source_killed()
{
	strike source_killed $RECONNECT || return
	kill_host a
	discarded source_killed && pass source_killed
}
