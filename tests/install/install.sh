#!/bin/bash
# SPDX-License-Identifier: MIT
# From an installed tree alone: the examples by pkg-config and by CMake, as C, C++ and Rust, shared and static.
set -u
src=$1 build=$2
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
root=$tmp/root
failed=0
cc=${CC:-cc} cxx=c++
[[ $cc != *clang* ]] || cxx=clang++

# try NAME COMMAND...: passed when the command does; what it printed is told when not
try()
{
	local name=$1
	shift

	if "$@" >"$tmp/out" 2>&1; then
		echo "[PASS] install::$name"
	else
		echo "[FAIL] install::$name: exit code $?"
		tail -n 20 "$tmp/out"
		failed=1
	fi
}

moved() # PROGRAM: it migrates, and says so
{
	"$@" && [ -z "$("$@" 2>&1 >/dev/null)" ] && "$@" | grep -q 'owner target; memory is the same$'
}

try tree cmake --install "$build" --prefix "$root"
lib=$(dirname "$(find "$root" -name libferry.so.1)")
export PKG_CONFIG_PATH=$lib/pkgconfig
run_path=-Wl,-rpath,$lib
try program "$root/bin/rdma-migrate" version
try 'version' test "$(pkg-config --modversion ferry)" = "$("$root/bin/rdma-migrate" version | awk '{ print $NF }')"

# pkg-config
read -ra flags < <(pkg-config --cflags --libs ferry)
read -ra static < <(pkg-config --static --cflags --libs ferry | sed "s|-lferry|$lib/libferry.a|")
warn=(-O2 -Wall -Wextra -Werror)
examples=$src/docs/examples
by_c() { "$cc" -std=gnu11 -D_GNU_SOURCE "${warn[@]}" -o "$tmp/$1" "${@:2}" "${flags[@]}" -pthread "$run_path"; }
by_cxx() { "$cxx" -std=c++11 "${warn[@]}" -Wpedantic -o "$tmp/$1" -x c++ "$2" -x none "${flags[@]}" -pthread "$run_path"; }
by_static() { "$cc" -std=gnu11 -D_GNU_SOURCE "${warn[@]}" -o "$tmp/$1" "${@:2}" "${static[@]}"; }
try 'C by pkg-config: builds' by_c inproc "$examples/inproc.c"
try 'C by pkg-config: runs' moved "$tmp/inproc"
try 'C++ by pkg-config: builds' by_cxx inproc-cxx "$examples/inproc.c"
try 'C++ by pkg-config: runs' moved "$tmp/inproc-cxx"
try 'static by pkg-config: builds' by_static inproc-static "$examples/inproc.c"
try 'static by pkg-config: runs' moved "$tmp/inproc-static"
try 'static: needs no libferry.so' bash -c "! readelf -d '$tmp/inproc-static' | grep -q libferry"

# A VMM's own names do not meet the library's.
cat >"$tmp/names.c" <<'END'
int fail(void), count(void), now_ns(void), now_us(void), is_zero(void), uri_parse(void);
int fail(void) { return 1; }
int count(void) { return 2; }
int now_ns(void) { return 3; }
int now_us(void) { return 4; }
int is_zero(void) { return 5; }
int uri_parse(void) { return 6; }
END
try 'static: no name of the library is in the way' by_static names "$examples/inproc.c" "$tmp/names.c"
try 'static: and both work' moved "$tmp/names"

# CMake
try 'find_package: configures' cmake -S "$examples" -B "$tmp/cmake" -DCMAKE_PREFIX_PATH="$root" \
	-DCMAKE_C_COMPILER="$cc" -DCMAKE_CXX_COMPILER="$cxx"
try 'find_package: builds' cmake --build "$tmp/cmake"
for program in inproc inproc-cxx inproc-static; do
	try "find_package: $program runs" moved "$tmp/cmake/$program"
done
printf '%s\n' 'cmake_minimum_required(VERSION 3.16)' 'project(x C)' 'find_package(ferry 2.0 REQUIRED)' >"$tmp/CMakeLists.txt"
try 'find_package: another major version is refused' \
	bash -c "! cmake -S '$tmp' -B '$tmp/two' -DCMAKE_PREFIX_PATH='$root'"

# The tiny VMM, from the installed tree
try 'tinyvmm: builds' by_c tinyvmm "$examples/tinyvmm.c"
if [ -r /dev/kvm ] && [ -w /dev/kvm ]; then
	try 'tinyvmm: runs' bash -c "echo quit | '$tmp/tinyvmm'"
	try 'tinyvmm by CMake: runs' bash -c "echo quit | '$tmp/cmake/tinyvmm'"
else
	echo "[SKIP] install::tinyvmm: runs: no access to /dev/kvm"
fi

# Rust
if command -v rustc >/dev/null; then
	try 'Rust: builds' rustc --edition 2021 -D warnings -A dead_code -o "$tmp/inproc-rs" "$examples/inproc.rs" \
		-L "$lib" -C "link-arg=$run_path"
	try 'Rust: runs' moved "$tmp/inproc-rs"
else
	echo "[SKIP] install::Rust: there is no rustc here"
fi
exit $failed
