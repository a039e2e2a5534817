#!/bin/bash
# SPDX-License-Identifier: MIT
# A stock QEMU boards by the command line: two commands move it, it goes on at the target, and from there it moves again;
# if the target is killed, it goes on at the source; and what cannot work is refused with a sentence.
set -u
src=$1 build=$2
suite=board
. "$src/tests/lib/patience.sh"
. "$src/tests/lib/qemu.sh"

# --- doctor: of a QEMU that can board; of others further down ---

start_vm one
said=$("$program" doctor --qmp "$tmp/one.qmp" 2>&1)
verdict "doctor finds nothing in the way" "$([ $? = 0 ] && grep -q '^ok .*write tracking' <<<"$said" || echo "$said")"

# --- stop-and-copy, then on from the target by post-copy ---

start_target two
move "$tmp/one.qmp" two 0 --mode stop-and-copy
for file in two.json two.source.json; do
	why+=$(has "$tmp/$file" '"vmm":"qemu","mode":"stop-and-copy"')
	why+=$(has "$tmp/$file" '"outcome":"migrated","owner":"target"')
	why+=$(has_not "$tmp/$file" 'memory_bytes|vcpus|mutator|pages_checked|outputs_seen|resident_bytes')
done
why+=$(goes_on two)
await has_ended $vm || why+="the source's QEMU has not quit; "
verdict "stop-and-copy" "$why"

monitor=$(sed -n 's/.*its monitor is at \([^,]*\),.*/\1/p' "$tmp/two.err")
[ -S "$monitor" ] || { cat "$tmp/two.err"; echo "[FAIL] board: the target does not name the monitor of its QEMU"; exit 1; }
dir=$(dirname "$monitor")
start_target three --hold-net n0
move "$monitor" three 0 --mode post-copy --max-rounds 1
why+=$(has "$tmp/three.source.json" '"commit_at":"default".*"outcome":"migrated","owner":"target"')
why+=$(has_not "$tmp/three.source.json" '"pages_residue":0,')
why+=$(goes_on three)
await nobody two || why+="the QEMU that it left has not quit; "
await [ ! -e "$dir" ] || why+="$dir is still there; "
verdict "post-copy with the network held, of a QEMU that came here" "$why"

# --- the target is killed while the VM runs there tentatively ---

monitor=$(sed -n 's/.*its monitor is at \([^,]*\),.*/\1/p' "$tmp/three.err")
start_target four --hold-net n0 --kill target@post-copy --reconnect ${PATIENCE}s
move "$monitor" four 0 --mode post-copy --max-rounds 1 --reconnect ${PATIENCE}s
why+=$(has "$tmp/four.source.json" '"outcome":"fell-back","owner":"source"')
why+=$(goes_on three)
await nobody four || why+="the target's QEMU lives; "
verdict "a target that is killed in post-copy" "$why"

stopped() # NAME: its QEMU
{
	local pid

	for pid in $(of_test "$1"); do
		grep -qs "^State:.*stopped" "/proc/$pid/status" && return 0
	done
	return 1
}

start_target doubt --hold-net n0 --kill target@commitment --reconnect ${PATIENCE}s
move "$monitor" doubt 0 --mode post-copy --max-rounds 1 --reconnect ${PATIENCE}s
why+=$(has "$tmp/doubt.source.json" '"outcome":"fell-back","owner":"source"')
why+=$(goes_on three)
await stopped doubt || why+="the target's QEMU is not stopped; "
for pid in $(of_test doubt); do
	grep -q ^qemu "/proc/$pid/comm" && kill -9 "$pid"
done
await nobody doubt || why+="its keeper lives; "
verdict "a target that is killed in the commitment leaves no second VM that runs" "$why"

# --- the source's program is killed: its QEMU goes on; then, to a QEMU that waits already, with a recording ---

start_target five --reconnect ${PATIENCE}s
move "$monitor" five 0 --mode stop-and-copy --kill source@pre-copy --reconnect ${PATIENCE}s
why+=$(has "$tmp/five.source.json" '"owner":"source".*its QEMU has the VM')
why+=$(goes_on three)
verdict "a source that is killed" "$why"

machine six
"${args[@]}" -S -incoming defer -qmp "unix:$tmp/six.qmp,server=on,wait=off" >"$tmp/six.vm" 2>&1 &
vm=$!
await [ -S "$tmp/six.qmp" ]
"$program" target --vmm qemu --listen tcp:127.0.0.1:0 --qmp "$tmp/six.qmp" --hold-net n0 --json "$tmp/six.json" "${slow[@]}" \
	>"$tmp/six.out" 2>"$tmp/six.err" &
target=$!
await_target six
move "$monitor" six 0 --mode post-copy --max-rounds 1 --record "$tmp/six.jsonl"
why+=$(goes_on six)
"$program" plot "$tmp/six.jsonl" -o "$tmp/six.html" || why+="the recording cannot be drawn; "
verdict "to a QEMU that waits" "$why"
monitor=$tmp/six.qmp

