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
# The initialisers, as each language may use them. g++ wants each field named where one is, which a struct that may
# grow cannot give: who keeps that warning calls ferry_init().
grows=-Wno-missing-field-initializers
init='
void ferry_use(void);
void ferry_use(void) { struct ferry_config c = { FERRY_CONFIG_INIT }; struct ferry_vm v = { FERRY_VM_INIT };
	struct ferry_ops o = { FERRY_OPS_INIT }; ferry_init(&c, sizeof(c)); (void)c; (void)v; (void)o; }'
"$cc" -std=c99 -Wall -Wextra -Wpedantic -Werror -fsyntax-only -I "$src/include" -x c - <<<"#include <ferry/ferry.h>$init"
"$cxx" -std=c++11 -Wall -Wextra "$grows" -Wpedantic -Werror -fsyntax-only -I "$src/include" -x c++ - <<<"#include <ferry/kvm.h>$init
ferry_kvm_slot slot = { FERRY_KVM_SLOT_INIT };"
"$cxx" -std=c++11 -Wall -Wextra "$grows" -Wpedantic -Werror -fsyntax-only -I "$src/include" -x c++ - <<<"#include <ferry/track.h>
ferry_track_param param = { FERRY_TRACK_PARAM_INIT }; ferry_track_range range = { FERRY_TRACK_RANGE_INIT };"
"$cxx" -std=c++20 -Wall -Wextra "$grows" -Wpedantic -Werror -fsyntax-only -I "$src/include" -x c++ - <<<"#include <ferry/kvm.h>
ferry_kvm_slot slot = { FERRY_KVM_SLOT_INIT, .flags = 0 }; ferry_config config = { FERRY_CONFIG_INIT, .channels = 4 };"
echo "[PASS] headers::initialisers"
