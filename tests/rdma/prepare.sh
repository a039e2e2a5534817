# SPDX-License-Identifier: MIT
# What the soft-RoCE machine is made of: QEMU 10, a kernel that has rdma_rxe, and a small initrd. Sourced by bash,
# after tests/lib/setup.sh. machine_prepare leaves $MACHINE/vmlinux and $MACHINE/initrd.img.
#
# QEMU before 10 crashes a guest of more than one CPU at random, and the kernel of an older distribution may lack
# what the tests want. Both come from the distribution's backports, through a view of the package archive that is
# apt's own but for the list of suites: the machine's list of sources is read and never changed. The kernel is
# unpacked into a cache, not installed.

# Under sudo the home is another one: tests/run hands its cache on.
CACHE=${FERRY_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/ferry}/rdma
MACHINE=

# What the tests in the machine call, beside what a build needs.
MACHINE_PACKAGES=(binutils ibverbs-providers ibverbs-utils iproute2 perftest rdmacm-utils socat xz-utils)

# Wanted in the machine; what they depend on is found, what the kernel has built in is skipped.
MODULES=(virtio_pci virtio_rng virtio_net 9pnet_virtio 9p overlay crc32c_generic crc32c_intel crc32_generic
	rdma_rxe ib_uverbs rdma_ucm dummy sch_ingress sch_netem cls_matchall cls_u32 act_gact zram kvm-amd kvm-intel)

NO_MACHINE="the soft-RoCE machine runs on x86-64 Debian 12 or later, where apt has a Linux 6.12 with rdma_rxe."

# On stdout: nothing when the machine can be built here, else why not.
machine_impossible()
{
	[ "$(uname -m)" = x86_64 ] && command -v apt-get >/dev/null && command -v dpkg-query >/dev/null ||
		echo "$NO_MACHINE"
}

# apt's view with backports added: private_apt COMMAND...; the command is apt-get or apt-cache
private_apt()
{
	local command=$1
	shift

	"$command" -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$CACHE/apt/sources" \
		-o Dir::State::lists="$CACHE/apt/lists" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= \
		-o APT::Sandbox::User=root "$@"
}

private_apt_update()
{
	local from uri suite component

	rm -rf "$CACHE/apt"
	mkdir -p "$CACHE/apt/sources" "$CACHE/apt/lists/partial"
	cp /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list "$CACHE/apt/sources" 2>/dev/null
	[ ! -s /etc/apt/sources.list ] || cp /etc/apt/sources.list "$CACHE/apt/sources/main.list"
	from=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(COMPONENT)' 'Created-By: Packages' 'Origin: Debian' |
		grep -E ' (bookworm|trixie) main$' | head -n 1)
	read -r uri suite component <<<"$from"
	[ -n "$uri" ] || cannot "apt has no Debian 12 or 13 to take QEMU and Linux from."
	[ "$suite" != bookworm ] || echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]" \
		"$uri $suite-backports $component" >"$CACHE/apt/sources/ferry-backports.list"
	suite_apt=()
	[ "$suite" != bookworm ] || suite_apt=(-t bookworm-backports)
	private_apt apt-get -q update >"$CACHE/apt/log" 2>&1 || {
		tail -n 20 "$CACHE/apt/log" >&2
		cannot "apt-get update with backports failed; its last words are above."
	}
}

qemu_is_good()
{
	[ "$(qemu-system-x86_64 --version 2>/dev/null | sed -n 's/.*version \([0-9]*\)\..*/\1/p')" -ge 10 ] 2>/dev/null
}

install_qemu()
{
	! qemu_is_good || return 0
	say "Installing QEMU 10."
	private_apt_update
	"${SUDO[@]}" env DEBIAN_FRONTEND=noninteractive "$(type -P bash)" -c "$(declare -f private_apt)
		CACHE='$CACHE'; private_apt apt-get -q -y --no-install-recommends ${suite_apt[*]} install qemu-system-x86" \
		>"$CACHE/apt/log" 2>&1
	qemu_is_good || {
		tail -n 20 "$CACHE/apt/log" >&2
		cannot "QEMU 10 could not be installed; apt's last words are above."
	}
}

# The kernel's and busybox's packages, in the cache
download_kernel()
{
	local package=linux-image-6.12-amd64 real

	private_apt_update
	private_apt apt-cache show "$package" >/dev/null 2>&1 || package=linux-image-amd64
	real=$(private_apt apt-cache "${suite_apt[@]}" depends "$package" | awk '/Depends: linux-image/ { print $2; exit }')
	[ -n "$real" ] || cannot "apt names no kernel for $package."
	say "Fetching $real and busybox-static for the soft-RoCE machine."
	rm -rf "$CACHE/deb" && mkdir -p "$CACHE/deb"
	(cd "$CACHE/deb" && private_apt apt-get -q "${suite_apt[@]}" download "$real" busybox-static) >"$CACHE/apt/log" 2>&1 || {
		tail -n 20 "$CACHE/apt/log" >&2
		cannot "$real could not be fetched; apt's last words are above."
	}
}

