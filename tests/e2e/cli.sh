#!/bin/bash
# SPDX-License-Identifier: MIT
# The command line: what each wrong one gets, as a sentence and an exit code; version, help, floor.
set -u
program=$2/rdma-migrate
failed=0

# expect CODE PATTERN ARGUMENTS...: the exit code, and a line of the output that matches
expect()
{
	local code=$1 pattern=$2 out got
	shift 2

	out=$(timeout 300 "$program" "$@" 2>&1)
	got=$?
	if [ $got = "$code" ] && grep -qE -- "$pattern" <<<"$out"; then
		echo "[PASS] cli::$*"
	else
		echo "[FAIL] cli::$*: exit code $got (not $code), or no line matches \"$pattern\" in:"
		echo "$out"
		failed=1
	fi
}

# wrong PATTERN ARGUMENTS...
wrong()
{
	expect 1 "^rdma-migrate: $1" "${@:2}"
}

expect 0 '^rdma-migrate and libferry 1\.[0-9]+\.[0-9]+$' version
expect 0 '^rdma-migrate and libferry' --version
expect 0 '^Exit codes: 0 ' help
expect 0 '--kill WHO@PHASE' --help
expect 1 'rdma-migrate run \[OPTIONS\]'
wrong 'there is no command "fly"; the commands are run, source' fly
wrong '"now" is not an option' run now
wrong 'there is no option --speed' run --speed 3
wrong 'there is no option --mem;' run --mem 1G
wrong 'target does not take --memory' target --memory 1G
wrong 'floor does not take --kill' floor --kill target@precopy
wrong '--memory takes a size from 32M .*, not "1GB"' run --memory 1GB
wrong '--memory takes a size' run --memory -1G
wrong '--memory takes .*not "16M"' run --memory 16M
wrong '--memory takes .*not "33M"' run --memory=33M
wrong '--memory takes .*not "99999999999999999999"' run --memory 99999999999999999999
wrong '--memory takes .*not "20000000T"' run --memory 20000000T
wrong '--memory takes a size from .*2G\.$' run --memory
wrong '--memory-kind takes anon, memfd, hugetlb or hugetlb-memfd, not "ram"' run --memory-kind ram
wrong '--thp on is for --memory-kind anon or memfd: hugetlb has huge pages already' run --memory-kind hugetlb --thp on
wrong '--thp takes auto, on or off, not "yes"' run --thp yes
wrong '--populate takes a percentage from 0 to 100, not "101"' run --populate 101
wrong '--working-set takes at most --memory less 16M, 48M here, not 64M' run --memory 64M --working-set 64M
wrong '--dirty-rate takes pages per second.*not "fast"' run --dirty-rate fast
wrong '--vcpus takes a number from 1 to 16, not "0"' run --vcpus 0
wrong '--mode takes auto, stop-and-copy or post-copy, not "precopy"' run --mode precopy
wrong '--commit-at takes complete, switchover or default' run --commit-at never
wrong '--downtime takes a duration.*not "300"' run --downtime 300
wrong '--max-rounds takes a number from 1 to 1000, not "0"' run --max-rounds 0
wrong '--channels takes a number from 1 to 16, not "17"' run --channels 17
wrong '--bandwidth takes bytes per second' run --bandwidth 1Gb
wrong '--hold-limit takes a duration' run --hold-limit forever
wrong '--hold-action takes fallback or commit' run --hold-action wait
wrong '--timeout takes a duration of at least 10ms' run --timeout 1ms
wrong '--kill takes source@PHASE.*not "target"' run --kill target
wrong '--kill takes .*not "target@noon"' run --kill target@noon
wrong '--kill takes .*not "target@commit"' run --kill target@commit
wrong '--kill takes .*not "target@COMMIT:5"' run --kill target@COMMIT:5
wrong '--kill takes .*not "link@PIGEON"' run --kill link@PIGEON
wrong '--kill takes .*not "target@precopy:5"' run --kill target@precopy:5
wrong '--kill takes .*not "link@precopy:0"' run --kill link@precopy:0
wrong '--kill takes .*not "link@"' run --kill link@
wrong '--kill at the source cannot reach the other end' source --to tcp:127.0.0.1:1 --kill target@precopy
wrong '--kill at the target cannot reach the other end' target --kill link@precopy
names=0
while read -r name; do # every message of the protocol is taken, and what is wrong is something else
	for who in source target link; do
		wrong '--uri takes tcp:HOST:PORT.*, not "nowhere"' run --kill "$who@$name" --uri nowhere
	done
	names=$((names + 1))
done < <(sed -n 's/^\tX(\([A-Z_]*\), [0-9]*, FROM_.*/\1/p' "$1/runtime/link/wire.h")
[ $names -ge 21 ] || { echo "[FAIL] cli::names of $names messages were found in wire.h"; failed=1; }
wrong '--repeat takes a number' run --repeat 0
wrong '--quiet takes no value, not "yes"' run --quiet=yes
wrong '--uri takes tcp:HOST:PORT or rdma:HOST:PORT, not "127.0.0.1:7000"' run --uri 127.0.0.1:7000
wrong '--uri takes tcp:HOST:PORT or rdma:HOST:PORT, not "mem:x"' run --uri mem:x
wrong 'source needs --to' source
wrong '--json /nonexistent/x: No such file' run --json /nonexistent/x
expect 5 'the floor could not be measured: .*' floor --memory 32M --uri tcp:127.0.0.1
expect 0 '^\{"transport":"tcp","memory_bytes":33554432,"memory_kind":"memfd",.*"floor":\{"throughput_mb_s":[0-9]' \
	floor --memory 32M --memory-kind memfd --json -
expect 0 'MB/s memory to memory' floor --memory 32M
exit $failed
