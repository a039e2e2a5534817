#!/bin/bash
# SPDX-License-Identifier: MIT
# A program that was built with a header of fewer fields runs against this library, and one with a header of more: what it
# hears is the same, and nothing is written beyond what it has. Each field of the older header is where it was.
#   grow.sh SOURCE_DIR BINARY_DIR
set -u
src=$1 build=$2
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
failed=0

# The header of a later version: each struct that begins with its size has more at its end.
mkdir -p "$tmp/newer/ferry"
awk '/^struct ferry_(ops|vm|config|stats) \{/ { open = 1 } open && /^\};/ { print "\tuint64_t newer[4];"; open = 0; n++ } { print }
	END { exit n != 4 }' "$src/include/ferry/ferry.h" >"$tmp/newer/ferry/ferry.h" || { echo "[FAIL] grow: the header has no longer those structs"; exit 1; }

for header in include tests/abi/older newer; do
	at=$src/$header
	[ $header != newer ] || at=$tmp/newer
	name=${header##*/}
	if ! "${CC:-cc}" -std=gnu11 -Wall -Wextra -Werror ${SANITIZE:+-fsanitize=$SANITIZE} -I "$at" -I "$src" "$src/tests/abi/grow.c" -o "$tmp/run-$name" \
		-L "$build" -lferry -Wl,-rpath,"$build" -pthread 2>"$tmp/log"; then
		echo "[FAIL] grow::$name: it does not build: $(head -n 3 "$tmp/log")"
		failed=1
		continue
	fi
	timeout 300 "$tmp/run-$name" >"$tmp/$name.said" 2>&1 || echo "it ended with $?" >>"$tmp/$name.said"
	if [ $header = include ] && ! grep -q 'memory is the same' "$tmp/$name.said"; then
		echo "[FAIL] grow::$name: $(cat "$tmp/$name.said")"
		failed=1
	elif ! grep -q 'intact 1 1' "$tmp/$name.said" || grep -q 'intact \(0\|. 0\)\|size \(0\|. 0\)' "$tmp/$name.said" || ! cmp -s "$tmp/include.said" "$tmp/$name.said"; then
		echo "[FAIL] grow::$name: what it hears differs:"
		diff "$tmp/include.said" "$tmp/$name.said"
		failed=1
	else
		echo "[PASS] grow::$name"
	fi
done

fields() # HEADER_DIR: "struct field offset size", a line each
{
	awk '
	BEGIN { print "#include <ferry/ferry.h>\n#include <stddef.h>\n#include <stdio.h>\nint main(void)\n{" }
	function field(name) {
		printf "\tprintf(\"%s %s %%zu %%zu\\n\", offsetof(struct %s, %s), sizeof(((struct %s *)0)->%s));\n", s, name, s, name, s, name
	}
	/^struct ferry_[a-z_]+ \{/ { s = $2; next }
	/^\};/ { s = "" }
	s == "" { next }
	{ gsub(/\/\*.*\*\//, ""); sub(/\/\*.*/, "") }
	match($0, /\(\*[a-z_]+\)\(/) { field(substr($0, RSTART + 2, RLENGTH - 4)); next }
	/^\t[a-z].*;/ {
		sub(/;.*/, ""); gsub(/\[[^]]*\]/, "")
		n = split($0, part, ",")
		for (i = 1; i <= n; i++) { m = split(part[i], word, /[ \t*]+/); field(word[m]) }
	}
	END { print "\treturn 0;\n}" }' "$1/ferry/ferry.h" >"$tmp/fields.c"
	"${CC:-cc}" -I "$1" "$tmp/fields.c" -o "$tmp/fields" && "$tmp/fields"
}

# A field that has another name now is found by its place. reserved fields shrink; ferry_result.stats, the last, grows.
fields "$src/tests/abi/older" | grep -v ' reserved[0-9]* ' | sed 's/^\(ferry_result stats [0-9]*\) .*/\1 -/' >"$tmp/was"
fields "$src/include" | sed 's/^\(ferry_result stats [0-9]*\) .*/\1 -/' >"$tmp/is"
moved=$(awk 'NR == FNR { name[$1 " " $2] = $3 " " $4; place[$1 " " $3 " " $4] = 1; next }
	($1 " " $2 in name) ? name[$1 " " $2] != $3 " " $4 : !($1 " " $3 " " $4 in place) { print "struct", $1 "." $2 }' \
	"$tmp/is" "$tmp/was")
if [ -n "$moved" ] || [ "$(wc -l <"$tmp/was")" -lt 100 ]; then
	echo "[FAIL] grow::no field moves: $(wc -l <"$tmp/was") fields were found; these are elsewhere or of another size:" $moved
	failed=1
else
	echo "[PASS] grow::no field moves"
fi
exit $failed
