# SPDX-License-Identifier: MIT
# Two guests as two hosts, for the boots that have them: a is the source's, b the target's. Sourced by boot_*.sh.

declare -A KILLED=()

WIRE=1 CPUS=1

begin_boot()
{
	hosts_start 1024 a b
}

# A guest that a test has killed is none that left; every other one must leave by itself.
end_boot()
{
	local status=0 name

	for name in a b; do
		[ -n "${KILLED[$name]:-}" ] || guest_leave $name || status=1
	done
	return $status
}

kill_host()
{
	guest_kill "$1"
	KILLED[$1]=1
}

# run_target ID URI-OPTIONS [OPTIONS]: until it listens; its URI in URI
run_target()
{
	local id=$1 end=$((SECONDS + 60)) options=$2
	shift 2

	rm -f "$RESULTS/$id".{s,t}.{json,out}
	guest_run b "$id.t" "'$BUILD/rdma-migrate' target --listen 'rdma:10.9.0.2:0$options' --json /results/$id.t.json $*"
	until URI=$(sed -n 's/^listening on //p' "$RESULTS/$id.t.out" 2>/dev/null) && [ -n "$URI" ]; do
		[ $SECONDS -lt $end ] || { fail "$id" "the target does not listen"; return 1; }
		sleep 0.05
	done
}

# run_source ID [OPTIONS]
run_source()
{
	local id=$1
	shift

	guest_run a "$id.s" "'$BUILD/rdma-migrate' source --to '$URI' --json /results/$id.s.json $*"
}

# both_end ID SECONDS
both_end()
{
	local status=0

	guest_wait a "$1.s" "$2" || status=1
	guest_wait b "$1.t" "$2" || status=1
	cat "$RESULTS/$1".{s,t}.out
	return $status
}
