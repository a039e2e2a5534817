#!/bin/bash
# SPDX-License-Identifier: MIT
# Checks the model of the commit protocol with spin, and that each of its mutations is found.
#	run.sh SOURCE_DIR BINARY_DIR [--table]	--table prints the tables of docs/failure-model.md
set -u
set -- "$(realpath "$1")" "$(realpath "$2")" "${3:-}"
SELF=$1/tests/model/run.sh
MODEL=$1/tests/model/commit.pml
DOC=$1/docs/failure-model.md
WORK=$2/tests/model
TABLE=${3:-}
DEPTH=1000
failed=0

mkdir -p "$WORK"
command -v spin >/dev/null || { echo "[SKIP] model: spin is not installed"; exit 77; }

# search NAME SPIN-DEFINES CC-DEFINES [PAN ARGUMENTS]: builds and runs pan in a directory of its own; log: pan's words
search()
{
	local dir=$WORK/$1 spin_d=$2 cc_d=$3
	shift 3

	rm -rf "$dir" && mkdir -p "$dir" && cd "$dir" || return
	# shellcheck disable=SC2086
	spin -a $spin_d "$MODEL" >log 2>&1 && gcc -w $cc_d -DMEMLIM=3000 -o pan pan.c >>log 2>&1 || return
	./pan -m$DEPTH "$@" >>log 2>&1
	rm -f pan pan.?
}

# The whole state space was looked at, and nothing was wrong.
clean()
{
	grep -q 'errors: 0$' "$1" && ! grep -q 'not completed\|max search depth too small\|truncated' "$1"
}

figures()
{
	awk '/depth reached/ { depth = $6 + 0 } / states, stored/ { states = $1 } /pan: elapsed time/ { s = $4 }
		END { printf "depth %d, %d states, %.1f s", depth, states, s }' "$1"
}

# check NAME "what it holds" SPIN-DEFINES CC-DEFINES [PAN ARGUMENTS]
check()
{
	local name=$1 what=$2
	shift 2

	search "$name" "$@"
	if clean "$WORK/$name/log"; then
		echo "[PASS] model::$name: $what: $(figures "$WORK/$name/log")"
	else
		echo "[FAIL] model::$name: $what"
		grep -v '^ending' "$WORK/$name/log" | tail -n 30
		failed=1
	fi
}

# mutation NAME[=VALUE] ARBITER TIMING [WAY [HOW]]: one mistake, which the search must find (WAY: where, to save time; -:
# anywhere). HOW: "cycle", by a migration that never ends; "waits", by ends that stand still though nobody gives them up;
# "lie", by an assert alone
mutation()
{
	local name=mutation_${1,,} log found

	log=$WORK/$name/log
	case ${5:-} in
	cycle)
		found='non-progress cycle'
		search "$name" "-DMUTATE_$1 -DARBITER=$2 -DTIMING=$3 -DWAY=$4" "-O0 -DNP" -l
		;;
	lie)
		found='assertion violated'
		search "$name" "-DMUTATE_$1 -DARBITER=$2 -DTIMING=$3 -DWAY=$4" "-O0 -DSAFETY" -E
		;;
	waits) # -A: whatever the asserts say of it
		found='invalid end state'
		search "$name" "-DMUTATE_$1 -DARBITER=$2 -DTIMING=$3 -DWAY=$4 -DFAILS=false" "-O0 -DSAFETY" -A
		;;
	*)
		found='\(assertion violated\|invalid end state\)'
		search "$name" "-DMUTATE_$1 -DARBITER=$2 -DTIMING=$3 ${4:+-DWAY=$4}" "-O0 -DSAFETY"
		;;
	esac
	if grep -q "^pan:1: $found" "$log"; then
		echo "[PASS] model::$name: found, $(figures "$log")"
	else
		echo "[FAIL] model::$name: not found"
		tail -n 5 "$log"
		return 1
	fi
}

# endings LOG: "way/all here" and each pair that was reached, tab-separated
endings()
{
	sed -n 's/^ending: \([^:]*\): \(.*\)$/\1\t\2/p' "$1"
}

