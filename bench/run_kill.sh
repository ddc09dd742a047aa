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
ctl=$BENCH_TMP/ctl.$$
more() {
	[ -z "${weir:-}" ] || { kill "$weir" && wait "$weir"; }
	[ -z "${BENCH_DETACH:-}" ] || ip netns exec "$r" sh -c "$(subst "$BENCH_DETACH" CTL "$ctl")"
	cleanup
	for x in $c $r $s; do ip netns del "$x"; done
	rm -f "$BENCH_TMP"/*."$$"
} 2>/dev/null
trap more EXIT
wire_up
attach "$s" 1 "$BENCH_BIN/xdpfib" -o "$BENCH_BIN/xdpfib.o" -do sink s0
begin() {
	attach "$r" 2 taskset -c "$ROUTE_CPU" bash -c "exec $(subst "$1" IN r0 OUT r1 CTL "$ctl")"
	weir=$!
	unset 'PIDS[-1]' # it is ended here
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
