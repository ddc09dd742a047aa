#!/usr/bin/env bash
# Every fuzz target of the project, FUZZTIME each (default 60s), one after another.
set -u
cd "$(dirname "$0")/.."
: "${FUZZTIME:=60s}"
status=0 n=0
for file in $(git grep -l -E '^func Fuzz[A-Z]' -- '*_test.go'); do
	pkg=./$(dirname "$file")
	for target in $(grep -oE '^func Fuzz[A-Za-z0-9_]+' "$file" | awk '{print $2}'); do
		echo "== $pkg $target ($FUZZTIME)"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$FUZZTIME" "$pkg" | grep -vE '^fuzz: elapsed' || true
		[ "${PIPESTATUS[0]}" = 0 ] || { status=1; echo "FAILED: $pkg $target"; }
		n=$((n + 1))
	done
done
echo "$n targets, $FUZZTIME each. Left out: longer runs (FUZZTIME=1h make fuzz), and coverage across machines."
exit $status
