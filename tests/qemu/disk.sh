#!/bin/bash
# SPDX-License-Identifier: MIT
# A stock QEMU with a disk, whose writes are held while the VM runs tentatively. The guest writes each sector once and looks before
# whether it is empty, so it sees itself if somebody else has written there; in the end the disk has exactly
# what the disk had acknowledged at the VM's owner.
set -u
src=$1 build=$2
suite=disk
. "$src/tests/lib/patience.sh"
. "$src/tests/lib/qemu.sh"
command -v qemu-img >/dev/null || { echo "[SKIP] disk: qemu-img is not installed"; exit 77; }
sectors=8192

# Both QEMUs of a move have the same disk, as on two hosts that share a storage.
raw_disk() # FILE
{
	truncate -s $((sectors * 512)) "$1"
	disk=(-blockdev "file,node-name=f0,filename=$1" -blockdev raw,node-name=d0,file=f0 -device ide-hd,drive=d0,bus=ide.0,unit=0)
}

qcow2_disk() # FILE: the options as libvirt gives them
{
	qemu-img create -q -f qcow2 "$1" $((sectors * 512))
	disk=(-blockdev '{"driver":"file","filename":"'"$1"'","node-name":"f0","auto-read-only":true,"discard":"unmap"}'
		-blockdev '{"node-name":"d0","read-only":false,"discard":"unmap","driver":"qcow2","file":"f0","backing":null}'
		-device ide-hd,drive=d0,bus=ide.0,unit=0)
}

# Each sector has its number in all words, as far as there are any; how many
records() # FILE FORMAT
{
	qemu-img convert -f "$2" -O raw "$1" "$1.raw" && od -An -v -t u8 -w512 "$1.raw" | awk '
		{ for (i = 1; i <= NF; i++) if ($i != ($1 ? NR : 0)) { print "sector " NR " has " $i; exit 1 } }
		$1 && $1 != n + 1 { print "sector " NR " follows " n; exit 1 }
		$1 { n = $1 }
		END { print n + 0 }'
}

# The VM's owners are told in turn: the disk has what these have seen acknowledged, and at most one record more.
holds() # FILE FORMAT NAMES...
{
	local file=$1 format=$2 pid name seen=0 there

	shift 2
	for pid in $(of_test); do
		grep -q ^qemu "/proc/$pid/comm" 2>/dev/null && kill -9 "$pid"
	done
	await nobody || echo "a QEMU or a keeper lives; "
	for name; do
		seen=$((seen + $(ticks "$name")))
		! grep -q '[XE]' "$tmp/$name.port" || echo "the disk of $name is not as the guest left it: $(tr -d . <"$tmp/$name.port"); "
	done
	there=$(records "$file" "$format")
	[[ $there =~ ^[0-9]+$ ]] && [ "$there" -ge $seen ] && [ "$there" -le $((seen + 1)) ] ||
		echo "the guest has $seen records acknowledged, the disk has: $there; "
}

overlays() # the files that are left of them
{
	find "$tmp" -name 'overlay*'
}

no_overlay()
{
	[ -z "$(overlays)" ] || echo "left over: $(overlays); "
}

monitor_of() # NAME
{
	sed -n 's/.*its monitor is at \([^,]*\),.*/\1/p' "$tmp/$1.err"
}

merged() # NAME
{
	has "$tmp/$1.err" 'is merged into it'
}

# --- there by post-copy, with a fallback before it, and on by stop-and-copy ---

raw_disk "$tmp/raw"
start_vm one
start_target two --hold-net n0 --hold-disk "d0=$tmp/overlay" --kill target@post-copy --reconnect ${PATIENCE}s
move "$tmp/one.qmp" two 0 --mode post-copy --max-rounds 1 --reconnect ${PATIENCE}s
why+=$(has "$tmp/two.source.json" '"outcome":"fell-back","owner":"source"')
why+=$(goes_on one)
await nobody two || why+="the target's QEMU lives; "
why+=$(no_overlay)
verdict "a target that is killed leaves nothing on the disk" "$why"

# The source takes its disk back while the target's VM may still run.
start_target cut --hold-net n0 --hold-disk "d0=$tmp/overlay" --reconnect $((PATIENCE + 4))s
move "$tmp/one.qmp" cut 0 --mode post-copy --max-rounds 1 --kill link@post-copy --reconnect ${PATIENCE}s
why+=$(has "$tmp/cut.source.json" '"outcome":"fell-back","owner":"source"')
why+=$(goes_on one)
await nobody cut || why+="the target's QEMU lives; "
why+=$(no_overlay)
verdict "a link that is lost" "$why"

start_target three --hold-net n0 --hold-disk "d0=$tmp/overlay"
move "$tmp/one.qmp" three 0 --mode post-copy --max-rounds 1
why+=$(has "$tmp/three.source.json" '"outcome":"migrated","owner":"target"')
why+=$(has_not "$tmp/three.source.json" '"pages_residue":0,')
why+=$(merged three)
why+=$(no_overlay)
why+=$(goes_on three)
verdict "post-copy with the disk held" "$why"

start_target four --hold-disk "d0=$tmp/overlay"
move "$(monitor_of three)" four 0 --mode stop-and-copy
why+=$(has "$tmp/four.source.json" '"outcome":"migrated","owner":"target"')
why+=$(merged four)
why+=$(no_overlay)
why+=$(goes_on four)
why+=$(holds "$tmp/raw" raw one three four)
verdict "stop-and-copy from there, and every record is on the disk once" "$why"

# --- a disk as libvirt describes it, to a QEMU that waits; the target's program is killed in the commitment ---

