# Shared by the run_*.sh scripts; source it. Needs root (network namespaces),
# GNU time, and the generators built: go build -o "$BENCH_BIN/" ./bench/gen/....
#
#   BENCH_BIN   where the generators are      (default: bin beside this file)
#   BENCH_TMP   scratch, needs room           (default: /tmp/bench.work)
#   BENCH_LOCK  a file to flock round each timed run, if set
#
# Nothing leaves the namespace made here: it has a loopback and nothing else.
set -u
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
: "${BENCH_BIN:=$HERE/bin}" "${BENCH_TMP:=/tmp/bench.work}" "${BENCH_LOCK:=}"
NS=bench$$
mkdir -p "$BENCH_TMP"
RES=$BENCH_TMP/results.$$
: >"$RES"
ip netns add "$NS" && ip -n "$NS" link set lo up || exit 1
PIDS=()
cleanup() {
	for p in "${PIDS[@]}"; do kill "$p" 2>/dev/null; done
	ip netns del "$NS" 2>/dev/null
	rm -rf "$BENCH_TMP/out.$$"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
in_ns() { ip netns exec "$NS" "$@"; }
lock() { [ -z "$BENCH_LOCK" ] || { exec 9>>"$BENCH_LOCK"; flock 9; }; }
unlock() { [ -z "$BENCH_LOCK" ] || exec 9>&-; }
fresh_out() { OUT=$BENCH_TMP/out.$$; rm -rf "$OUT"; mkdir -p "$OUT"; chmod 777 "$OUT"; }
# subst TEXT KEY VALUE ... : {KEY} -> VALUE
subst() {
	local s=$1; shift
	while [ $# -gt 0 ]; do s=${s//"{$1}"/$2}; shift 2; done
	printf %s "$s"
}
# jget FILE KEY : a number out of the generators' flat one-line JSON
jget() { grep -o "\"$2\": *-\?[0-9.e+]*" "$1" | head -1 | sed 's/.*: *//'; }