# What each way to finish may come to, without an arbiter and with one.
model_table()
{
	awk -F '\t' '
	BEGIN {
		n = split("stop|completion|early|early, all here|server|server, all here", way, "|")
		split("stop-and-copy|commit at completion|commit at the hold limit, pages missing|hold limit, all pages here in time|" \
			"commit at switchover, pages missing|commit at switchover, all pages here in time", text, "|")
		m = split("refused|fell back|migrated|lost|in doubt|dead", source, "|")
		k = split("discarded|migrated|lost|in doubt|dead", target, "|")
	}
	{ sub(/^(stop|completion), all here$/, substr($1, 1, index($1 ",", ",") - 1), $1); got[FILENAME, $1, $2] = 1; file[FILENAME] = 1 }
	function cell(f, w,   i, j, out, p) {
		for (i = 1; i <= m; i++)
			for (j = 1; j <= k; j++) {
				p = source[i] " / " target[j]
				if (p != "dead / dead" && (f, w, p) in got)
					out = out (out ? ", " : "") (source[i] == target[j] ? source[i] : p)
			}
		gsub("in doubt", "**in doubt**", out)
		return out
	}
	END {
		print "| way to finish | without an arbiter: source / target | with one that answers |\n|---|---|---|"
		for (i = 1; i <= n; i++)
			print "| " text[i] " | " cell(ARGV[1], way[i]) " | " cell(ARGV[2], way[i]) " |"
	}' "$1" "$2"
}

# The pairs of the kill matrix from pre-copy on, a line each: way, tab, pair.
matrix_pairs()
{
	sed -n '/matrix: begin/,/matrix: end/p' "$DOC" | awk -F ' *[|] *' '
	$3 ~ /pre-copy|downtime|post-copy|pull|commit|activation|end$/ && NF > 10 {
		w = $4
		is["stop"] = w ~ /any|stop-and-copy|not at switchover|not at completion/
		is["completion"] = w ~ /any|commit at completion|not at switchover|^post-copy/
		is["server"] = w ~ /any|commit at switchover|not at completion|^post-copy/
		for (i = 5; i < NF; i++) {
			n = split($i, pair, " or ")
			for (j = 1; j <= n; j++) {
				gsub(/[*]/, "", pair[j])
				if (pair[j] == "") continue
				if (pair[j] !~ "/") pair[j] = pair[j] " / " pair[j]
				for (s in is) if (is[s]) print s "\t" pair[j]
			}
		}
	}' | sort -u
}

model_pairs()
{
	awk -F '\t' '$2 != "dead / dead" { if ($1 == "server, all here" || $1 ~ /^early/) next
		sub(/, all here/, "", $1); print $1 "\t" $2 }' "$1" | sort -u
}

same()
{
	if diff "$2" "$3" >"$WORK/diff"; then
		echo "[PASS] model::$1: $4"
	else
		echo "[FAIL] model::$1: $4, is not so (< $5):"
		cat "$WORK/diff"
		failed=1
	fi
}

FULL="-Og -DSAFETY" # gcc takes longer over -O2 than it saves
check strangers "the link comes back in time, others answer in the target's place" "-DARBITER=0 -DTIMING=HEALS -DSTRANGERS" "$FULL"
check heals_ends "so it comes to an end" "-DARBITER=0 -DTIMING=HEALS" "-Og -DNP" -l
check heals_arbiter "the link comes back in time, an arbiter" "-DARBITER=1 -DTIMING=HEALS" "$FULL"
check stops "any wait may be too long" "-DARBITER=0 -DTIMING=STOPS" "$FULL"
check cut_arbiter "the link is lost for good, others answer, an arbiter too" "-DARBITER=1 -DTIMING=CUT -DSTRANGERS" "$FULL"
check stops_arbiter "any wait may be too long, the arbiter may be silent and is asked again" "-DARBITER=2 -DTIMING=STOPS" "$FULL"

check repeats "the link comes back for ever and carries no pages" "-DARBITER=0 -DTIMING=REPEATS" "$FULL"
check repeats_ends "so it comes to an end, whatever the link does" "-DARBITER=0 -DTIMING=REPEATS" "-Og -DNP" -l
check strangers_ends "others answer for ever, nobody gives up by himself, and it comes to an end" \
	"-DARBITER=0 -DTIMING=REPEATS -DSTRANGERS -DFAILS=false" "-Og -DNP" -l
