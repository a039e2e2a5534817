#!/bin/bash
# SPDX-License-Identifier: MIT
# Two commands on "two machines" and whoever else comes to their ports: strangers, neighbours, an end that dies. Each end
# says what it knows, and no more.
set -u
program=$2/rdma-migrate
tmp=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$tmp"' EXIT
failed=0
. "$1/tests/lib/patience.sh"
guest=(--memory 64M --working-set 16M --dirty-rate 20000 --quiet)
soon=(--reconnect $((300 * PATIENCE))ms --timeout ${PATIENCE}s) # an end that has died is given up

verdict() # NAME WHY
{
	if [ -z "$2" ]; then
		echo "[PASS] cli_peer::$1"
	else
		echo "[FAIL] cli_peer::$1: $2"
		tail -n 20 "$tmp"/t.out "$tmp"/t.err "$tmp"/s.out "$tmp"/s.err 2>/dev/null
		failed=1
	fi
}

# target NAME [options]: begins; its process in target, its URI in uri
target()
{
	local name=$1
	shift
	rm -f "$tmp/$name".*
	timeout 120 "$program" target --json "$tmp/$name.json" --quiet "$@" >"$tmp/$name.out" 2>"$tmp/$name.err" &
	target=$!
	until uri=$(sed -n 's/^listening on //p' "$tmp/$name.err" 2>/dev/null) && [ -n "$uri" ]; do
		kill -0 $target 2>/dev/null || return 1
		sleep 0.02
	done
}

# source NAME [options]: to its end; the code in scode, and tcode of the target
both()
{
	rm -f "$tmp"/s.*
	timeout 120 "$program" source --to "$uri" "${guest[@]}" --json "$tmp/s.json" "$@" >"$tmp/s.out" 2>"$tmp/s.err"
	scode=$?
	wait $target
	tcode=$?
}

# exchanged: nothing, or why the two did not tell each other
exchanged()
{
	[ "$scode $tcode" = "0 0" ] || echo "exit codes $scode and $tcode;"
	grep -q '"both_ends":true' "$tmp/s.json" || echo "the source heard nothing;"
	grep -q '"both_ends":true' "$tmp/t.json" || echo "the target heard nothing;"
	cmp -s "$tmp/s.out" "$tmp/t.out" || echo "the tables differ"
}

free_port() # one that nobody has, below those that the system gives; and the next, too
{
	local port
	while :; do
		port=$((10000 + RANDOM % 10000 * 2))
		ss -Htln "sport = :$port or sport = :$((port + 1))" | grep -q . || break
	done
	echo $port
}

target t --listen tcp:127.0.0.1:0
both --mode post-copy
verdict "a port that both agree on" "$(exchanged)$(cat "$tmp/s.err")"
verdict "the target says where it listens, and no more" "$([ "$(wc -l <"$tmp/t.err")" = 1 ] || cat "$tmp/t.err")"
target t --listen 'tcp:127.0.0.1:0?bandwidth=200M'
both --mode stop-and-copy
verdict "a URI with options" "$(exchanged)"
target t --listen 'tcp:[::1]:0' && both && verdict "IPv6" "$(exchanged)"
target t --listen tcp::0 && uri=tcp:localhost:${uri##*:} && both && verdict "any address, and a name" "$(exchanged)"

# Strangers on the report port
port=$(free_port)
strangers() # COUNT [TEXT]: so many connections, held open in descriptors
{
	local i fd
	for ((i = 0; i < $1; i++)); do
		exec {fd}<>"/dev/tcp/127.0.0.1/$port" || return
		[ -z "${2:-}" ] || printf '%s' "$2" >&$fd
		held+=($fd)
	done
}
gone()
{
	local fd
	for fd in "${held[@]}"; do exec {fd}>&-; done
	held=()
}
held=()
target t --listen tcp:127.0.0.1:0 --report-port $port
strangers 1
gone
both
verdict "a stranger who connects and hangs up" "$(exchanged)"
target t --listen tcp:127.0.0.1:0 --report-port $port
strangers 50
both
verdict "fifty mute strangers" "$(exchanged)"
gone
target t --listen tcp:127.0.0.1:0 --report-port $port
strangers 3 $'{"hello":"rdma-migrate","format":2,"session":"","recording":false}\n'
strangers 3 $'GET / HTTP/1.1\r\n\r\n'
strangers 3 0123456789abcde
strangers 3 0123456789abcdef
strangers 1 "$(head -c 300000 /dev/zero | tr '\0' x)" 2>/dev/null
both
verdict "strangers with hellos, questions and wrong tokens" "$(exchanged)"
gone
target t --listen tcp:127.0.0.1:0 --report-port $port
(for ((n = 0; n < 2000; n++)); do strangers 1 2>/dev/null || break; done; exec sleep 60) &
crowd=$!
both --mode post-copy
verdict "a crowd that goes on coming while the VM moves" "$(exchanged)"
kill $crowd 2>/dev/null
wait $crowd 2>/dev/null

# Ports
target first --listen tcp:127.0.0.1:$port
one=$target
target second --listen tcp:127.0.0.1:$((port + 1))
verdict "two targets on neighbouring ports" "$([ -n "$uri" ] && kill -0 $target 2>/dev/null || cat "$tmp/second.err" "$tmp/second.out")"
two=$target
for name in first second; do
	target=$([ $name = first ] && echo $one || echo $two)
	uri=tcp:127.0.0.1:$([ $name = first ] && echo $port || echo $((port + 1)))
	timeout 120 "$program" source --to "$uri" "${guest[@]}" --json "$tmp/s.json" >"$tmp/s.out" 2>"$tmp/s.err"
	verdict "the $name of them" "$([ $? = 0 ] && cmp "$tmp/s.out" <(wait; cat "$tmp/$name.out") 2>&1 || cat "$tmp/s.err")" &
	wait $!
done
wait $one $two
target t --listen tcp:127.0.0.1:$port
timeout 60 "$program" target --listen tcp:127.0.0.1:0 --report-port $port >"$tmp/out" 2>"$tmp/err"
code=$?
verdict "a report port that is taken" "$([ $code = 5 ] && grep -q "port $port for the results cannot be opened: Address already in use; give another --report-port" "$tmp/out" &&
	! grep -q listening "$tmp/err" || echo "exit code $code: $(cat "$tmp/out" "$tmp/err")")"
