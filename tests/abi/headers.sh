#!/bin/bash
# SPDX-License-Identifier: MIT
# Each public header compiles alone, as the strictest C99 and C++11 that an embedder may use.
set -eu
src=$1
cc=${CC:-cc}
cxx=c++
[[ $cc != *clang* ]] || cxx=clang++
for header in "$src"/include/ferry/*.h; do
	"$cc" -std=c99 -Wall -Wextra -Wpedantic -Werror -fsyntax-only -I "$src/include" -x c "$header"
	"$cxx" -std=c++11 -Wall -Wextra -Wpedantic -Werror -fsyntax-only -I "$src/include" -x c++ "$header"
	echo "[PASS] headers::$(basename "$header")"
done
