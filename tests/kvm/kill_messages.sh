#!/bin/bash
# SPDX-License-Identifier: MIT
# Real guests and drills at messages: an end killed or the link cut at one, the owner that docs/failure-model.md names, and
# the proof. The kill matrix has every message; here are those between which the ownership changes, and one a phase.
set -u
program=$2/rdma-migrate
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
if ! [ -r /dev/kvm ] || ! [ -w /dev/kvm ]; then
	echo "[SKIP] kill_messages: no /dev/kvm that can be used"
	exit 77
fi
. "$1/tests/lib/patience.sh"
clean='"outputs_seen":[1-9][0-9]*,"outputs_missing":0,"outputs_repeated":0'

# drill KILL EXIT_CODE OUTCOME OWNER [options]: and, where somebody owns the VM, every page as it must be
drill()
{
	local kill=$1 want=$2 outcome=$3 owner=$4 name="$1${5:+ ${*:5}}" json bad="" code pattern back
	shift 4

	json=$(mktemp -p "$tmp")
	timeout 300 "$program" run --memory 64M --working-set 16M --dirty-rate 20000 --floor off --quiet --mode post-copy --max-rounds 1 \
		--reconnect "${PATIENCE}s" --timeout "$((2 * PATIENCE))s" --kill "$kill" --json "$json" "$@" >"$json.out" 2>&1
	code=$?
	[ $code = "$want" ] || bad="exit code $code, not $want;"
	back='"reconnects":'
	# A link that was cut, and a VM that moved: over another link.
	[[ $kill$outcome != link@*migrated ]] || back='"reconnects":[1-9]'
	for pattern in "\"outcome\":\"($outcome)\"" "\"owner\":\"$owner\"" "$clean" "$back"; do
		grep -qE -- "$pattern" "$json" || bad="$bad no match for $pattern;"
	done
	case $owner in
	source | target) grep -q '"pages_checked":16384,"pages_bad":0' "$json" || bad="$bad the proof is not clean;" ;;
	esac
	if [ -z "$bad" ]; then
		echo "[PASS] kill_messages::$name"
	else
		echo "[FAIL] kill_messages::$name: $bad $(cat "$json.out" "$json")"
		return 1
	fi
}

# Two at a time: most of it is waiting.
failed=0
two()
{
	drill "$@" &
	[ "$(jobs -pr | wc -l)" -lt 3 ] || wait -n || failed=1
}

two target@HELLO 0 refused source
two source@RESERVED 0 'refused|discarded' none
two target@ROUND_END 0 refused source
two source@PREARMED 0 discarded none
two link@ROUND_ACK:50 0 migrated target
two link@SWITCHOVER:50 0 fell-back source
two target@SWITCHOVER 0 fell-back source --memory-kind memfd
two target@RUNNING 0 fell-back source
two source@RUNNING 0 discarded none
two link@RUNNING 0 fell-back source --memory-kind memfd
two target@PREPARED 0 fell-back source
two link@PREPARED:50 0 migrated target
two source@PREPARED 4 in-doubt unknown
two link@COMMIT 4 in-doubt unknown
two link@COMMIT:50 0 migrated target --memory-kind memfd
two target@COMMIT 4 in-doubt unknown
two source@COMMITTED 0 migrated target
two link@COMMITTED:50 0 migrated target --commit-at switchover
two link@COMPLETE:50 0 migrated target --commit-at switchover --memory-kind memfd
two source@BYE 0 migrated target
while [ -n "$(jobs -p)" ]; do
	wait -n || failed=1
done
exit $failed
