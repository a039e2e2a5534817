#!/bin/bash
# SPDX-License-Identifier: MIT
# The manual says what there is: a page for each public symbol, each option and field of the JSON, and no broken reference;
# and the completion offers what the program takes.
set -u
src=$1 build=$2
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
suite=manual
. "$src/tests/lib/verdict.sh"
man=$build/man
program=$build/rdma-migrate

# Whether pages refer to pages that exist is judged below: mandoc would ask the system's.
if command -v mandoc >/dev/null; then
	for page in "$src"/docs/man/*.3 "$man/rdma-migrate.1"; do
		said=$(mandoc -T lint "$page" 2>/dev/null | grep -v 'referenced manual not found')
		verdict "lint of $(basename "$page")" "$said"
	done
else
	echo "[SKIP] manual::lint: there is no mandoc here; tests/run installs it on Debian"
fi

symbols=$(sed -n 's/^[[:space:]]*\(ferry_[a-z0-9_]*\);$/\1/p' "$src"/runtime/ferry.map
	echo ferry_arbiter_etcd_ask) # of a library of its own
why=""
for symbol in $symbols; do
	page=$(grep -lE "^\.Nm $symbol( ,)?\$" "$src"/docs/man/*.3)
	if [ "$(wc -w <<<"$page")" != 1 ]; then
		why="$why $symbol is in the NAME of ${page:-no page};"
	else
		grep -qE "^\.F[no] $symbol( |\$)" "$page" || why="$why $(basename "$page") does not declare $symbol;"
		[ -f "$man/$symbol.3.gz" ] || why="$why no $symbol.3 is built;"
		for section in "RETURN VALUES" THREADS; do
			grep -q "^\.Sh $section" "$page" || grep -q '^.Ft void' "$page" || why="$why $page has no $section;"
		done
	fi
done
verdict "a page for each of $(wc -w <<<"$symbols") symbols" "$why"

why=""
for name in $(sed -n 's/^\.Nm \(ferry_[a-z0-9_]*\).*/\1/p' "$src"/docs/man/*.3); do
	grep -qw "$name" <<<"$symbols ferry_ops ferry_arbiter_etcd_ask" || why="$why $name is no symbol;"
done
for xr in $(cat "$src"/docs/man/*.3 "$man/rdma-migrate.1" | awk '/(^|\.It )\.?Xr/ { sub(/.*Xr /, ""); print $1 "." $2 }' |
	grep -E '^(ferry|rdma)' | sort -u); do
	[ -f "$man/$xr.gz" ] || why="$why $xr is referred to;"
done
verdict "references" "$why"

# The constants and fields of the headers are explained somewhere.
why=""
for word in $(grep -ohE '\bFERRY_(CONFIG|REGION|MODE|COMMIT|HOLD|EVENT|KVM|TRACK)_[A-Z0-9_]+\b' "$src"/include/ferry/*.h | sort -u); do
	case $word in
	FERRY_KVM_H | FERRY_MODE_H | FERRY_TRACK_H | FERRY_KVM_SECTION_NEED_*) continue ;;
	esac
	grep -qw "$word" "$src"/docs/man/*.3 || grep -q "${word%_INIT}" "$src"/docs/man/*.3 || why="$why $word;"
done
verdict "constants" "$why"

"$program" help >"$tmp/help"
why=""
for option in $(sed -n 's/^  --\([a-z0-9-]*\).*/\1/p' "$tmp/help"); do
	grep -qE "^\.It Fl Fl $option( |\$)" "$man/rdma-migrate.1" || why="$why --$option;"
done
[ "$(grep -c '^  --' "$tmp/help")" = "$(grep -c '^.It Fl Fl' "$man/rdma-migrate.1")" ] || why="$why not as many as in help;"
for command in $(sed -n 's/^  rdma-migrate \([a-z |]*[a-z]\).*/\1/p' "$tmp/help" | tr -d '|'); do
	grep -qE "^\.It Cm $command( |\$)" "$man/rdma-migrate.1" || why="$why $command;"
done
verdict "options of rdma-migrate(1)" "$why"

# Every field that a run with a floor beside it and faults in it has
why=""
"$program" run --memory 64M --quiet --mode post-copy --max-rounds 1 --run-on 1ms --json "$tmp/json" >"$tmp/out" 2>&1
if [ -s "$tmp/json" ]; then
	fields=$(grep -oE '"[a-z0-9_]+":' "$tmp/json" | tr -d '":' | sort -u)
	for field in $fields; do
		grep -qE "(Va|,) ($field)( |\$)" "$man/rdma-migrate.1" || why="$why $field;"
	done
	verdict "$(wc -w <<<"$fields") fields of the JSON" "$why"
else
	tail -n 5 "$tmp/out"
	verdict "fields of the JSON" "rdma-migrate run wrote none"
fi

# Completion: for each command exactly what the program does not refuse for it.
. "$src/bench/cli/rdma-migrate.bash"
complete_words() # WORDS...: the last is being typed
{
	COMP_WORDS=("$program" "$@")
	COMP_CWORD=$#
	_rdma_migrate "$program" "${*: -1}" "${COMP_WORDS[$(($# - 1))]}"
}
complete_words ''
commands=("${COMPREPLY[@]}")
why=""
[ ${#commands[@]} -ge 6 ] || why="the commands are ${commands[*]}"
for command in "${commands[@]}"; do
	complete_words "$command" --
	offered=" ${COMPREPLY[*]} "
	for option in $(sed -n 's/^  \(--[a-z0-9-]*\).*/\1/p' "$tmp/help" | sort -u); do
		if "$program" "$command" "$option=" 2>&1 | grep -q "does not take"; then
			[[ $offered != *" $option "* ]] || why="$why $command $option is offered;"
		else
			[[ $offered == *" $option "* ]] || why="$why $command $option is not offered;"
		fi
	done
done
verdict "completion of options" "$why"
complete_words help d
verdict "completion of help's command" "$([ "${COMPREPLY[*]}" = doctor ] || echo "${COMPREPLY[*]}")"
complete_words run --mode ''
verdict "completion of values" "$([ "${COMPREPLY[*]}" = "auto stop-and-copy post-copy" ] || echo "${COMPREPLY[*]}")"
complete_words run --kill target@p
verdict "completion of drills" "$([ "${COMPREPLY[*]}" = "target@pre-migration target@pre-copy target@post-copy" ] || echo "${COMPREPLY[*]}")"
exit $failed
