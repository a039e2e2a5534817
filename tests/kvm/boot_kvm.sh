# SPDX-License-Identifier: MIT
# The programs of label kvm where the host has no /dev/kvm: in one guest whose kernel runs guests of its own, on the
# virtualization that QEMU emulates. Sourced by tests/rdma/run; each test_NAME is a test of its own, in this order.
#
# One CPU: with two, guests of the guest now and then lose a write or are reset in the middle (QEMU 10.0.2).

begin_boot()
{
	CPUS=1
	hosts_start 3072 a || return
	[ "$MUTATOR" = kvm-nested ] || { echo "guest a has no /dev/kvm: what is tested here is KVM"; return 1; }
}

end_boot()
{
	guest_leave a
}

# on_kvm NAME: none of its cases may be skipped, they prove what nothing else does on such a host
on_kvm()
{
	! grep -a '^\[SKIP\]' "$RESULTS/$1.out" || fail "$1" "cases were skipped, on a machine of our own"
}

cases()
{
	program a "$1" 2700 "$BUILD/tests/kvm/test_$1" ${2:+"$2"} && on_kvm "$1"
}

script()
{
	guest_do a "$1" 2700 "CC='${CC:-cc}' bash '$TOP/tests/kvm/$1.sh' '$TOP' '$BUILD'" && on_kvm "$1"
}

test_kvm_state()
{
	cases kvm_state
}

test_ring()
{
	cases ring
}

test_vmm()
{
	cases vmm 'vmm/*'
}

test_migrate()
{
	cases migrate
}

test_many()
{
	cases many
}

test_kill_messages()
{
	script kill_messages
}

test_tinyvmm()
{
	script tinyvmm
}
