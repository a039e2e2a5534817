#!/bin/bash
# SPDX-License-Identifier: MIT
# The Debian packages: built, without an error by lintian, and what is in them works.
set -u
src=$1 build=$2
work=$build/packages
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
failed=0

pass() { echo "[PASS] package::$1"; }
fail() { echo "[FAIL] package::$1"; failed=1; }

if ! command -v dpkg-shlibdeps >/dev/null || ! command -v lintian >/dev/null; then
	echo "[SKIP] package: dpkg-dev and lintian are not here; tests/run installs them on Debian"
	exit 77
fi
if ! { cmake -S "$src" -B "$work" -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX=/usr -DFERRY_TESTS=OFF \
	-DCMAKE_C_COMPILER="${CC:-cc}" && rm -f "$work"/*.deb &&
	cmake --build "$work" --parallel 2 && cd "$work" && cpack -G DEB; } >"$tmp/log" 2>&1; then
	tail -n 30 "$tmp/log"
	fail "build: the packages cannot be built; the last lines are above"
	exit 1
fi
for p in libferry1 libferry-dev rdma-migrate; do
	debs=("$work/${p}"_*.deb)
	if [ -f "${debs[0]}" ] && [ ${#debs[@]} = 1 ]; then
		pass "$p"
	else
		fail "$p: not one file"
	fi
done
lintian --no-cfg --fail-on error "$work"/*.deb >"$tmp/lintian" 2>"$tmp/err"
code=$?
if [ $code = 0 ] && ! grep -q '^E:' "$tmp/lintian"; then
	pass "lintian: $(grep -c '^W:' "$tmp/lintian") warnings"
else
	cat "$tmp/lintian" "$tmp/err"
	fail "lintian: exit code $code"
fi

# Unpacked as they would be, the program finds its library where Debian's loader does.
for deb in "$work"/*.deb; do
	dpkg-deb -x "$deb" "$tmp/root"
done
lib=$(dirname "$(find "$tmp/root" -name libferry.so.1)")
said=$(LD_LIBRARY_PATH=$lib "$tmp/root/usr/bin/rdma-migrate" version 2>&1)
if [[ $said == "rdma-migrate and libferry "* ]]; then pass program; else fail "program: it says \"$said\""; fi
if readelf -d "$tmp/root/usr/bin/rdma-migrate" "$lib/libferry.so.1" | grep -qE 'RPATH|RUNPATH'; then
	fail "no search path of its own"
else
	pass "no search path of its own"
fi
depends=$(dpkg-deb -f "$work"/rdma-migrate_*.deb Depends)
if [[ $depends == *"libferry1 (= "* ]]; then pass "dependencies"; else fail "dependencies: rdma-migrate has only $depends"; fi
if [[ $(dpkg-deb -f "$work"/libferry-dev_*.deb Depends) == *"libferry1 (= "* ]]; then
	pass "development files go with their library"
else
	fail "development files go with their library"
fi
exit $failed
