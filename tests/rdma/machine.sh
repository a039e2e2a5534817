# SPDX-License-Identifier: MIT
# Guests of the soft-RoCE machine, seen from the host. Sourced by bash, after prepare.sh.
#
# A guest is one QEMU and its files in $RESULTS: NAME.in and NAME.out (pipes to its agent's serial port), NAME.mon.in and
# NAME.mon.out (QEMU's monitor), NAME.console, NAME.qemu, and what its commands wrote. The agent's lines are read by
# guest_event alone; when QEMU dies, however it dies, its end of NAME.out closes and the next guest_event says so.
# Nothing here takes an answer that did not come for a good one: a command passes by its own "done ID 0", and a boot by
# every guest's exit through isa-debug-exit.

declare -A PID OUT IN HOLD RAN STATUS GONE HALF ASK SAY
ACCEL=tcg,thread=multi,tb-size=256
LEFT_WELL=33 # QEMU's exit status when the guest left with 0: (16 + 0) * 2 + 1
BOOT_SECONDS=120
CPUS=2 WIRE=

# guest_start NAME MEGABYTES [QEMU options]
guest_start()
{
	local name=$1 memory=$2 in out hold ask say fd pipe pipes=()
	shift 2

	for pipe in in out mon.in mon.out; do
		pipes+=("$RESULTS/$name.$pipe")
	done
	rm -f "${pipes[@]}" # of one that died
	mkfifo "${pipes[@]}" || return 1
	exec {in}<>"$RESULTS/$name.in" {hold}<>"$RESULTS/$name.out" {out}<"$RESULTS/$name.out"
	exec {ask}<>"$RESULTS/$name.mon.in" {say}<>"$RESULTS/$name.mon.out"
	IN[$name]=$in OUT[$name]=$out HOLD[$name]=$hold ASK[$name]=$ask SAY[$name]=$say RAN[$name]=0 GONE[$name]= HALF[$name]=
	(
		# A pipe's end that another guest held would hide this one's death.
		for fd in "${HOLD[@]}" "${IN[@]}" "${OUT[@]}" "${ASK[@]}" "${SAY[@]}"; do
			exec {fd}>&-
		done
		exec setpriv --pdeathsig KILL qemu-system-x86_64 -M q35 -accel $ACCEL -cpu max,-erms,-fsrm -smp "$CPUS" -m "$memory" \
			-nodefaults -no-user-config -display none -no-reboot \
			"${SERIAL[@]}" \
			-chardev pipe,id=agent,path="$RESULTS/$name" -serial chardev:agent \
			-chardev pipe,id=mon,path="$RESULTS/$name.mon" -mon chardev=mon,mode=readline \
			-device isa-debug-exit,iobase=0xf4,iosize=0x04 -device virtio-rng-pci \
			-fsdev local,id=host,path=/,security_model=none,readonly=on,multidevs=remap \
			-device virtio-9p-pci,fsdev=host,mount_tag=host \
			-fsdev local,id=results,path="$RESULTS",security_model=none \
			-device virtio-9p-pci,fsdev=results,mount_tag=results "$@" \
			-kernel "$MACHINE/vmlinux" -initrd "$MACHINE/initrd.img" \
			-append "console=ttyS0 quiet loglevel=4 panic=-1 oops=panic mitigations=off tsc=reliable no_timer_check \
				net.ifnames=0 rcupdate.rcu_expedited=1 random.trust_cpu=on cryptomgr.notests $APPEND \
				ferry.name=$name ferry.agent=$TOP/tests/rdma/agent" 2>"$RESULTS/$name.qemu"
	) <&0 & # a console on a terminal reads it
	PID[$name]=$!
}

# The console goes to a file; with a person to look at it, to a terminal too. console_of NAME FILE|TERMINAL|SOCKET
console_of()
{
	case $2 in
	FILE) SERIAL=(-serial "file:$RESULTS/$1.console") ;;
	TERMINAL) SERIAL=(-chardev "stdio,id=con,signal=off,logfile=$RESULTS/$1.console" -serial chardev:con) ;;
	SOCKET) SERIAL=(-chardev "socket,id=con,path=$RESULTS/$1.socket,server=on,wait=off,logfile=$RESULTS/$1.console"
		-serial chardev:con) ;;
	esac
}

# guest_reap NAME: the exit status that QEMU left
guest_reap()
{
	[ -n "${PID[$1]:-}" ] || return 0
	wait "${PID[$1]}" 2>/dev/null
	GONE[$1]=$?
	PID[$1]=
}

# guest_event NAME SECONDS: one line of the agent's in EVENT. 1: none came in time, 2: the guest is gone. A slow guest's
# line may come in two: what came in time is kept for the rest of it.
guest_event()
{
	local status

	EVENT=
	[ -z "${GONE[$1]}" ] || return 2
	IFS= read -r -t "$2" -u "${OUT[$1]}" EVENT
	status=$?
	EVENT=${HALF[$1]}$EVENT HALF[$1]=
	[ $status != 0 ] || return 0
	HALF[$1]=$EVENT EVENT=
	[ $status -le 128 ] || return 1
	guest_reap "$1"
	return 2
}

