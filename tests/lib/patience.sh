# SPDX-License-Identifier: MIT
# As tests/lib/patience.h: how many times as long ends wait which are to give up soon. Sourced by bash.
PATIENCE=$(awk -v least="${FERRY_TEST_PATIENCE:-1}" -v cpus="$(nproc)" '{
	n = $1 / cpus > least ? int($1 / cpus) + 1 : least
	print (n > 5 ? 5 : n)
}' /proc/loadavg)
