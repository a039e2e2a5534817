# SPDX-License-Identifier: MIT
# VMs of stock QEMUs, and moving them by the command line. A script sets src, build and suite, and sources this; its files
# are in $tmp.
program=$build/rdma-migrate
command -v qemu-system-x86_64 >/dev/null || { echo "[SKIP] $suite: qemu-system-x86_64 is not installed"; exit 77; }
tmp=$(mktemp -d "/dev/shm/ferry-$suite.XXXXXX")
. "$src/tests/lib/verdict.sh"
limit=$((120 * PATIENCE)) # seconds; nothing here takes so long
slow=(--timeout $((3 * PATIENCE))s)

of_test() # [NAME]: the processes whose command line names a file of this test, or of this VM of it
{
	local all=(/proc/[0-9]*/cmdline) # before grep is one of them

	grep -lzF "$tmp/${1:+$1.port}" "${all[@]}" 2>/dev/null | cut -d/ -f3
}

nobody() # [NAME]
{
	[ -z "$(of_test "$@")" ]
}

# The keepers end after their QEMUs, and remove what these had.
clean_up()
{
	local pid

	for pid in $(of_test); do
		grep -q ^qemu "/proc/$pid/comm" 2>/dev/null && kill -9 "$pid"
	done
	await nobody || failed=1
	wait
	rm -rf "$tmp"
}
trap clean_up EXIT

await() # CONDITION...
{
	local until=$((SECONDS + limit))

	until "$@"; do
		[ $SECONDS -lt $until ] || return 1
		sleep 0.05
	done
}

# The guest fills 64 MiB and then, a dot for each tick, rewrites 40 pages of 16 MiB. With a disk (its options, and how many
# sectors) each tick writes one of them, too.
disk=() sectors=0
machine() # NAME [BACKEND]: its command line, in $args
{
	local i=0 value backend=${2-memory-backend-file,id=ram,size=64M,share=on,mem-path=$tmp/$1.ram}

	args=(qemu-system-x86_64 -nodefaults -no-user-config -display none -accel tcg -cpu max
		-machine pc,memory-backend=ram -m 64 -object "$backend"
		-chardev "file,id=port,path=$tmp/$1.port,append=on" -device isa-debugcon,iobase=0xe9,chardev=port
		-kernel "$build/tests/qemu/guest" -netdev hubport,id=n0,hubid=0 -device virtio-net-pci,netdev=n0,romfile=
		"${disk[@]}")
	for value in 67108864 0 16777216 40 40000000 $sectors; do
		args+=(-device "loader,addr=$((0x180000 + 8 * i)),data=$value,data-len=8")
		i=$((i + 1))
	done
}

ticks() # NAME
{
	cat "$tmp/$1.port" 2>/dev/null | tr -dc . | wc -c
}

ticked() # NAME COUNT
{
	[ "$(ticks "$1")" -ge "$2" ]
}

goes_on() # NAME
{
	await ticked "$1" $(($(ticks "$1") + 20)) || echo "the guest does not go on; "
}

has_ended() # PID
{
	! kill -0 "$1" 2>/dev/null
}

start_vm() # NAME: its pid in $vm, its monitor at $tmp/NAME.qmp
{
	machine "$1"
	"${args[@]}" -qmp "unix:$tmp/$1.qmp,server=on,wait=off" >"$tmp/$1.vm" 2>&1 &
	vm=$!
	await ticked "$1" 5 || { cat "$tmp/$1.vm"; echo "[FAIL] $suite: no VM starts here"; exit 1; }
}

listens_or_ended() # NAME
{
	grep -qs '^listening on ' "$tmp/$1.err" || has_ended $target
}

await_target() # NAME: its address in $uri
{
	await listens_or_ended "$1"
	uri=$(sed -n 's/^listening on //p' "$tmp/$1.err")
	[ -n "$uri" ] || { cat "$tmp/$1.out" "$tmp/$1.err"; echo "[FAIL] $suite: target $1 does not listen"; exit 1; }
}

start_target() # NAME OPTIONS...: the source's command line with its own files; its pid in $target
{
	local name=$1

	shift
	machine "$name"
	"$program" target --vmm qemu --listen tcp:127.0.0.1:0 --json "$tmp/$name.json" "${slow[@]}" "$@" -- "${args[@]}" \
		>"$tmp/$name.out" 2>"$tmp/$name.err" &
	target=$!
	await_target "$name"
}

# Moves the VM with the monitor to the target; why it is not as it must be, in $why
move() # MONITOR TARGET CODE OPTIONS...
{
	local monitor=$1 name=$2 code=$3 got

	shift 3
	why=""
	timeout $limit "$program" source --vmm qemu --qmp "$monitor" --to "$uri" --json "$tmp/$name.source.json" --quiet "${slow[@]}" "$@" \
		>"$tmp/$name.source.out" 2>&1
	got=$?
	[ $got = "$code" ] || why+="the source ends with $got, not $code: $(cat "$tmp/$name.source.out"); "
	wait $target
	got=$?
	[ $got = "$code" ] || why+="the target ends with $got, not $code: $(cat "$tmp/$name.out" "$tmp/$name.err"); "
}

has() # FILE TEXT
{
	grep -qE -- "$2" "$1" || echo "no $2 in $(cat "$1"); "
}

has_not() # FILE TEXT
{
	! grep -qE -- "$2" "$1" || echo "$2 in $(cat "$1"); "
}

refuses() # NAME CODE TEXT ARGUMENTS...
{
	local name=$1 code=$2 text=$3 said got

	shift 3
	said=$(timeout $limit "$program" "$@" 2>&1)
	got=$?
	verdict "$name" "$([ $got = "$code" ] && grep -qF -- "$text" <<<"$said" || echo "$got, not $code: $said")"
}
