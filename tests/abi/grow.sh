#!/bin/bash
# SPDX-License-Identifier: MIT
# A program that was built with a header of fewer fields runs against this library, and one with a header of more: what it
# hears is the same, and nothing is written beyond what it has.
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
exit $failed
