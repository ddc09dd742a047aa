#!/usr/bin/env bash
# Long runs: a weir that is reloaded, fed and insulted for WEIR_SOAK (default
# 5m), and collectors that are killed at random moments. Prints what it left out.
set -u
cd "$(dirname "$0")/.."
export PATH=$PATH:/usr/sbin:/sbin
: "${WEIR_SOAK:=5m}"
export WEIR_SOAK
log=$(mktemp)
trap 'rm -f "$log"' EXIT
go test -count=1 -v -timeout 24h -run "^(TestSoak|TestKernel)" ./datapath ./test/system 2>&1 | tee "$log" | grep --line-buffered -vE '^=== (RUN|PAUSE|CONT|NAME)'
status=${PIPESTATUS[0]}
grep -q -- '--- SKIP' "$log" && echo "Left out for want of a privilege or a program: the tests skipped above."
cat <<END
Left out: longer runs (WEIR_SOAK=24h make soak); power cuts (a killed process keeps
what the kernel holds, a machine does not); other kernels and processors than this
one ($(uname -sr), $(nproc) x $(uname -m)); networks that lose or corrupt datagrams on their own.
END
exit "$status"