# guest_ready NAME: booted, with its RDMA device. A pipe says that its writer is gone only once it had one: until then
# the guest's process is looked at.
guest_ready()
{
	local name=$1 hold=${HOLD[$1]} end=$((SECONDS + BOOT_SECONDS)) status=1

	while [ $status = 1 ] && [ $SECONDS -lt $end ] && kill -0 "${PID[$name]}" 2>/dev/null; do
		guest_event "$name" 1
		status=$?
	done
	exec {hold}>&-
	unset "HOLD[$name]"
	[ $status = 0 ] && [ "${EVENT%% *}" = ready ] && return 0
	echo "guest $name did not boot; its console's and QEMU's last lines:"
	tail -n 15 "$RESULTS/$name.console" "$RESULTS/$name.qemu" 2>/dev/null
	return 1
}

# guest_run NAME ID COMMAND: begins it, in the background
guest_run()
{
	[ -z "${GONE[$1]}" ] || return 1
	RAN[$1]=$((RAN[$1] + 1))
	unset "STATUS[$1.$2]"
	echo "run $2 $(base64 -w 0 <<<"$3")" >&"${IN[$1]}"
}

# guest_wait NAME ID SECONDS: 0 once the command has ended with 0; else says why not, and STATUS is its status, or
# "dead" or "late"
guest_wait()
{
	local name=$1 id=$2 end=$((SECONDS + $3)) left

	while [ -z "${STATUS[$name.$id]:-}" ]; do
		left=$((end - SECONDS))
		[ $left -gt 0 ] || left=0.1
		guest_event "$name" $left
		case $? in
		0) [ "${EVENT%% *}" != "done" ] || read -r _ done_id done_status <<<"$EVENT"
			STATUS[$name.$done_id]=$done_status ;;
		1) STATUS[$name.$id]=late ;;
		2) STATUS[$name.$id]=dead ;;
		esac
	done
	case ${STATUS[$name.$id]} in
	0) return 0 ;;
	late) echo "guest $name: $id did not end within $3 seconds." ;;
	dead) echo "guest $name died (QEMU's status ${GONE[$name]}) before $id ended." ;;
	*) echo "guest $name: $id ended with ${STATUS[$name.$id]}." ;;
	esac
	return 1
}

# guest_do NAME ID SECONDS COMMAND: runs it to its end; OUTPUT is what it said. Never in a subshell: counts would be lost.
guest_do()
{
	local status=0

	guest_run "$1" "$2" "$4" && guest_wait "$1" "$2" "$3" || status=1
	OUTPUT=$(cat "$RESULTS/$2.out" 2>/dev/null)
	echo "$OUTPUT"
	return $status
}

# guest_leave NAME: 0 when the guest counted as many commands as the host and left by isa-debug-exit
guest_leave()
{
	[ -n "${GONE[$1]}" ] || echo "leave ${RAN[$1]}" >&"${IN[$1]}"
	while guest_event "$1" 60; do :; done
	if [ -z "${GONE[$1]}" ]; then
		guest_kill "$1"
		echo "guest $1 did not leave within 60 seconds."
		return 1
	fi
	[ "${GONE[$1]}" != $LEFT_WELL ] || return 0
	echo "guest $1 ended with QEMU's status ${GONE[$1]}, not $LEFT_WELL; its console's last lines:"
	tail -n 15 "$RESULTS/$1.console" "$RESULTS/$1.qemu" 2>/dev/null
	return 1
}

# guest_kill NAME: as a host dies
guest_kill()
{
	[ -n "${PID[$1]:-}" ] || return 0
	kill -KILL "${PID[$1]}" 2>/dev/null
	guest_reap "$1"
}

# monitor NAME STATE COMMAND...: QEMU's monitor has done them, and the guest is in that state
monitor()
{
	local name=$1 state=$2 line
	shift 2

	printf '%s\n' "$@" "info status" >&"${ASK[$name]}"
	while IFS= read -r -t 30 -u "${SAY[$name]}" line; do
		[[ $line != "VM status: "* ]] || break
	done
	[[ $line == "VM status: $state"* ]] || { echo "guest $name is not $state: $line"; return 1; }
}

# A host that stands still, and goes on. Its network card loses what it is sent, as one without a driver does; QEMU's
# own would keep it, and the packets of the other end's device with it. guest_freeze NAME, guest_thaw NAME
guest_freeze()
{
	monitor "$1" paused "set_link wire off" stop
}

guest_thaw()
{
	monitor "$1" running "set_link wire on" cont
}

# wire_of NAME: the network device of one of two guests, joined by a stream socket that a opens
wire_of()
{
	local mac=52:54:00:09:00:01 server="server=on"

	[ "$1" = a ] || mac=52:54:00:09:00:02 server="server=off,reconnect-ms=200"
	echo "-netdev stream,id=wire,$server,addr.type=unix,addr.path=$RESULTS/wire -device virtio-net-pci,netdev=wire,mac=$mac,mq=off"
}
