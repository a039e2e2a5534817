#!/bin/bash
# SPDX-License-Identifier: MIT
# The README's embedding example is a whole program: it compiles without a warning and links.
set -eu
src=$1 build=$2
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

awk '/^```c$/ { in_block = 1; next } /^```$/ { in_block = 0 } in_block' "$src/README.md" >"$tmp/example.c"
grep -q ferry_run "$tmp/example.c" || { echo "README.md has no example that calls ferry_run"; exit 1; }
cat >"$tmp/vmm.c" <<'END' # what the example leaves to the VMM
int my_vm_pause(void *vm);
int my_vm_resume(void *vm);
int my_vm_pause(void *vm) { return !vm; }
int my_vm_resume(void *vm) { return !vm; }
int main(void) { return 0; }
END
"${CC:-cc}" -std=gnu11 -Wall -Wextra -Werror ${SANITIZE:+-fsanitize=$SANITIZE} -I "$src/include" \
	-o "$tmp/example" "$tmp/example.c" "$tmp/vmm.c" -L "$build" -lferry -Wl,-rpath,"$build"
"$tmp/example"
echo "[PASS] readme::example"