# add_module NAME: its dependencies first, each once. Uses all_modules, tree, seen.
add_module()
{
	local name=${1//-/_} file dep

	[ -z "${seen[$name]:-}" ] || return 0
	seen[$name]=1
	file=$(grep -E "/${name//_/[-_]}\.ko(\.xz)?$" <<<"$all_modules" | head -n 1)
	[ -n "$file" ] || return 0
	case $file in
	*.xz) xz -dc "$file" >"$tree/modules/$name.ko" ;;
	*) cp "$file" "$tree/modules/$name.ko" ;;
	esac
	for dep in $(objcopy -O binary --only-section=.modinfo "$tree/modules/$name.ko" /dev/stdout |
		tr '\0' '\n' | sed -n 's/^depends=//p' | tr , ' '); do
		add_module "$dep"
	done
	echo "$name" >>"$tree/modules/order"
}

# A number of little-endian bytes: number FILE OFFSET SIZE
number()
{
	od -A n -t "u$3" -j "$2" -N "$3" "$1" | tr -d ' '
}

# The kernel without its wrapping, so that no guest has to unpack it: unwrap BZIMAGE. The payload's place is in the
# boot protocol's header.
unwrap()
{
	local sectors offset length unpack

	sectors=$(number "$1" 497 1)
	offset=$(((sectors + 1) * 512 + $(number "$1" 584 4)))
	length=$(number "$1" 588 4)
	case $(od -A n -t x1 -j $offset -N 4 "$1" | tr -d ' ') in
	fd377a58) unpack=(xz -dc --single-stream) ;;
	28b52ffd) unpack=(zstd -dcq) ;;
	1f8b*) unpack=(gzip -dc) ;;
	*) return 1 ;;
	esac
	tail -c +$((offset + 1)) "$1" | head -c "$length" | "${unpack[@]}" 2>/dev/null
	return 0
}

# In a folder of its own that is renamed once it is whole
unpack_machine()
{
	local work=$CACHE/new deb tree all_modules m
	local -A seen=()

	say "Unpacking the kernel of the soft-RoCE machine into $CACHE."
	rm -rf "$work" && mkdir -p "$work/kernel"
	for deb in "$CACHE"/deb/*.deb; do
		dpkg -x "$deb" "$work/kernel" || cannot "$deb cannot be unpacked: remove $CACHE and try again."
	done
	tree=$work/root
	mkdir -p "$tree"/{bin,modules,proc,sys,dev,host,top,new}
	all_modules=$(find "$work/kernel" -name '*.ko' -o -name '*.ko.xz')
	for m in "${MODULES[@]}"; do
		add_module "$m"
	done
	grep -qx rdma_rxe "$tree/modules/order" || cannot "the kernel in $CACHE/deb has no rdma_rxe."
	cp "$work/kernel/bin/busybox" "$tree/bin/busybox"
	cp "$TOP/tests/rdma/init" "$tree/init"
	chmod +x "$tree/init"
	(cd "$tree" && find . | "$tree/bin/busybox" cpio -o -H newc >"$work/initrd.img") 2>/dev/null
	unwrap "$work"/kernel/boot/vmlinuz-* >"$work/vmlinux"
	[ "$(head -c 4 "$work/vmlinux" | tail -c 3)" = ELF ] || cp "$work"/kernel/boot/vmlinuz-* "$work/vmlinux"
	rm -rf "$work/kernel" "$tree" "$MACHINE"
	mv "$work" "$MACHINE"
}

# Everything there, whoever else is at it
machine_prepare()
{
	local lock why

	why=$(machine_impossible)
	[ -z "$why" ] || cannot "$why"
	PACKAGES+=("${MACHINE_PACKAGES[@]}")
	install_missing
	mkdir -p "$CACHE"
	MACHINE=$CACHE/$(cat "$TOP/tests/rdma/prepare.sh" "$TOP/tests/rdma/init" | cksum | cut -d ' ' -f 1)
	exec {lock}>"$CACHE/lock"
	flock "$lock"
	install_qemu
	if [ ! -s "$MACHINE/vmlinux" ] || [ ! -s "$MACHINE/initrd.img" ]; then
		ls "$CACHE"/deb/linux-image-*.deb "$CACHE"/deb/busybox-static*.deb >/dev/null 2>&1 || download_kernel
		unpack_machine
	fi
	exec {lock}>&-
}
