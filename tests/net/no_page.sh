#!/bin/bash
# SPDX-License-Identifier: MIT
# Links that carry messages and no pages: a path whose MTU is smaller than its ends believe, from the start and from the
# middle of each phase on. Who waits for pages gives up in bounded time, both say why, and the VM is where it must be. Links
# that are slow, lossy or gone for a while, and move, are not given up.
#	no_page.sh SOURCE_DIR BINARY_DIR [CASE..]
set -u
. "$1/tests/lib/wire.sh"
program=$2/rdma-migrate
binaries=$2
shift 2
only=" $* "
tmp=$(mktemp -d)
failed=0
guest=(--memory 64M --working-set 16M --dirty-rate 20000)
limits=(--timeout 1s --reconnect 1s)

finish()
{
	wire_down
	rm -rf "$tmp"
}
trap finish EXIT
trap 'exit 143' INT TERM
wire_up "$binaries" || { echo "[SKIP] no_page: $WIRE_WHY"; exit 77; }

host() # NAMESPACE END OPTIONS...
{
	local ns=$1 end=$2
	shift 2
	exec ip netns exec "$ns" timeout -s KILL 100 "$program" "$end" "${limits[@]}" --quiet "$@"
}

# begin TARGET-OPTIONS -- SOURCE-OPTIONS: both ends, in the background
begin()
{
	local options=() fifo=$tmp/listening uri

	while [ "$1" != -- ]; do options+=("$1"); shift; done
	shift
	rm -f "$tmp"/*
	mkfifo "$fifo"
	host "$B" target --listen tcp:10.98.0.2:7000 --json "$tmp/t.json" "${options[@]}" >"$tmp/t.out" 2>"$fifo" &
	target=$!
	exec 3<"$fifo"
	read -r _ _ uri <&3
	cat <&3 >"$tmp/t.err" &
	host "$A" source --to "$uri" "${guest[@]}" --json "$tmp/s.json" "$@" >"$tmp/s.out" 2>"$tmp/s.err" &
	source=$!
}

# One round of this guest is 68 MB of packets; some 17 MB follow in post-copy.
postcopy_hole()
{
	wire rate 20000
	wire_carried ab
	wire after $((WIRE + 72000000)) hole 1000
}

end()
{
	wait $source
	scode=$?
	wait $target
	tcode=$?
	exec 3<&-
	wire clear
}

# judge NAME CODES PATTERN-IN-S PATTERN-IN-T: patterns of what each end says in all
judge()
{
	local why="" f

	[ "$scode $tcode" = "$2" ] || why="exit codes $scode and $tcode, not $2;"
	for f in s t; do
		grep -qE -- "$([ $f = s ] && echo "$3" || echo "$4")" "$tmp/$f.json" "$tmp/$f.out" "$tmp/$f.err" ||
			why="$why $f does not say \"$([ $f = s ] && echo "$3" || echo "$4")\";"
	done
	if [ -z "$why" ]; then
		echo "[PASS] no_page::$1 (${SECONDS}s)"
	else
		echo "[FAIL] no_page::$1: $why"
		head -n 40 "$tmp"/s.out "$tmp"/s.err "$tmp"/t.out "$tmp"/t.err
		failed=1
	fi
}

case_is()
{
	SECONDS=0
	[ "$only" = "  " ] || [[ $only == *" $1 "* ]]
}

owner_is() # END OUTCOME OWNER: in its object
{
	grep -q "\"outcome\":\"$2\",\"owner\":\"$3\"" "$tmp/$1.json" || { echo "[FAIL] $1 has no outcome $2: $(grep -oE '"outcome":"[^"]*","owner":"[^"]*"' "$tmp/$1.json")"; failed=1; }
}

proved='"pages_bad":0,"guest_errors":0'

if case_is start; then
	wire hole 1000
	begin -- --mode stop-and-copy
	end
	judge "from the start" "2 2" MTU MTU
	owner_is s refused source
fi

if case_is round; then
	wire_carried ab
	wire after $((WIRE + 20000000)) hole 1000
	begin -- --mode stop-and-copy
	end
	judge "in the middle of a round" "2 2" MTU MTU
	owner_is s refused source
fi

if case_is postcopy; then
	postcopy_hole
	begin -- --mode post-copy --max-rounds 1
	end
	judge "in post-copy" "2 2" MTU MTU
	owner_is s fell-back source
	grep -q "$proved" "$tmp/s.json" || { echo "[FAIL] the VM is not right at the source"; failed=1; }
fi

if case_is server; then
	postcopy_hole
	begin -- --mode post-copy --max-rounds 1 --commit-at switchover
	end
	judge "under a page server" "4 4" MTU MTU
	owner_is s lost target
fi

moved='"outcome":"migrated","owner":"target"'
# Only what the target says is short: a hole in its direction costs nothing but the exchange of results.
if case_is backwards; then
	wire ba hole 1000
	begin --report-port 0 -- --mode post-copy --max-rounds 1 --report-port 0
	end
	judge "a hole where no page goes" "0 0" "$moved" "$moved"
fi

if case_is slow; then
	guest=(--memory 32M --working-set 2M --dirty-rate 500 --populate 10)
	wire rate 400
	begin -- --mode post-copy --max-rounds 1
	end
	judge "400 kB/s" "0 0" "$moved" "$moved"
	guest=(--memory 64M --working-set 16M --dirty-rate 20000)
fi

if case_is lossy; then
	guest=(--memory 32M --working-set 2M --dirty-rate 500 --populate 10)
	wire loss 5
	wire delay 2
	wire_dropped
	dropped=$WIRE
	begin --timeout 3s --reconnect 5s -- --mode post-copy --max-rounds 1 --timeout 3s --reconnect 5s
	end
	wire_dropped && [ "$WIRE" -gt "$dropped" ] || { echo "[FAIL] no_page: no packet was lost"; failed=1; }
	judge "one packet in twenty is lost" "0 0" "$moved" "$moved"
	guest=(--memory 64M --working-set 16M --dirty-rate 20000)
fi

# Each cut is shorter than what is waited for, all of them together are longer, and something comes between.
if case_is flaps; then
	wire rate 20000
	wire_dropped
	dropped=$WIRE
	wire_carried ab
	at=$((WIRE + 60000000))
	begin --reconnect 3s -- --mode post-copy --max-rounds 1 --working-set 48M --dirty-rate 100000 --reconnect 3s
	for n in 1 2 3 4; do
		wire after $((at += 10000000)) cut 1300
		wire_await ab $((at + 1000000)) || { echo "[FAIL] nothing comes behind cut $n"; failed=1; }
	done
	end
	judge "gone for a while, four times" "0 0" "$moved" "$moved"
	wire_dropped && [ "$WIRE" -gt "$dropped" ] && grep -q '"reconnects":[1-9]' "$tmp/s.json" ||
		{ echo "[FAIL] no_page: nothing vanished in the cuts, or the link never was lost"; failed=1; }
fi
exit $failed
