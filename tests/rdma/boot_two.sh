# SPDX-License-Identifier: MIT
# Two guests joined by a wire: a real guest of 256 MiB moves from one to the other while it dirties memory. Sourced by
# tests/rdma/run; each test_NAME is a test of its own, in this order.
. "$TOP/tests/rdma/pair.sh"

PAGES=$((256 << 8))

# moves ID PATTERN OPTIONS...: both ends say so, and have the same proof
moves()
{
	local id=$1 pattern=$2 f
	shift 2

	run_target "$id" "" --quiet || return
	run_source "$id" --quiet --memory 256M --working-set 64M --dirty-rate 2000 "$@"
	both_end "$id" 120 || { fail "$id" "an end failed"; return; }
	for f in s t; do
		proved "$id" "$RESULTS/$id.$f.json" $PAGES '"both_ends":true' '"source_host":"a","target_host":"b"' \
			'"outcome":"migrated","owner":"target"' "$pattern" || return
	done
	pass "$id"
}

# It was dirtied meanwhile: a second round had pages.
AGAIN='"round":2,"pages_sent":[1-9]'
LEFT='"pages_residue":[1-9]'

test_stop_and_copy_anon()
{
	moves stop_and_copy_anon "$AGAIN" --mode stop-and-copy --memory-kind anon --downtime 2s
}

test_stop_and_copy_memfd()
{
	moves stop_and_copy_memfd "$AGAIN" --mode stop-and-copy --memory-kind memfd --downtime 2s
}

test_post_copy_anon()
{
	moves post_copy_anon "$LEFT" --mode post-copy --max-rounds 1 --memory-kind anon
}

test_post_copy_memfd()
{
	moves post_copy_memfd "$LEFT" --mode post-copy --max-rounds 1 --memory-kind memfd
}
