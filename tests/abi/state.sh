#!/bin/bash
# SPDX-License-Identifier: MIT
# Sessions share nothing: no object of the library has a variable that could be written and outlive a call.
set -eu
build=$2
if [ -n "${SANITIZE:-}" ]; then
	echo "[SKIP] state::globals: a sanitizer puts variables of its own into each object; the release build is looked at"
	exit 77
fi

# Symbols of data in sections that stay writable, and common and thread-local ones; constants that need relocation
# (.data.rel.ro) are read-only once loaded.
writable()
{
	readelf -SsW "$1" | awk '
	/^ *\[ *[0-9]+\]/ { sub(/^ *\[ */, ""); sub(/\]/, " "); section[$1] = $2; flags[$1] = $8 }
	$4 == "OBJECT" || $4 == "TLS" || $4 == "COMMON" {
		in_section = section[$7]
		if ($7 == "COM" || $4 == "TLS" || (flags[$7] ~ /W/ && in_section !~ /^\.data\.rel\.ro/))
			print $8, "in", ($7 == "COM" ? "COMMON" : in_section)
	}'
}

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# The check itself: each kind of variable is found, constants are not.
cat >"$tmp/probe.c" <<'END'
int initialised = 1, zero;
static int hidden = 2;
_Thread_local int own;
const int constant = 3;
static const char *const names[] = { "a", "b" };
int *probe(int i);
int *probe(int i) { static int local; return i ? &local + names[i & 1][0] + constant : &hidden + initialised + zero + own; }
END
"${CC:-cc}" -fPIC -O1 -c -o "$tmp/probe.o" "$tmp/probe.c"
found=$(writable "$tmp/probe.o" | awk '{ sub(/\..*/, "", $1); print $1 }' | sort | tr '\n' ' ')
[ "$found" = "hidden initialised local own zero " ] || { echo "[FAIL] state::probe: of five variables it finds: $found"; exit 1; }
echo "[PASS] state::probe"

failed=0
for lib in libferry.a libferry-etcd.a; do
	[ -e "$build/$lib" ] || continue
	mkdir "$tmp/$lib"
	(cd "$tmp/$lib" && ar x "$build/$lib")
	objects=("$tmp/$lib"/*)
	found=$(for o in "${objects[@]}"; do writable "$o"; done)
	if [ ${#objects[@]} -gt 0 ] && [ -z "$found" ] && readelf -sW "${objects[0]}" | grep -q ' FUNC '; then
		echo "[PASS] state::$lib"
	else
		echo "[FAIL] state::$lib has variables that sessions would share: $found"
		failed=1
	fi
done
exit $failed
