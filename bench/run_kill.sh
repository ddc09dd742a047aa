#!/bin/bash
# What is lost of a stream while weir, which forwards it, is killed and comes back:
#
#   client c0 --- r0 router r1 --- s0 sink
#
#   run_kill.sh [-p PPS] [-t SECONDS] [-f FLOWS] [-s SIGNAL] 'a command that runs weir'
#
# xdpsend makes PPS frames of 60 octets a second on SEND_CPU, which also forwards and
# drops them at the sink, by XDP. The command ({IN} {OUT} {CTL}; it says msg=metering for
# both devices) runs on ROUTE_CPU. Every three seconds it gets SIGNAL (KILL), and half a
# second after its end it is begun again. What the kernel forwarded, by its own count, was
# not weir's.
. "$(dirname "$0")/lib.sh"
pps=1000000 secs=20 flows=1024 signal=KILL
while getopts p:t:f:s: o; do case $o in
	p) pps=$OPTARG ;; t) secs=$OPTARG ;; f) flows=$OPTARG ;; s) signal=$OPTARG ;; *) exit 2 ;; esac; done
shift $((OPTIND - 1))
: "${SEND_CPU:=0}" "${ROUTE_CPU:=1}"
c=${NS}c r=${NS}r s=${NS}s
ctl=$BENCH_TMP/ctl.$$ log=$BENCH_TMP/log.$$
more() {
	[ -z "${weir:-}" ] || { kill "$weir" && wait "$weir"; }
	[ -z "${BENCH_DETACH:-}" ] || ip netns exec "$r" sh -c "$(subst "$BENCH_DETACH" CTL "$ctl")"
	cleanup
	for x in $c $r $s; do ip netns del "$x"; done
	rm -f "$BENCH_TMP"/*."$$"
} 2>/dev/null
trap more EXIT
for x in $c $r $s; do
	ip netns add "$x"
	ip netns exec "$x" sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1 # no packets but the bench's
	ip -n "$x" link set lo up
done
for x in "0 c0 $c" "1 s0 $s"; do
	set -- $x "$@"
	ip -n "$r" link add "r$1" address "02:00:00:00:01:0$1" type veth peer name "$2" netns "$3" address "02:00:00:00:02:0$1"
	ip -n "$r" link set "r$1" up
	ip -n "$3" link set "$2" up
	ip -n "$r" addr add "10.9.1$1.1/24" dev "r$1"
	ip netns exec "$r" ethtool -K "r$1" gro on >/dev/null
	ip netns exec "$3" ethtool -K "$2" gro on >/dev/null
	shift 3
done
ip -n "$r" route add 10.9.9.0/24 via 10.9.11.9
ip -n "$r" neigh add 10.9.11.9 lladdr 02:00:00:00:09:09 dev r1
ip netns exec "$r" sh -c 'sysctl -qw net.ipv4.ip_forward=1; for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 >$f; done'
ip netns exec "$s" "$BENCH_BIN/xdpfib" -o "$BENCH_BIN/xdpfib.o" -do sink s0 >"$log" 2>&1 &
PIDS+=($!)
ready() { # HOW_MANY lines
	for ((w = 0; w < 600; w++)); do
		[ "$(grep -cs 'msg=\(metering\|attached\)' "$log")" -ge "$1" ] && return
		kill -0 $! 2>/dev/null || break
		sleep 0.1
	done
	echo "# not ready:" >&2
	tail -n 5 "$log" >&2
	exit 1
}
ready 1
begin() {
	: >"$log"
	ip netns exec "$r" taskset -c "$ROUTE_CPU" bash -c "exec $(subst "$1" IN r0 OUT r1 CTL "$ctl")" >>"$log" 2>&1 &
	weir=$!
	ready 2
}
send() { ip netns exec "$c" taskset -c "$SEND_CPU" "$BENCH_BIN/xdpsend" -dev c0 -dmac 02:00:00:00:01:00 -size 60 -flows "$flows" "$@"; }
counts() { # arrived at the sink, forwarded by the router's kernel
	ip netns exec "$s" awk '/s0:/ { print $3 }' /proc/net/dev
	ip netns exec "$r" awk '/^Ip:/ { for (i = 1; i <= NF; i++) if ($i == "ForwDatagrams") f = i; n = $f } END { print n }' /proc/net/snmp
}
begin "$1"
send -t 1 -n $((flows * 6 + 100000)) >/dev/null
sleep 0.5
a=($(counts))
send -pps "$pps" -t "$secs" >"$BENCH_TMP/gen.$$" &
sender=$! killed=0
for ((at = 3; at < secs; at += 3)); do
	sleep 2
	kill -s "$signal" "$weir"
	wait "$weir" 2>/dev/null
	killed=$((killed + 1))
	sleep 0.5
	begin "$1"
	sleep 0.5
done
wait "$sender"
sleep 0.5
b=($(counts))
made=$(jget "$BENCH_TMP/gen.$$" Made)
echo "sent $made, $signal $killed times, lost $((made - b[0] + a[0])), forwarded by the kernel $((b[1] - a[1]))"