both
verdict "the migration on that port" "$(exchanged)"
says() # NAME PATTERN ARGUMENTS...: exit code 1
{
	local out
	out=$(timeout 120 "$program" "${@:3}" 2>&1)
	verdict "$1" "$([ $? = 1 ] && grep -qE "$2" <<<"$out" || echo "$out")"
}
says "the migration's own port" "^rdma-migrate: --report-port 7000 is the port of --listen; give another" target --listen tcp:127.0.0.1:7000 --report-port 7000
says "a port named at the source" "^rdma-migrate: source takes --report-port 0 only.*give --report-port 7001 to rdma-migrate target" source --to tcp:h:1 --report-port 7001
target t --listen tcp:127.0.0.1:0 --report-port 0
both
verdict "no results, because the target wants none" "$([ "$scode $tcode" = "0 0" ] && grep -q '"both_ends":false' "$tmp/s.json" || echo "$scode $tcode")$(cat "$tmp/s.err"; grep -v listening "$tmp/t.err")"
verdict "a source alone says no more than it knows" "$(grep -q "so  *The VM is the target's\.\$" "$tmp/s.out" || echo no)"
verdict "a target alone prints nothing of the source's" "$(grep -E 'rounds|downtime|throughput|source [0-9]' "$tmp/t.out")"
target t --listen tcp:127.0.0.1:0
both --report-port 0
verdict "no results, because the source wants none" "$([ "$scode $tcode" = "0 0" ] && grep -q '"both_ends":false' "$tmp/s.json" || echo "$scode $tcode")$(cat "$tmp/s.err")"
verdict "the target says that it heard none" "$(grep -q "the source's results did not come (port [0-9]*: .*); the table is of this end alone" "$tmp/t.err" || cat "$tmp/t.err")"

# Refused before the two have agreed
target t --listen tcp:127.0.0.1:0 --arbiter "file:$tmp"
both
for end in s t; do
	other=$([ $end = s ] && echo target || echo source)
	verdict "refused in the reservation, $end" "$(grep -q "the $other's results are not available: the migration ended before the two ends had agreed" "$tmp/$end.err" || cat "$tmp/$end.err")"
done
verdict "a target that refused says: not here" "$([ $tcode = 2 ] && grep -q 'so  *The VM is not here: ' "$tmp/t.out" || cat "$tmp/t.out")"

# A target that dies, and whose source hears nothing of it: each phase
died()
{
	local phase=$1 code=$2 owner=$3 so=$4 end=${5:-target}
	target t --listen tcp:127.0.0.1:0 --report-port 0 "${soon[@]}" $([ $end = target ] && echo "--kill target@$phase")
	both --mode post-copy --max-rounds 1 "${soon[@]}" $([ $end = source ] && echo "--kill source@$phase")
	local got=$tcode f=t
	[ $end = target ] || { got=$scode f=s; }
	verdict "$end killed in $phase, alone" "$([ $got = $code ] || echo "exit code $got, not $code;"
		grep -q "\"owner\":\"$owner\"" "$tmp/$f.json" || echo "owner $(grep -o '"owner":"[a-z]*"' "$tmp/$f.json");"
		grep -qE "so  *$so" "$tmp/$f.out" || echo "no \"$so\";"
		[ "$phase" = post-copy ] || grep -q 'mutator: unknown' "$tmp/$f.out" || [ $end = source ] || echo "a mutator that this end never had;"
		[ $end = source ] || grep -q '"mutator":""' "$tmp/$f.json" || echo "a mutator in the JSON")"
}
its="before the VM could be its own: it is the source's, as it must after target@"
for phase in reservation pre-copy stop-and-copy post-copy; do
	died $phase 0 source "The target's process died in $phase, $its$phase\."
	verdict "the source of it" "$([ $scode = 2 ] && grep -q 'so  *The VM went on at the source: ' "$tmp/s.out" && ! grep -q 'died with' "$tmp/s.out" || echo "exit code $scode")"