check repeats_arbiter "the link comes back for ever, an arbiter answers" "-DARBITER=1 -DTIMING=REPEATS" "$FULL"

endings "$WORK/stops/log" >"$WORK/alone"
endings "$WORK/cut_arbiter/log" >"$WORK/arbitrated"
model_table "$WORK/alone" "$WORK/arbitrated" >"$WORK/table"
[ "$TABLE" != --table ] || { cat "$WORK/table"; exit $failed; }
sed -n '/model: begin/,/model: end/p' "$DOC" | grep '^|' >"$WORK/documented"
same endings "$WORK/documented" "$WORK/table" "docs/failure-model.md lists the endings that the model has, and no others" document
matrix_pairs >"$WORK/matrix"
# No fault of the matrix lets the last pages through while COMMITTED is lost.
printf 'server\tin doubt / migrated\n' | sort -um "$WORK/matrix" - >"$WORK/matrix_and"
model_pairs "$WORK/alone" >"$WORK/model"
same matrix "$WORK/matrix_and" "$WORK/model" "the kill matrix and the model have the same endings" matrix

# Each with the setting in which it shows.
while read -r name arbiter timing way how; do
	mutation "$name" "$arbiter" "$timing" "$way" "$how" || failed=1
done <<END
SOURCE_RESUMES_AFTER_COMMIT 0 HEALS
COMMITTED_LOST_IS_AN_ABORT 0 CUT
ABORT_AFTER_COMMIT 0 HEALS
SILENCE_IS_PREPARED 0 HEALS
COMMIT_IS_NOT_REPEATED 0 HEALS
ABORT_SAID_ONCE 0 HEALS
HELLO_ACK_IS_MUTE 0 HEALS
RELEASES_BEFORE_COMMIT 0 HEALS
TARGET_RUNS_ON 0 HEALS
RUNS_IN_DOUBT 0 STOPS
FORGETS_WHAT_IT_PREPARED 0 STOPS
LOST_WITH_ALL_PAGES_HERE 0 HEALS SERVER
FORGETS_THAT_ALL_IS_HERE 1 HEALS EARLY
CLAIMS_WITHOUT_ITS_PAGES 1 CUT SERVER
ARBITER_IS_NOT_ASKED 1 CUT
ARBITER_IS_IGNORED 1 CUT
RESUMES_BEFORE_IT_ASKS 1 CUT
SOURCE_GIVES_UP_FIRST 1 CUT SERVER
SOURCE_IS_ASKED_FIRST 2 CUT SERVER
WINDOW_STARTS_ANEW=PRECOPY 0 REPEATS STOP cycle
WINDOW_STARTS_ANEW=PREPARE 0 REPEATS COMPLETION cycle
WINDOW_STARTS_ANEW=POSTCOPY 0 REPEATS COMPLETION cycle
WINDOW_STARTS_ANEW=COMMITMENT 0 REPEATS STOP cycle
WINDOW_STARTS_ANEW=PAGE_SERVER 0 REPEATS SERVER cycle
WINDOW_STARTS_ANEW=GOODBYE 0 REPEATS STOP cycle
WAITS_WHILE_THE_LINK_IS_UP 0 REPEATS SERVER
NUMBER_IS_NOT_CHECKED 0 HEALS COMPLETION lie
ABORT_OF_A_STRANGER_IS_HEARD 1 HEALS EARLY
NOBODY_HAS_A_NUMBER 0 HEALS COMPLETION waits
STRANGER_STARTS_THE_WINDOW_ANEW 0 REPEATS COMPLETION cycle
TARGET_TAKES_ANY_SOURCE 0 HEALS STOP
END
# A mistake in the model that nothing tries would prove nothing.
for name in $(grep -o 'MUTATE_[A-Z_]*[A-Z]' "$MODEL" | sort -u); do
	grep -q "^${name#MUTATE_}[= ]" "$SELF" || { echo "[FAIL] model::mutations: $name is not tried"; failed=1; }
done
exit $failed
