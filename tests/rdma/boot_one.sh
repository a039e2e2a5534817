# SPDX-License-Identifier: MIT
# One guest, both ends in it. Sourced by tests/rdma/run; each test_NAME is a test of its own, in this order.

begin_boot()
{
	guests_start 2048 a
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