# --- refused: two machines that differ; a QEMU that does not start ---

start_target seven
args=("${args[@]/64M/32M}")
args=("${args[@]/#64/32}")
kill $target
verdict "a target that is ended takes its QEMU along" "$(await nobody seven || echo "it lives")"
"$program" target --vmm qemu --listen tcp:127.0.0.1:0 --json "$tmp/eight.json" "${slow[@]}" -- "${args[@]//seven/eight}" \
	>"$tmp/eight.out" 2>"$tmp/eight.err" &
target=$!
await_target eight
move "$monitor" eight 2
for file in eight.json eight.source.json; do
	why+=$(has "$tmp/$file" '"outcome":"refused","owner":"source".*both QEMUs need the same')
done
why+=$(goes_on six)
await nobody eight || why+="the target's QEMU lives; "
verdict "two machines that differ" "$why"

machine nine
refuses "a QEMU that ends at once" 5 "qemu-system-x86_64 has ended with status 1: qemu-system-x86_64: -nonsense: invalid option" \
	target --vmm qemu -- "${args[@]}" -nonsense
refuses "a program that is none" 5 "/nonexistent/qemu cannot be executed" target --vmm qemu -- /nonexistent/qemu "${args[@]:1}"
refuses "a netdev that is none" 5 "netdev n9 cannot be held" target --vmm qemu --hold-net n9 -- "${args[@]}"
truncate -s 1M "$tmp/disk"
refuses "a disk whose writes cannot be held" 5 "its writes are not held back; hold it by --hold-disk NODE=PATH" \
	target --vmm qemu --hold-net n0 -- "${args[@]}" -drive "if=virtio,format=raw,file=$tmp/disk"
refuses "-daemonize" 1 "takes no -daemonize" target --vmm qemu -- "${args[@]}" -daemonize
refuses "-incoming" 1 "leave -incoming out" target --vmm qemu -- "${args[@]}" -incoming defer
machine nine memory-backend-ram,id=ram,size=64M
refuses "no RAM in a file" 1 "has no RAM in a file" target --vmm qemu -- "${args[@]}"
refuses "no command line" 1 "needs the source's QEMU command line after --" target --vmm qemu
refuses "a command line and a monitor" 1 "but not both" target --vmm qemu --qmp x -- "${args[@]}"
refuses "a command line of a guest of our own" 1 "a command line after -- is about a QEMU" target -- "${args[@]}"
refuses "no monitor" 1 "source --vmm qemu needs --qmp SOCKET" source --vmm qemu --to tcp:127.0.0.1:1
refuses "a monitor of a guest of our own" 1 "--qmp is about a QEMU: give --vmm qemu" source --qmp x --to tcp:127.0.0.1:1
refuses "an option of a guest of our own" 1 "--memory is about the bench's own guest" \
	source --vmm qemu --qmp x --to tcp:127.0.0.1:1 --memory 1G
refuses "a monitor that is not there" 5 "is QEMU running with -qmp" source --vmm qemu --qmp "$tmp/none" --to tcp:127.0.0.1:1

# --- doctor: of QEMUs that cannot board ---

ails() # NAME BACKEND TEXTS -- ARGUMENTS...: TEXTS, one a line, are all told
{
	local name=$1 texts=$3 said got pid text why=""

	machine ail "$2"
	shift 4
	"${args[@]}" "$@" -qmp "unix:$tmp/ail.qmp,server=on,wait=off" >"$tmp/ail.vm" 2>&1 &
	pid=$!
	await [ -S "$tmp/ail.qmp" ]
	said=$(timeout $limit "$program" doctor --qmp "$tmp/ail.qmp" 2>&1)
	got=$?
	[ $got = 5 ] || why="exit code $got; "
	while read -r text; do
		grep -qF -- "$text" <<<"$said" || why+="no \"$text\"; "
	done <<<"$texts"
	verdict "doctor: $name" "${why:+$why$said $(cat "$tmp/ail.vm")}"
	kill -9 $pid
	wait $pid 2>/dev/null
	rm -f "$tmp/ail.qmp"
}

shared="memory-backend-file,id=ram,size=64M,share=on,mem-path=$tmp/ail.ram"
ails "memory in no file" memory-backend-ram,id=ram,size=64M "mend: use memory-backend-file" --
ails "a migration blocker" "$shared" "QEMU refuses to be migrated: Migration is disabled when using feature 'peer mode'" -- \
	-object "memory-backend-file,id=peer,size=1M,share=on,mem-path=$tmp/peer" -device ivshmem-plain,memdev=peer,master=off
ails "all that is wrong" "${shared/share=on/share=off}" "is not running: prelaunch
mend: \`cont\` it first
takes pages from the guest's memory, unseen
mend: give it share=on" -- -S -device virtio-balloon-pci,id=b0
refuses "doctor: no monitor" 5 "mend: is QEMU running with -qmp" doctor --qmp "$tmp/none"
exit $failed
