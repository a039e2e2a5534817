# SPDX-License-Identifier: MIT
# For a script that is made of cases: sets suite, sources this, and exits with $failed.
failed=0

verdict() # NAME WHY: passed where WHY is empty
{
	if [ -z "$2" ]; then
		echo "[PASS] $suite::$1"
	else
		echo "[FAIL] $suite::$1: $2"
		failed=1
	fi
}