qcow2_disk "$tmp/qcow2"
start_vm five
machine six
"${args[@]}" -S -incoming defer -qmp "unix:$tmp/six.qmp,server=on,wait=off" >"$tmp/six.vm" 2>&1 &
disown # nobody waits for it
await [ -S "$tmp/six.qmp" ]
"$program" target --vmm qemu --listen tcp:127.0.0.1:0 --qmp "$tmp/six.qmp" --hold-net n0 --hold-disk "d0=$tmp/overlay" \
	--json "$tmp/six.json" "${slow[@]}" >"$tmp/six.out" 2>"$tmp/six.err" &
target=$!
await_target six
move "$tmp/five.qmp" six 0 --mode post-copy --max-rounds 1
why+=$(merged six)
why+=$(no_overlay)
why+=$(goes_on six)
verdict "qcow2, to a QEMU that waits" "$why"

start_target seven --hold-net n0 --hold-disk "d0=$tmp/overlay" --kill target@commitment --reconnect ${PATIENCE}s
# So slow that the tentative VM writes a lot before it has all its memory.
move "$tmp/six.qmp" seven 0 --mode post-copy --max-rounds 1 --bandwidth 20M --reconnect ${PATIENCE}s
[ "$(ticks seven)" -gt 0 ] || why+="the tentative VM has written nothing, so this has tested nothing; "
why+=$(has "$tmp/seven.source.json" '"outcome":"fell-back","owner":"source"')
why+=$(goes_on six)
why+=$(holds "$tmp/qcow2" qcow2 five six)
# The keeper cannot know whether the overlay is a part of the disk.
rm "$tmp/overlay" || why+="the overlay has gone; "
verdict "a target that is killed in the commitment" "$why"

# --- the VM is lost after the commit, or its target's program is: what it has written to the disk is not ---

raw_disk "$tmp/lost"
start_vm eight
disown
start_target nine --hold-net n0 --hold-disk "d0=$tmp/overlay" --reconnect ${PATIENCE}s
"$program" source --vmm qemu --qmp "$tmp/eight.qmp" --to "$uri" --quiet "${slow[@]}" --mode post-copy --max-rounds 1 --bandwidth 20M \
	--commit-at switchover --kill source@post-copy >"$tmp/nine.source.out" 2>&1
wait $target
why=$(has "$tmp/nine.json" '"outcome":"lost"')
why+=$(has "$tmp/nine.err" "overlay is a part of disk d0: .qemu-img commit. it")
qemu-img commit -q "$tmp/overlay" || why+="the overlay cannot be merged; "
rm -f "$tmp/overlay"
why+=$(holds "$tmp/lost" raw eight nine)
verdict "a VM that is lost after the commit" "$why"

raw_disk "$tmp/left"
start_vm ten
disown
start_target eleven --hold-net n0 --hold-disk "d0=$tmp/overlay" --kill target@activation --reconnect ${PATIENCE}s
move "$tmp/ten.qmp" eleven 4 --mode post-copy --max-rounds 1 --bandwidth 20M --reconnect ${PATIENCE}s
why+=$(goes_on eleven)
monitor=$(tr '\0' '\n' <"/proc/$(of_test eleven | xargs -I{} grep -l ^qemu /proc/{}/comm | cut -d/ -f3)/cmdline" |
	sed -n 's/^unix:\(.*qmp\),server.*/\1/p')
said=$("$program" doctor --qmp "$monitor" 2>&1)
[[ $said = *"a disk of QEMU is still on ferry-overlay-0"* ]] || why+="doctor does not see the overlay: $said; "
for pid in $(of_test); do
	grep -q ^qemu "/proc/$pid/comm" 2>/dev/null && kill -9 "$pid"
done
await nobody || why+="a QEMU or a keeper lives; "
qemu-img commit -q "$tmp/overlay" || why+="the overlay cannot be merged; "
rm -f "$tmp/overlay"
why+=$(holds "$tmp/left" raw ten eleven)
verdict "a target that is killed in the activation" "$why"

# --- refused ---

machine twelve
refuses "a disk that is none" 5 "no device of QEMU has this node as its drive" target --vmm qemu --hold-disk "d0=$tmp/overlay" --hold-disk "d9=$tmp/overlay9" -- "${args[@]}"
refuses "a disk beside one that is held" 5 "(node d1) can be written, and its writes are not held back" target --vmm qemu --hold-disk "d0=$tmp/overlay" -- "${args[@]}" \
	-blockdev "null-co,node-name=d1" -device ide-hd,drive=d1
refuses "a disk that cannot be written" 5 "leave out --hold-disk r0" target --vmm qemu --hold-disk "d0=$tmp/overlay" --hold-disk "r0=$tmp/overlay9" -- "${args[@]}" \
	-blockdev "null-co,node-name=r0,read-only=on" -device ide-cd,drive=r0
: >"$tmp/mine"
refuses "an overlay that is there" 5 "$tmp/mine, for the writes to disk d0, cannot be made: File exists" \
	target --vmm qemu --hold-disk "d0=$tmp/mine" -- "${args[@]}"
refuses "a place that is none" 5 "No such file or directory" target --vmm qemu --hold-disk "d0=$tmp/none/overlay" -- "${args[@]}"
refuses "no path" 5 "is not NODE=PATH" target --vmm qemu --hold-disk d0 -- "${args[@]}"
refuses "an overlay for a QEMU that is none" 5 "is QEMU running with -qmp" target --vmm qemu --hold-disk "d0=$tmp/overlay" --qmp "$tmp/none"
why=$(no_overlay)
[ -e "$tmp/mine" ] || why+="a file of somebody else's has gone; "
verdict "nothing is left of what was refused" "$why"
exit $failed
