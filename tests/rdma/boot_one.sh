# SPDX-License-Identifier: MIT
# One guest, both ends in it. Sourced by tests/rdma/run; each test_NAME is a test of its own, in this order.

begin_boot()
{
	hosts_start 2048 a
}

end_boot()
{
	guest_leave a
}

# The device as the library will find it: a RoCE v2 port that is up, with enough lockable memory
test_device()
{
	guest_do a device 30 "ibv_devinfo -v; echo memlock \$(ulimit -l); rdma link" || { fail device "it cannot be asked"; return; }
	grep -q 'state:.*PORT_ACTIVE' <<<"$OUTPUT" || { fail device "its port is not active"; return; }
	grep -q '::ffff:10.9.0.1.*RoCE v2' <<<"$OUTPUT" || { fail device "it has no RoCE v2 GID for 10.9.0.1"; return; }
	grep -q '^memlock unlimited' <<<"$OUTPUT" || { fail device "memory cannot be locked without limit"; return; }
	pass device
}

# 200 messages there and back on an RC queue pair, their content checked
test_ping_pong()
{
	guest_do a ping_pong 60 'ibv_rc_pingpong -e -c -g 1 -n 200 >/dev/null & server=$!
		until ss -Hltn "sport = :18515" | grep -q .; do kill -0 $server || exit 1; done
		ibv_rc_pingpong -e -c -g 1 -n 200 10.9.0.1 && wait $server' || { fail ping_pong "a side failed"; return; }
	grep -q '^200 iters in' <<<"$OUTPUT" || { fail ping_pong "not 200 iterations"; return; }
	pass ping_pong
}

# A user without privileges meets the limit on locked memory here as on a real host.
test_memlock()
{
	guest_do a memlock 60 'ulimit -l 64
		timeout 20 setpriv --reuid 65534 --clear-groups ibv_rc_pingpong -g 1 -s 1048576 2>&1
		echo "ended with $?"' || { fail memlock "it cannot be tried"; return; }
	grep -q '^ended with 1$' <<<"$OUTPUT" && grep -q "register MR" <<<"$OUTPUT" || {
		fail memlock "1 MiB could be registered with a limit of 64 KiB"
		return
	}
	pass memlock
}

# The library's programs, built for the device's address; each case must report for itself.
test_unit()
{
	program a unit 60 "$BUILD/tests/rdma/unit" 'rdma/options_*'
}

# Guest memory in swap, for hosts that have no zram: here none of the cases may be skipped.
test_swap()
{
	program a swap 120 "$BUILD/tests/unit/test_swap" || return
	! grep -a '^\[SKIP\]' "$RESULTS/swap.out" || fail swap "cases were skipped, on a machine of our own"
}

test_conformance()
{
	program a conformance 300 "$BUILD/tests/rdma/conformance"
}

test_peer()
{
	program a peer 120 "$BUILD/tests/rdma/test_peer"
}

# The floods write to a socket: they are tcp's alone.
test_strangers()
{
	program a strangers 300 "$BUILD/tests/rdma/test_strangers" '*_is_not_held/*'
}

# A second device, and a second address for the first, so that dev and gid have something to choose from
test_device_options()
{
	guest_do a second_device 30 'ip link add dummy1 type dummy && ip link set dummy1 mtu 9000 up &&
		ip address add 10.10.0.1/24 dev dummy1 && ip address add 10.9.0.3/24 dev dummy0 &&
		rdma link add rxe1 type rxe netdev dummy1' || { fail device_options "there is no second device"; return; }
	program a device_options 120 "$BUILD/tests/rdma/test_device" || return
	guest_do a one_device 30 'rdma link delete rxe1; ip link delete dummy1; ip address delete 10.9.0.3/24 dev dummy0'
}

test_modes()
{
	program a modes 300 "$BUILD/tests/rdma/test_modes"
}

test_link()
{
	program a link 300 "$BUILD/tests/rdma/test_link"
}

test_fallback()
{
	program a fallback 300 "$BUILD/tests/rdma/test_fallback"
}

test_cancel()
{
	program a cancel 300 "$BUILD/tests/rdma/test_cancel"
}

# A real guest between two processes, in the way that was asked for: guest NAME PATTERN OPTIONS...
guest()
{
	local name=$1 pattern=$2
	shift 2

	rm -f "$RESULTS/$name.json"
	guest_do a "$name" 120 "'$BUILD/rdma-migrate' run --uri 'rdma:10.9.0.1:0' --memory 64M --working-set 16M \
		--dirty-rate 3000 --floor off --quiet --json /results/$name.json $*" || { fail "$name" "rdma-migrate failed"; return; }
	proved "$name" "$RESULTS/$name.json" 16384 '"outcome":"migrated","owner":"target"' "$pattern" || return
	pass "$name"
}

test_guest_stop_and_copy_anon()
{
	guest guest_stop_and_copy_anon '"pages_residue":0' --mode stop-and-copy --memory-kind anon
}

test_guest_stop_and_copy_memfd()
{
	guest guest_stop_and_copy_memfd '"pages_residue":0' --mode stop-and-copy --memory-kind memfd
}

test_guest_post_copy_anon()
{
	guest guest_post_copy_anon '"pages_residue":[1-9]' --mode post-copy --max-rounds 1 --memory-kind anon
}

test_guest_post_copy_memfd()
{
	guest guest_post_copy_memfd '"pages_residue":[1-9]' --mode post-copy --max-rounds 1 --memory-kind memfd --channels 2
}

test_guest_auto()
{
	guest guest_auto '"mode":"auto"' --mode auto --memory-kind memfd
}
