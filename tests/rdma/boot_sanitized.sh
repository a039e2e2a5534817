# SPDX-License-Identifier: MIT
# One guest and a build with sanitizers: what they find makes a case fail. Sourced by tests/rdma/run.

begin_boot()
{
	hosts_start 3072 a
}

end_boot()
{
	guest_leave a
}

test_unit()
{
	program a unit 60 "$BUILD/tests/rdma/unit" 'rdma/options_*'
}

# Over each way to pin; the filters and addresses are the plain boot's.
test_conformance_pin_all()
{
	program a conformance_pin_all 300 "$BUILD/tests/rdma/conformance" 'rdma4/*'
}

test_conformance_pin_lazy()
{
	program a conformance_pin_lazy 300 "$BUILD/tests/rdma/conformance" 'rdma_lazy/*'
}

test_peer()
{
	program a peer 120 "$BUILD/tests/rdma/test_peer"
}
