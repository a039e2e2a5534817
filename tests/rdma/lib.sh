# SPDX-License-Identifier: MIT
# What the boots' tests share. Sourced by tests/rdma/run for each boot; uses boot, RESULTS, BUILD and machine.sh.

pass()
{
	echo "[PASS] boot_$boot::$1"
}

# fail NAME WHY: and status 1
fail()
{
	echo "[FAIL] boot_$boot::$1: $2"
	return 1
}

# hosts_start MEGABYTES NAME...: one guest alone, or on the wire; all boot at once
hosts_start()
{
	local memory=$1 name
	shift

	for name in "$@"; do
		console_of "$name" "$([ -n "$KEEP" ] && echo SOCKET || echo FILE)"
		guest_start "$name" "$memory" $([ -z "$WIRE" ] || wire_of "$name") || return 1
	done
	for name in "$@"; do
		guest_ready "$name" || return 1
		echo "guest $name: ready after ${EVENT#ready } s of its own time"
		load_kvm "$name" || return 1
	done
}

# program GUEST ID SECONDS PROGRAM [PATTERN]: each case that the program has must report for itself
program()
{
	local guest=$1 id=$2 limit=$3 program=$4 pattern=${5:-*/*} status=0 want got

	want=$("$program" --list --filter "$pattern" | wc -l)
	guest_do "$guest" "$id" "$limit" "'$program' --jobs $CPUS --filter '$pattern'" || status=1
	got=$(grep -c '^\[\(PASS\|FAIL\|SKIP\)\] .*' "$RESULTS/$id.out")
	[ "$want" -gt 0 ] && [ "$got" = "$want" ] || {
		fail "$id" "$got of $want cases of ${program##*/} reported"
		return 1
	}
	return $status
}

# nothing_left GUEST ID: no process holds anything of an RDMA device; one that was killed may still be on its way out
nothing_left()
{
	guest_do "$1" "$2" 30 'for try in {1..100}; do
			left=$(for kind in pd cq qp cm_id mr; do rdma resource show $kind; done | grep " pid ")
			[ -n "$left" ] || break
			sleep 0.1
		done
		rdma resource show
		echo "$left"
		[ -z "$left" ]' || { fail "${2%.left}" "objects of the device are left at guest $1"; return 1; }
}

# load_kvm GUEST: where the emulated CPU has virtualization, so has the guest.
load_kvm()
{
	guest_do "$1" "$1.kvm" 30 'for m in ccp kvm kvm_amd kvm_intel; do /run/busybox insmod /run/modules/$m.ko; done 2>&1
		[ -e /dev/kvm ] || echo "no /dev/kvm: host threads stand in for vCPUs"'
	MUTATOR=kvm-nested
	grep -q "no /dev/kvm" <<<"$OUTPUT" && MUTATOR=host-thread
	return 0
}

# field NAME FILE: the first of that name
field()
{
	grep -oE "\"$1\":(\"[^\"]*\"|[^,}]*)" "$2" | head -n 1 | sed 's/^"[a-z_]*"://; s/"//g'
}

# proved ID FILE PAGES PATTERN...: what rdma-migrate's JSON must have, beside a clean proof of so many pages
proved()
{
	local id=$1 file=$2 pages=$3 pattern
	shift 3

	for pattern in "\"pages_checked\":$pages,\"pages_bad\":0,\"guest_errors\":0,\"outputs_seen\":[1-9][0-9]*,\"outputs_missing\":0,\"outputs_repeated\":0" \
		"\"mutator\":\"$MUTATOR\"" '"transport":"rdma"' "$@"; do
		grep -qE -- "$pattern" "$file" || {
			fail "$id" "${file##*/} has no $pattern: $(cat "$file")"
			return 1
		}
	done
}
