#!/bin/bash
# SPDX-License-Identifier: MIT
# Every C file is as clang-format writes it by .clang-format. Debian 12's clang-format decides: others write it differently.
#   format.sh SOURCE_DIR
set -u
cd "$1" || exit 1
wanted=14

have=$(clang-format --version 2>/dev/null | sed -n 's/.*version \([0-9]*\)\..*/\1/p')
if [ "$have" != $wanted ]; then
	echo "[SKIP] format: clang-format $wanted decides what the format is, and here is ${have:-none}"
	exit 77
fi
files=$(mktemp)
trap 'rm -f "$files"' EXIT
find . \( -name build -o -name .git -o -path ./tests/abi/older \) -prune -o -name '*.[ch]' -print >"$files"
[ "$(wc -l <"$files")" -ge 300 ] || { echo "[FAIL] format: only $(wc -l <"$files") files were found"; exit 1; }
if ! said=$(xargs -n 50 clang-format --dry-run -Werror <"$files" 2>&1); then
	wrong=$(sed -n 's|^\./\([^:]*\):\([0-9]*\):.*|\1:\2|p' <<<"$said" | sort -u -t: -k1,1)
	echo "[FAIL] format: run clang-format -i on these; the first line that differs in each:"
	echo "${wrong:-$said}"
	exit 1
fi
echo "[PASS] format: $(wc -l <"$files") files"
