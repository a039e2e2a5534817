# SPDX-License-Identifier: MIT
# What the boots' tests share. Sourced by tests/rdma/run for each boot; uses RESULTS, BUILD and machine.sh.

pass()
{
	echo "[PASS] rdma::$1"
}

# fail NAME WHY: and status 1
fail()
{
	echo "[FAIL] rdma::$1: $2"
	return 1
}

# guests_start MEGABYTES NAME...: one alone, or two on a wire; all boot at once
guests_start()
{
	local memory=$1 name
	shift

	for name in "$@"; do
		console_of "$name" "$([ -n "$KEEP" ] && echo SOCKET || echo FILE)"
		guest_start "$name" "$memory" $([ $# = 1 ] || wire_of "$name") || return 1
	done
	for name in "$@"; do
		guest_ready "$name" || return 1
		echo "guest $name: ready after ${EVENT#ready } s of its own time"
	done
}

# cases PROGRAM PATTERN: how many of its tests that pattern (suite/test) names
cases()
{
	local suite=""

	"$1" --list | while IFS= read -r line; do
		case $line in
		*": "*tests) suite=${line%%: *} ;;
		*"── "*) [[ $suite/${line##*── } != $2 ]] || echo x ;;
		esac
	done | wc -l
}

# criterion GUEST ID SECONDS PROGRAM [PATTERN]: each case that the program has must report for itself
criterion()
{
	local guest=$1 id=$2 limit=$3 program=$4 pattern=${5:-*/*} status=0 want got

	want=$(cases "$program" "$pattern")
	guest_do "$guest" "$id" "$limit" "'$program' --jobs 1 --verbose --filter '$pattern'" >/dev/null ||
		status=1
	grep -v ': Test is disabled$' "$RESULTS/$id.out"
	got=$(grep -c '^\[\(PASS\|FAIL\|SKIP\)\] .*' <(grep -v ': Test is disabled$' "$RESULTS/$id.out"))
	[ "$want" -gt 0 ] && [ "$got" = "$want" ] || {
		fail "$id" "$got of $want cases of ${program##*/} reported"
		return 1
	}
	return $status
}
