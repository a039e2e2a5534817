#!/bin/bash
# SPDX-License-Identifier: MIT
# rdma-migrate doctor: as it is here, with devices denied, and as somebody without privileges. What it says is compared with
# what the machine does.
set -u
program=$2/rdma-migrate
timeout=$(command -v timeout) # some cases have no PATH
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
failed=0

verdict() # NAME WHY: passed where WHY is empty
{
	if [ -z "$2" ]; then
		echo "[PASS] doctor::$1"
	else
		echo "[FAIL] doctor::$1: $2"
		cat "$tmp/table" "$tmp/json" 2>/dev/null
		failed=1
	fi
}

# state NAME: of the first check of that name in $tmp/json
state()
{
	grep -oE "\"name\":\"$1\",\"state\":\"[a-z ]*\"" "$tmp/json" | head -n 1 | sed 's/.*:"\(.*\)"/\1/'
}

mend()
{
	grep -oE "\"name\":\"$1\",\"state\":\"[a-z ]*\",\"mend\":\"[^\"]*\"" "$tmp/json" | head -n 1 | sed 's/.*"mend":"\(.*\)"/\1/'
}

# doctor [COMMAND...]: runs it under a command; its code
doctor()
{
	rm -f "$tmp/json"
	"$@" "$timeout" 120 "$tmp/bin/rdma-migrate" doctor --json - >"$tmp/json" 2>"$tmp/err"
	code=$?
	"$@" "$timeout" 120 "$tmp/bin/rdma-migrate" doctor >"$tmp/table" 2>&1
}

# The exit code is 5 exactly where something is missing, and the counts are those of the lines.
consistent()
{
	local why="" missing all

	missing=$(grep -o '"state":"missing"' "$tmp/json" | wc -l)
	all=$(grep -o '"state":' "$tmp/json" | wc -l)
	[ "$code" = $((missing ? 5 : 0)) ] || why="exit code $code with $missing missing;"
	grep -q "\"missing\":$missing}\$" "$tmp/json" || why="$why the count of what is missing is wrong;"
	[ "$all" -ge 12 ] || why="$why only $all lines;"
	[ "$(grep -cE '^(ok|works without|missing) ' "$tmp/table")" = "$all" ] || why="$why the table has not as many;"
	[ ! -s "$tmp/err" ] || why="$why $(cat "$tmp/err")"
	echo "$why"
}

# Where others can reach it: the tree may be in somebody's home.
mkdir "$tmp/bin"
cp "$program" "$2"/libferry.so* "$tmp/bin/"
chmod 755 "$tmp" "$tmp/bin"

doctor env
verdict "as it is" "$(consistent)"
if [ -r /dev/kvm ] && [ -w /dev/kvm ]; then want=ok; else want=missing; fi
verdict "kvm is what it is" "$([ "$(state kvm)" = $want ] || echo "it says $(state kvm), not $want")"
if timeout 120 "$program" floor --memory 32M --quiet >/dev/null 2>&1; then want=ok; else want=missing; fi
verdict "userfaultfd is what it is" "$([ "$(state userfaultfd)" = $want ] || echo "it says $(state userfaultfd), not $want")"
for name in userfaultfd kernel zero-copy 'pagemap scan' 'dirty tracking' process_madvise memlock 'huge pages' 'transparent huge' rdma link gnuplot; do
	[ -n "$(state "$name")" ] || [ "$name" = rdma -a -n "$(state 'rdma device')" ] || verdict "a line for $name" "there is none"
done
if command -v python3 >/dev/null; then
	verdict "the JSON is JSON" "$(python3 -m json.tool <"$tmp/json" 2>&1 >/dev/null)"
fi
doctor env PATH=/nonexistent
verdict "without gnuplot" "$([ "$(state gnuplot)$(mend gnuplot)" = "works withoutapt-get install gnuplot-nox" ] || echo "it says $(state gnuplot)")"

if [ "$(id -u)" != 0 ]; then
	echo "[SKIP] doctor::denied: not root, so nothing can be taken away for the test"
	exit $failed
fi

nobody=(setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all --bounding-set=-all)
doctor "${nobody[@]}"
why=$(consistent)
if "${nobody[@]}" test -r /dev/userfaultfd -a -w /dev/userfaultfd || [ "$(cat /proc/sys/vm/unprivileged_userfaultfd)" = 1 ]; then
	want=ok
else
	want=missing
	[[ $(mend userfaultfd) == setfacl* || $(mend userfaultfd) == sysctl* ]] || why="$why no command mends userfaultfd;"
fi
[ "$(state userfaultfd)" = $want ] || why="$why userfaultfd is $(state userfaultfd), not $want;"
if "${nobody[@]}" test -r /dev/kvm -a -w /dev/kvm; then want=ok; else want=missing; fi
[ "$(state kvm)" = $want ] || why="$why kvm is $(state kvm), not $want;"
[ ! -e /dev/kvm ] || [ $want = ok ] || [[ $(mend kvm) == usermod* ]] || why="$why no command mends kvm: $(mend kvm);"
verdict "as nobody" "$why"
doctor "${nobody[@]}" bash -c 'ulimit -l 64; exec "$@"' -
verdict "a memlock limit" "$([ "$(state memlock)$(mend memlock)" = "works withoutulimit -l unlimited" ] || echo "it says $(state memlock)")"

if ! unshare -m true 2>/dev/null; then
	echo "[SKIP] doctor::denied devices: no mount namespace is permitted here"
	exit $failed
fi
# denied DEVICE...: something else is in their place
denied()
{
	unshare -m bash -c 'while [ "$1" != -- ]; do mount --bind /dev/null "$1" || exit 9; shift; done; shift; exec "$@"' - "$@"
}
if [ -e /dev/kvm ]; then
	doctor denied /dev/kvm --
	verdict "a /dev/kvm that is none" "$(consistent)$([ "$(state kvm)" = missing ] || echo "kvm is $(state kvm)")"
fi
doctor unshare -m bash -c 'mount -t tmpfs none /dev && exec "$@"' -
why=$(consistent)
[[ $(state kvm) == missing && $(mend kvm) == modprobe* ]] || why="$why kvm is $(state kvm), mended by $(mend kvm);"
[ "$(state userfaultfd)" = ok ] || why="$why root without /dev/userfaultfd has the system call;"
verdict "without any device" "$why"
doctor unshare -m bash -c 'mount -t tmpfs none /dev && exec "$@"' - "${nobody[@]}"
why=$(consistent)
if [ "$(cat /proc/sys/vm/unprivileged_userfaultfd)" = 0 ]; then
	[[ $(state userfaultfd) == missing && $(mend userfaultfd) == sysctl* ]] || why="$why userfaultfd is $(state userfaultfd), mended by $(mend userfaultfd);"
fi
verdict "as nobody without any device" "$why"
doctor unshare -n
verdict "without a link" "$(consistent)$([ "$(state link)" = "works without" ] || echo "link is $(state link)")"
exit $failed
