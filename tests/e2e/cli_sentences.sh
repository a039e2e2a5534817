#!/bin/bash
# SPDX-License-Identifier: MIT
# What rdma-migrate says when it refuses: the whole of it, each with what, where and how to mend it.
set -u
program=$2/rdma-migrate
failed=0

# says CODE SENTENCE ARGUMENTS...
says()
{
	local code=$1 sentence="rdma-migrate: $2" said got
	shift 2

	said=$(timeout 60 "$program" "$@" 2>&1 >/dev/null)
	got=$?
	if [ "$said" = "$sentence" ] && [ $got = "$code" ]; then
		echo "[PASS] cli_sentences::$*"
	else
		echo "[FAIL] cli_sentences::$*: exit code $got (not $code), it says"
		printf '%s\n' "$said" "instead of" "$sentence"
		failed=1
	fi
}

says 1 '"now" is not an option; options begin with --, see rdma-migrate help.' run now
says 1 'there is no option --speed; see rdma-migrate help.' run --speed 3
says 1 'target does not take --memory; see rdma-migrate help.' target --memory 1G
says 1 '--memory takes a size from 32M to 256G in whole 2M, such as 512M or 2G, not "1GB".' run --memory 1GB
says 1 '--memory takes a size from 32M to 256G in whole 2M, such as 512M or 2G.' run --memory
says 1 '--mode takes auto, stop-and-copy or post-copy, not "fast".' run --mode fast
says 1 '--dirty-tracking takes auto, log or ring, not "bitmap".' run --dirty-tracking bitmap
says 1 'target does not take --dirty-tracking; see rdma-migrate help.' target --dirty-tracking ring
says 1 '--downtime takes a duration such as 300ms, 2s or 500us, not "300".' run --downtime 300
says 1 '--timeout takes a duration of at least 10ms such as 3s, not "1ms".' run --timeout 1ms
says 1 '--working-set takes at most --memory less 16M, 48M here, not 64M.' run --memory 64M --working-set 64M
says 1 '--pull takes at most the 2048 pages of --working-set, not 4000.' floor --memory 32M --working-set 8M --pull 4000
says 1 '--pull is measured over --uri tcp:HOST:PORT only, not "rdma:127.0.0.1:0".' floor --pull 4000 --uri rdma:127.0.0.1:0
says 1 '--quiet takes no value, not "yes".' run --quiet=yes
says 1 'source needs --to tcp:HOST:PORT, where a target listens.' source
says 1 '--kill at the source cannot reach the other end: give it to rdma-migrate target.' \
	source --to tcp:127.0.0.1:1 --kill target@precopy
says 1 '--json /nonexistent/x: No such file or directory; name a file that can be written.' run --json /nonexistent/x
says 1 'there is no command "walk"; the commands are run, source, target, floor, sweep, plot, doctor, version and help.' \
	help walk

# helps COMMAND OPTION WITHOUT: both ways to ask tell the same, its options and no others
helps()
{
	local says

	says=$(timeout 60 "$program" help "$1")
	if [ "$says" = "$(timeout 60 "$program" "$1" --help)" ] && grep -q -- "^  $2 " <<<"$says" &&
		! grep -q -- "^  $3 " <<<"$says"; then
		echo "[PASS] cli_sentences::help $1"
	else
		echo "[FAIL] cli_sentences::help $1"
		echo "$says"
		failed=1
	fi
}
helps target --listen --memory
helps doctor --json --uri
exit $failed
