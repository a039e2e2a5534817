# SPDX-License-Identifier: MIT
# What bench/demo and tests/run share: packages, build, and what the machine must offer. Sourced by bash.

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

# libibverbs and librdmacm are for the RDMA transport.
PACKAGES=(gcc g++ libc6-dev make cmake pkg-config util-linux
	libibverbs-dev librdmacm-dev libcriterion-dev)
# What only the tests need: the checkers of packages, manual, model and format, the header of the probes.
TEST_PACKAGES=(dpkg-dev lintian mandoc systemtap-sdt-dev spin clang-format)
# The arbiter in etcd: what it is built from, and a server that its tests start on a port of their own.
PACKAGES+=(libcurl4-openssl-dev libjansson-dev)
TEST_PACKAGES+=(etcd-server etcd-client)
# The overlay of a disk that is held, for a stock QEMU.
TEST_PACKAGES+=(qemu-utils)
# The fuzzers: libFuzzer and the sanitizers it is linked with come beside clang.
TEST_PACKAGES+=(clang libclang-rt-dev)

# rdma-migrate reads recordings and reports with jansson, draws with gnuplot; two hosts are tested with iproute2.
PACKAGES+=(libjansson-dev gnuplot-nox fonts-dejavu-core iproute2)

# Root needs none; anybody else goes through sudo where it matters (apt, /dev/kvm, userfaultfd).
SUDO=()
[ "$(id -u)" = 0 ] || SUDO=(sudo)

say()
{
	printf '%s\n' "$*" | fold -s -w 100
}

cannot()
{
	say "${0##*/} cannot go on: $*" >&2
	exit 1
}

missing_packages()
{
	local p

	for p in "${PACKAGES[@]}"; do
		dpkg-query -W -f '${db:Status-Status}\n' "$p" 2>/dev/null | grep -qx installed || echo "$p"
	done
}

install_missing()
{
	local missing log

	command -v dpkg-query >/dev/null && command -v apt-get >/dev/null ||
		cannot "this is no Debian: install the equivalents of ${PACKAGES[*]} and build with" \
			"cmake --preset release && cmake --build --preset release."
	mapfile -t missing < <(missing_packages)
	[ ${#missing[@]} -gt 0 ] || return 0
	[ ${#SUDO[@]} = 0 ] || command -v sudo >/dev/null ||
		cannot "missing: ${missing[*]}. Run it as root, or install sudo."
	say "Installing ${missing[*]}."
	log=$(mktemp)
	if ! { "${SUDO[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q update &&
		"${SUDO[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends \
			install "${missing[@]}"; } >"$log" 2>&1; then
		tail -n 20 "$log" >&2
		rm -f "$log"
		cannot "apt-get could not install ${missing[*]}; its last words are above."
	fi
	rm -f "$log"
}

# build PRESET [cmake --build arguments]
build()
{
	local preset=$1 log
	shift

	log=$(mktemp)
	if ! (cd "$TOP" && cmake --preset "$preset" && cmake --build --preset "$preset" "$@") >"$log" 2>&1; then
		tail -n 40 "$log" >&2
		rm -f "$log"
		cannot "preset $preset does not build; the last lines are above."
	fi
	rm -f "$log"
}

have_kvm()
{
	"${SUDO[@]}" test -r /dev/kvm -a -w /dev/kvm
}

NO_KVM="/dev/kvm is not there, or cannot be opened. Enable virtualization in the firmware and load kvm-intel or \
kvm-amd (in a container: pass --device /dev/kvm; in a VM: allow nested virtualization)."

# PROGRAM: a built rdma-migrate. It explains itself when userfaultfd, memory or sockets are not to be had.
need_userfaultfd()
{
	local out

	out=$("${SUDO[@]}" "$1" floor --memory 32M --quiet 2>&1 >/dev/null) ||
		cannot "$out In a container: allow the userfaultfd system call (or pass --device /dev/userfaultfd)," \
			"and CAP_SYS_PTRACE. sysctl vm.unprivileged_userfaultfd is" \
			"$(cat /proc/sys/vm/unprivileged_userfaultfd 2>/dev/null || echo unknown) here."
}
