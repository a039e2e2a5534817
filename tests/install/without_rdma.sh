#!/bin/bash
# SPDX-License-Identifier: MIT
# A build without RDMA: it links nothing of it, rdma: says so in a sentence everywhere, and everything else works.
set -u
src=$1
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
build=$tmp/build
program=$build/rdma-migrate
failed=0

# try NAME COMMAND...: passed when the command does; what it printed is told when not
try()
{
	local name=$1
	shift

	if "$@" >"$tmp/out" 2>&1; then
		echo "[PASS] without_rdma::$name"
	else
		echo "[FAIL] without_rdma::$name: exit code $?"
		tail -n 20 "$tmp/out"
		failed=1
	fi
}

# says STATUS SENTENCE COMMAND...
says()
{
	local want=$1 sentence=$2 status=0
	shift 2

	"$@" >"$tmp/said" 2>&1 || status=$?
	cat "$tmp/said"
	[ $status = "$want" ] && grep -q -- "$sentence" "$tmp/said"
}

# Quickly: it is no build for speed.
configure() { cmake -S "$src" -B "$build" -DFERRY_RDMA=OFF -DFERRY_ETCD=OFF -DFERRY_MANUAL=OFF -DCMAKE_BUILD_TYPE=Debug -DCMAKE_C_FLAGS_DEBUG=-O0; }
build() { cmake --build "$build" -j 2 --target rdma-migrate test-unit-test_rdma test-e2e-test_modes test-proto-conformance; }
links_none() { ! readelf -d "$build/libferry.so" "$1" | grep -q 'NEEDED.*librdmacm'; }

try configures configure
try builds build
try 'links no librdmacm' links_none "$program"
try 'units' "$build/tests/unit/test_rdma"
try 'conformance of the others' "$build/tests/proto/conformance"
try 'whole migrations' "$build/tests/e2e/test_modes"
# The static library needs no other then.
installed() { cmake --build "$build" -j 2 --target ferry_static && cmake --install "$build" --prefix "$tmp/root"; }
embeds()
{
	cat >"$tmp/CMakeLists.txt" <<-END
		cmake_minimum_required(VERSION 3.25)
		project(embeds C)
		find_package(ferry REQUIRED static)
		add_executable(inproc "$src/docs/examples/inproc.c")
		target_compile_definitions(inproc PRIVATE _GNU_SOURCE)
		target_link_libraries(inproc ferry::static)
	END
	cmake -S "$tmp" -B "$tmp/embeds" -DCMAKE_PREFIX_PATH="$tmp/root" && cmake --build "$tmp/embeds" && "$tmp/embeds/inproc"
}
try 'installs' installed
try 'the static library by CMake' embeds
# Nothing is configured, built or registered for the soft-RoCE machine.
no_machine() { ! ctest --test-dir "$build" -N | grep -q ' rdma/'; }
try 'no tests of it' no_machine
guest=(--memory 32M --working-set 8M --floor off --quiet)
try 'run' says 5 'rdma is not in this build; use tcp:host:port' "$program" run --uri rdma:127.0.0.1:0 "${guest[@]}"
try 'source' says 2 'rdma is not in this build; use tcp:host:port' "$program" source --to rdma:127.0.0.1:7000 --memory 32M --working-set 8M --quiet
try 'target' says 5 'rdma is not in this build; use tcp:host:port' "$program" target --listen rdma:127.0.0.1:0 --quiet
try 'floor' says 5 'RDMA is not in this build' "$program" floor --uri rdma:127.0.0.1:0 --memory 32M

# Without fault injection: no symbol, no header, and whoever asks for it is told.
plain() { cmake -S "$src" -B "$tmp/plain" -DFERRY_RDMA=OFF -DFERRY_ETCD=OFF -DFERRY_MANUAL=OFF -DFERRY_DRILL=OFF -DFERRY_TESTS=OFF -DCMAKE_BUILD_TYPE=Debug \
	-DCMAKE_C_FLAGS_DEBUG=-O0 && cmake --build "$tmp/plain" -j 2; }
nothing() { ! nm -D --defined-only "$tmp/plain/libferry.so" | grep -qi drill && cmake --install "$tmp/plain" --prefix "$tmp/plainroot" &&
	[ ! -e "$tmp/plainroot/include/ferry/drill.h" ] && [ -e "$tmp/plainroot/include/ferry/ferry.h" ]; }
try 'builds without fault injection' plain
try 'has nothing of it' nothing
try 'migrates all the same' says 0 'The VM runs at the target' "$tmp/plain/rdma-migrate" run --memory 32M --working-set 8M --floor off
try 'says that it is not there' says 5 'fault injection (FERRY_CONFIG_DRILL) is not in this build' "$tmp/plain/rdma-migrate" run --kill link@post-copy "${guest[@]}"
exit $failed