done
died commitment 4 unknown "The target's process died in commitment; which end has the VM cannot be known here\."
died activation 0 none "The VM died with the target's process, in activation, as it must after target@activation\."
for phase in reservation pre-copy stop-and-copy post-copy; do
	died $phase 0 none "The VM died with the source's process, in $phase, as it must after source@$phase\." source
	[ $phase = reservation ] || verdict "the target of it" "$(grep -q 'so  *The VM is not here: ' "$tmp/t.out" || echo no)"
done
died commitment 4 unknown "The source's process died in commitment; which end has the VM cannot be known here\." source

# Whole programs that are ended from outside while pages move
for signal in INT KILL; do
	for end in source target; do
		target t --listen tcp:127.0.0.1:0 "${soon[@]}"
		rm -f "$tmp"/s.*
		timeout 120 "$program" source --to "$uri" "${guest[@]/64M/128M}" --bandwidth 8M --mode stop-and-copy "${soon[@]}" --json "$tmp/s.json" \
			>"$tmp/s.out" 2>"$tmp/s.err" &
		source=$!
		bytes() { ss -Htni "sport = :${uri##*:}" | grep -o 'bytes_received:[0-9]*' | cut -d: -f2 | sort -n | tail -n 1; }
		until [ "$(bytes)" -gt 1000000 ] 2>/dev/null; do
			kill -0 $source 2>/dev/null || break
			sleep 0.05
		done
		victim=${!end}
		pkill -$signal -P $victim -x rdma-migrate
		wait $source; scode=$?
		wait $target; tcode=$?
		if [ $end = source ]; then
			verdict "the source's program is ended by SIG$signal" "$([ $tcode = 2 ] && grep -q 'so  *The VM is not here: the link' "$tmp/t.out" || echo "exit code $tcode;"
				grep -q "the source's results did not come (port [0-9]*: " "$tmp/t.err" || echo "it does not say that nothing came";  cat "$tmp/s.out")"
		else
			verdict "the target's program is ended by SIG$signal" "$([ $scode = 2 ] && grep -q 'so  *The VM went on at the source: the link' "$tmp/s.out" || echo "exit code $scode;"
				grep -q "the target's results did not come (port [0-9]*: " "$tmp/s.err" || echo "it does not say that nothing came"; cat "$tmp/t.out")"
		fi
	done
done

# A host without KVM
if ! unshare -m true 2>/dev/null; then
	echo "[SKIP] cli_peer::without KVM: no mount namespace is permitted here"
	exit $failed
fi
without_kvm() # COMMAND...
{
	mkdir -p "$tmp/dev"
	unshare -m bash -c 'mount -t tmpfs none "$0" && cp -a /dev/null /dev/zero /dev/urandom "$0" || exit 99
		[ ! -e /dev/userfaultfd ] || cp -a /dev/userfaultfd "$0"
		mount --move "$0" /dev && exec "$@"' "$tmp/dev" "$@"
}
rm -f "$tmp"/t.*
without_kvm timeout 120 "$program" target --listen tcp:127.0.0.1:0 --report-port 0 --json "$tmp/t.json" --quiet --kill target@pre-copy >"$tmp/t.out" 2>"$tmp/t.err" &
target=$!
until uri=$(sed -n 's/^listening on //p' "$tmp/t.err") && [ -n "$uri" ]; do sleep 0.02; done 2>/dev/null
without_kvm timeout 120 "$program" source --to "$uri" "${guest[@]}" "${soon[@]}" >"$tmp/s.out" 2>"$tmp/s.err"
wait $target
verdict "without KVM a target that never had the VM names no mutator" "$(grep -q 'mutator: unknown' "$tmp/t.out" || head -n 1 "$tmp/t.out")"
verdict "without KVM the source says host thread" "$(grep -q 'mutator: host thread (no /dev/kvm' "$tmp/s.out" || head -n 1 "$tmp/s.out")"
without_kvm timeout 120 "$program" run "${guest[@]}" --floor off --dirty-tracking ring >"$tmp/s.out" 2>&1
code=$?
verdict "without KVM there are no dirty rings" "$([ $code = 5 ] && grep -q "KVM's dirty ring does not see: use auto, or a guest on /dev/kvm" "$tmp/s.out" || echo "exit code $code: $(cat "$tmp/s.out")")"
exit $failed
