#!/bin/bash
# SPDX-License-Identifier: MIT
# What libferry.so exports, what libferry.a leaves global, what ferry.map lists and what the headers declare is one list.
set -eu
src=$1 build=$2
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

nm -D --defined-only "$build/libferry.so" | awk '$2 ~ /[TDBRV]/ { sub(/@.*/, "", $3); print $3 }' |
	grep -vE '^(__(asan|tsan|ubsan|odr)|_init$|_fini$)' | sort >"$tmp/exported"
sed -n 's/^[[:space:]]*\(ferry_[a-z0-9_]*\);$/\1/p' "$src/runtime/ferry.map" | sort >"$tmp/listed"
# Without comments; a name before "(" that is no function pointer is a declaration.
declared()
{
	cat "$@" | sed 's|/\*.*\*/||' | sed '/\/\*/,/\*\//d' | grep -oE '\bferry_[a-z0-9_]+\(' |
		tr -d '(' | sort -u
}
headers=()
for header in "$src"/include/ferry/*.h; do
	[ "${header##*/}" = arbiter_etcd.h ] || headers+=("$header")
done
declared "${headers[@]}" >"$tmp/declared"

diff -u "$tmp/listed" "$tmp/exported" || { echo "ferry.map and libferry.so differ"; exit 1; }
nm -g --defined-only "$build/libferry.a" | awk 'NF == 3 { print $3 }' | grep -vE '^(__(asan|tsan|ubsan|odr)|_(init|fini)$|(asan|tsan)\.)' |
	sort >"$tmp/static"
diff -u "$tmp/listed" "$tmp/static" || { echo "ferry.map and the global symbols of libferry.a differ"; exit 1; }
diff -u "$tmp/listed" "$tmp/declared" || { echo "ferry.map and include/ferry differ"; exit 1; }
grep -q 'SONAME.*libferry\.so\.1\]' < <(readelf -d "$build/libferry.so") || { echo "the soname is not libferry.so.1"; exit 1; }
if [ -e "$build/libferry-etcd.a" ]; then # its own header, and nothing of libferry's
	nm -g "$build/libferry-etcd.a" | awk 'NF == 3 { print $3 } $1 == "U" && $2 ~ /^ferry_/ { print "needs", $2 }' |
		grep -vE '^(__(asan|tsan|ubsan|odr)|_(init|fini)$|(asan|tsan)\.)' >"$tmp/etcd"
	diff -u <(declared "$src/include/ferry/arbiter_etcd.h") "$tmp/etcd" ||
		{ echo "arbiter_etcd.h and libferry-etcd.a differ"; exit 1; }
	echo "[PASS] linkage::libferry-etcd.a"
else
	echo "[SKIP] linkage::libferry-etcd.a: it is not in this build (libcurl or jansson was not found)"
fi
echo "[PASS] linkage::$(wc -l <"$tmp/listed") symbols"
