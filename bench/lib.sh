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
# attach NAMESPACE HOW_MANY COMMAND...: a program in the foreground, until it has said so
# often that it meters or is attached. Its output is in $log.
attach() {
	local ns=$1 want=$2 w
	log=$BENCH_TMP/log${#PIDS[@]}.$$
	shift 2
	: >"$log"
	ip netns exec "$ns" "$@" >"$log" 2>&1 9>&- &
	PIDS+=($!)
	for ((w = 0; w < 600; w++)); do
		[ "$(grep -cs 'msg=\(metering\|attached\)' "$log")" -ge "$want" ] && return
		kill -0 $! 2>/dev/null || break
		sleep 0.1
	done
	echo "# not ready: $*" >&2
	tail -n 5 "$log" >&2
	exit 1
}
# wire_up: namespaces $c, $r, $s with client c0 --- r0 router r1 --- s0 sink, a queue each,
# for packets to 10.9.9.0/24. No packets are in them but the bench's.
wire_up() {
	local x
	for x in "$c" "$r" "$s"; do
		ip netns add "$x"
		ip netns exec "$x" sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1
		ip -n "$x" link set lo up
	done
	for x in "0 c0 $c" "1 s0 $s"; do
		set -- $x
		ip -n "$r" link add "r$1" address "02:00:00:00:01:0$1" numrxqueues 1 numtxqueues 1 type veth peer name "$2" netns "$3" address "02:00:00:00:02:0$1" numrxqueues 1 numtxqueues 1
		ip -n "$r" link set "r$1" up
		ip -n "$3" link set "$2" up
		ip -n "$r" addr add "10.9.1$1.1/24" dev "r$1"
		ip netns exec "$r" ethtool -K "r$1" gro on
		ip netns exec "$3" ethtool -K "$2" gro on
	done
	ip -n "$r" route add 10.9.9.0/24 via 10.9.11.9
	ip -n "$r" neigh add 10.9.11.9 lladdr 02:00:00:00:09:09 dev r1 # nobody has that
	ip netns exec "$r" sh -c 'sysctl -qw net.ipv4.ip_forward=1; for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 >$f; done'
} >/dev/null
