#!/usr/bin/env bash
# The long form of the tests against real peers: every capture of the corpus
# through weir into nfcapd and tshark, and through softflowd into weir.
set -u
cd "$(dirname "$0")/.."
export PATH=$PATH:/usr/sbin:/sbin WEIR_INTEROP=1
for peer in nfcapd nfdump softflowd tshark nfacctd pmacctd fprobe ovs-vswitchd; do
	printf '%-10s ' "$peer"
	case $peer in
	nfcapd | nfdump | nfacctd | pmacctd | ovs-vswitchd) $peer -V 2>&1 | head -n 1 ;;
	fprobe) fprobe -h 2>&1 | grep -m1 version || echo 'there' ;;
	softflowd) $peer -h 2>&1 | grep -im1 version || echo 'there' ;;
	tshark) tshark --version 2>/dev/null | head -n 1 ;;
	esac
	command -v "$peer" >/dev/null || echo "$peer is not installed: its tests are left out"
done
log=$(mktemp)
trap 'rm -f "$log"' EXIT
go test -count=1 -v -timeout 60m -run '^TestInterop' ./test/system 2>&1 | tee "$log" | grep --line-buffered -vE '^=== (RUN|PAUSE|CONT|NAME)'
status=${PIPESTATUS[0]}
go test -count=1 -v -timeout 60m -run 'TestNfcapd|TestTshark|TestNfacctd|TestSoftflowd|TestPmacctd|TestFprobe|TestOpenVSwitch|TestAgreesWithNfdump' ./export ./collect ./query 2>&1 |
	tee -a "$log" | grep --line-buffered -E '^ *--- |^(ok|FAIL)'
[ "${PIPESTATUS[0]}" = 0 ] || status=1
WEIR_DIFFERENTIAL=${WEIR_DIFFERENTIAL:-10} go test -count=1 -timeout 60m ./test/differential || status=1
grep -A1 -- '--- SKIP' "$log" | sed 's/^/Left out: /'
cat <<'END'
Left out: routers and switches of makers (the corpus has their exports as captures: go test ./collect);
TCP and SCTP transport, which these peers do not offer; hsflowd, which Debian does not package.
END
exit "$status"
