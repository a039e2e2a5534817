#!/bin/bash
# SPDX-License-Identifier: MIT
# Who may include whom, from the #include lines themselves: docs/architecture.md draws the same layers.
#   layers.sh SOURCE_DIR
set -u
cd "$1" || exit 1
failed=0
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

verdict()
{
	if [ -z "$2" ]; then
		echo "[PASS] layers::$1"
	else
		echo "[FAIL] layers::$1:"
		echo "$2" | sed 's/^/    /'
		failed=1
	fi
}

# FILE INCLUDED, both from the top; a public header as include/ferry/NAME, a file that is not there as ?NAME
while IFS=: read -r file header; do
	for at in "${file%/*}/$header" "$header" "include/$header" "?$header"; do
		[ -e "$at" ] && break
	done
	echo "$file $at"
done < <(grep -roE '^[[:space:]]*#[[:space:]]*include[[:space:]]*("|<(runtime|transport|bench|tests)/)[^">]+' --include='*.[chS]' runtime transport bench include |
	sed 's/:[^"<]*["<]/:/') >"$tmp/edges"
[ "$(wc -l <"$tmp/edges")" -ge 300 ] || verdict "the #include lines are read" "only $(wc -l <"$tmp/edges") were found"
verdict "every included file is there" "$(grep ' ?' "$tmp/edges")"

# may FILES INCLUDED...: extended regular expressions
may()
{
	local from=$1 allowed
	shift
	allowed=$(IFS='|' && echo "$*")
	grep -qE "^($from)" "$tmp/edges" || echo "no file matches $from"
	grep -E "^($from)" "$tmp/edges" | grep -vE " ($allowed)"
}

PUBLIC=include/ferry/
# What the runtime may know of the transports: the contract, and how a URI is read.
CONTRACT='transport/(xport|uri)\.h$'
verdict "runtime/base includes nothing but itself" "$(may runtime/base/ runtime/base/)"
verdict "a transport includes runtime/base and what the transports share" \
	"$(for t in tcp rdma mem filter; do may "transport/$t/" "transport/$t/" 'transport/[a-z_]*\.h$' runtime/base/; done
	may 'transport/[a-z_]*\.[ch] ' 'transport/[a-z_]*\.h$' runtime/base/)"
verdict "runtime/memory includes runtime/base" "$(may runtime/memory/ runtime/memory/ runtime/base/ $PUBLIC)"
verdict "runtime/kvm, runtime/track and runtime/arbiter include runtime/base" \
	"$(for t in kvm track arbiter; do may "runtime/$t/" "runtime/$t/" runtime/base/ $PUBLIC; done)"
BELOW="runtime/(base|memory|link|session)/"
verdict "runtime/session and runtime/link include neither end" \
	"$(may 'runtime/(session|link)/' "$BELOW" "$CONTRACT" $PUBLIC)"
verdict "the source does not include the target" "$(may runtime/source/ runtime/source/ "$BELOW" "$CONTRACT" $PUBLIC)"
verdict "the target does not include the source" "$(may runtime/target/ runtime/target/ "$BELOW" "$CONTRACT" $PUBLIC)"
verdict "the pull knows no session" \
	"$(may 'runtime/target/(pull|pull_int|sweep)\.[ch] ' 'runtime/target/pull' 'runtime/(base|memory)/' 'runtime/session/stats\.h$' "$CONTRACT")"
verdict "only the entry points include the table of phases" "$(grep -E '^(runtime|transport)/.* runtime/[a-z_]*\.[ch]$' "$tmp/edges" | grep -vE '^runtime/(ferry|phase|drill)\.c ')"
# Two headers with nothing but constants and inline functions are shared with the library.
verdict "rdma-migrate and its VMM include public headers only" \
	"$(may 'bench/(cli|vmm|floor|picture|qemu)/' bench/ $PUBLIC 'transport/tcp/congestion\.h$' 'runtime/arbiter/json_bound\.h$')"

# The licence is the first line of each, so this is the second.
verdict "each file says first what it is" \
	"$(find bench include runtime tests transport -path tests/abi/older -prune -o -name '*.[ch]' -exec awk 'FNR == 2 && !/^\/[*\/]/ { print FILENAME }' {} +)"

# A file and its header are one thing; tsort names those that need each other.
verdict "no files of the library need each other in a circle" \
	"$(grep -E '^(runtime|transport)/' "$tmp/edges" | sed -E 's/(_int)?\.[chS]\b//g' | awk '$1 != $2' | tsort 2>&1 >/dev/null)"
exit $failed
