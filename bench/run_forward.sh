#!/bin/bash
# Forwarding between three network namespaces over veth pairs, made here, for each
# setup of its own:
#
#   client c0 --- r0 router r1 --- s0 sink
#
#   run_forward.sh [-r ROUNDS] [-t SECONDS] [-s SIZE] [-f FLOWS,...] [-b ROUTES] [-l PPS] [-d] 'label=setup' ...
#
# xdpsend makes packets in the kernel on one CPU, with real-time priority; that CPU
# does all the rest, too: forwarding, and dropping at the sink, by XDP. All setups
# stand at once, and each round takes each in turn for SECONDS. The figure is CPU
# time of the generator's thread per packet that arrived, less what a packet costs
# that is dropped as soon as it comes to the router ("generator", a setup that is
# always there); medians of the rounds. kernel_% is what the kernel forwarded by its
# own count, lost_% what did not arrive. Ratios are to the first label.
#
# A setup is a shell command run inside the router namespace before the
# packets start; {IN} and {OUT} are its devices, {CTL} a control socket's name,
# {N:1000} expands to the built-in "nftables chain of 1000 rules that do not match,
# then accept". If the setup begins with "meter:" the rest is a program
# that stays in the foreground and says "msg=metering" or "msg=attached" for each of
# the devices that it is given when it is ready.
#
# -b: ROUTES is a file for ip -batch, and ROUTES.dsts has addresses that packets are
#     sent to; both are genroutes'.
# -l: no rates, but how long a UDP packet takes to the sink and back, beside PPS
#     background packets a second, all on the one CPU.
# -d: the setups drop what comes: CPU time is per packet that was sent, and lost_% is
#     what was dropped. BENCH_AFTER is run in the router once a setup with {CTL} stands.
. "$(dirname "$0")/lib.sh"
rounds=5 secs=0.5 size=60 flows=1024 routes= pps= drop=
while getopts r:t:s:f:b:l:d o; do case $o in
	r) rounds=$OPTARG ;; t) secs=$OPTARG ;; s) size=$OPTARG ;; f) flows=$OPTARG ;; b) routes=$OPTARG ;; l) pps=$OPTARG ;; d) drop=1 ;; *) exit 2 ;; esac; done
shift $((OPTIND - 1))
: "${SEND_CPU:=0}"
rt="taskset -c $SEND_CPU" low="taskset -c $SEND_CPU"
chrt -f 50 true 2>/dev/null && rt="$rt chrt -f 50" low="$low chrt -f 40"
xdp=$BENCH_BIN/xdpfib.o
labels=() stop=()
more() {
	for i in "${!labels[@]}"; do take_down "$i"; done
	rm -f "$BENCH_TMP"/log*."$$"
	cleanup
	wait
} 2>/dev/null
trap more EXIT
at() { printf '%s%s%d' "$NS" "$1" "$2"; } # c, r or s; which setup

up() { # which setup
	local c r s x
	c=$(at c "$1") r=$(at r "$1") s=$(at s "$1")
	for x in $c $r $s; do ip netns add "$x"; ip -n "$x" link set lo up; done
	ip -n "$r" link add r0 address 02:00:00:00:00:01 type veth peer name c0 netns "$c" address 02:00:00:00:00:02
	ip -n "$r" link add r1 address 02:00:00:00:00:03 type veth peer name s0 netns "$s" address 02:00:00:00:00:04
	for x in "$c c0" "$r r0" "$r r1" "$s s0"; do set -- $x; ip -n "$1" link set "$2" up; done
	ip -n "$r" addr add 10.9.1.1/24 dev r0
	ip -n "$r" addr add 10.9.2.1/24 dev r1
	ip -n "$c" addr add 10.9.1.2/24 dev c0
	ip -n "$s" addr add 10.9.2.2/24 dev s0
	ip -n "$c" route add default via 10.9.1.1
	ip -n "$s" route add default via 10.9.2.1
	ip -n "$r" route add 10.9.9.0/24 via 10.9.2.9
	# a next hop nobody has: the sink counts the frame and drops it at once
	ip -n "$r" neigh add 10.9.2.9 lladdr 02:00:00:00:09:09 dev r1
	ip -n "$r" neigh add 10.9.2.2 lladdr 02:00:00:00:00:04 dev r1
	ip -n "$r" neigh add 10.9.1.2 lladdr 02:00:00:00:00:02 dev r0
	ip netns exec "$r" ethtool -K r0 gro on
	ip netns exec "$r" ethtool -K r1 gro on
	ip netns exec "$c" ethtool -K c0 gro on tx off # whole checksums, as wires have them
	ip netns exec "$s" ethtool -K s0 gro on tx off >/dev/null
	[ -z "$routes" ] || ip -n "$r" -batch "$routes"
	ip netns exec "$r" sysctl -qw net.ipv4.ip_forward=1
	attach "$s" 1 "$BENCH_BIN/xdpfib" -o "$xdp" -do sink s0
} >/dev/null
rules() { # linear list, none matching
	echo "table ip acl {"; echo " chain f { type filter hook forward priority 0; policy drop;"
	for ((k = 0; k < $1; k++)); do echo "  ip saddr 198.$((18 + k % 2)).$((k / 256)).$((k % 256)) udp dport $((2000 + k)) drop"; done
	echo "  accept"; echo " }"; echo "}"
}
take_up() { # which setup, what
	local r setup=$2 devices=1
	r=$(at r "$1")
	up "$1"
	setup=$(subst "$setup" IN r0 OUT r1 CTL "$BENCH_TMP/ctl.$$.$1")
	case $setup in
	meter:*)
		[[ $2 == *{OUT}* ]] && devices=2
		attach "$r" "$devices" bash -c "exec ${setup#meter:}"
		stop[$1]=$!
		[ -z "${BENCH_AFTER:-}" ] || [[ $2 != *{CTL}* ]] || ip netns exec "$r" sh -c "$(subst "$BENCH_AFTER" CTL "$BENCH_TMP/ctl.$$.$1")" >/dev/null || exit 1 ;;
	*)
		while [[ $setup =~ \{N:([0-9]+)\} ]]; do
			rules "${BASH_REMATCH[1]}" >"$BENCH_TMP/rules.$$"
			setup=${setup/"${BASH_REMATCH[0]}"/nft -f "$BENCH_TMP/rules.$$"}
		done
		ip netns exec "$r" bash -c "$setup" || exit 1 ;;
	esac
}
take_down() {
	local r pid=${stop[$1]:-}
	r=$(at r "$1")
	if [ -n "$pid" ]; then
		kill "$pid" && wait "$pid"
		stop[$1]=
		ip netns exec "$r" sh -c "$(subst "${BENCH_DETACH:-true}" CTL "$BENCH_TMP/ctl.$$.$1")" 2>/dev/null # or its memory stays
	fi
	for x in c r s; do ip netns del "$(at $x "$1")" 2>/dev/null; done
}
counts() { # arrived at the sink, forwarded by the router's kernel
	ip netns exec "$(at s "$1")" awk '/s0:/ { print $3 }' /proc/net/dev
	ip netns exec "$(at r "$1")" awk '/^Ip:/ { for (i = 1; i <= NF; i++) if ($i == "ForwDatagrams") f = i; n = $f } END { print n }' /proc/net/snmp
}
send() { # which setup, flows, arguments
	local which=$1 many=$2
	shift 2
	ip netns exec "$(at c "$which")" $rt "$BENCH_BIN/xdpsend" -dev c0 -dmac 02:00:00:00:00:01 -size "$size" -flows "$many" ${routes:+-dsts "$routes.dsts"} "$@"
}
rate() { # which setup, flows
	local a b
	case ${drop:-${setups[$1]}} in
	*{CTL}*) send "$1" "$2" -t 20 -n $(($2 * 6 + 100000)) >/dev/null ;; # it knows the flows
	*) send "$1" "$2" -t 1 -n 100000 >/dev/null ;;
	esac
	a=($(counts "$1"))
	send "$1" "$2" -t "$secs" >"$BENCH_TMP/gen.$$"
	b=($(counts "$1"))
	echo "$2 ${labels[$1]} $(jget "$BENCH_TMP/gen.$$" Made) $(jget "$BENCH_TMP/gen.$$" CPUSeconds) $((b[0] - a[0])) $((b[1] - a[1]))" >>"$RES"
}
latency() { # which setup
	local a b noise= f=$BENCH_TMP/trips.$$
	if [ "$pps" != 0 ]; then
		rt=$low send "$1" "${flows%%,*}" -pps "$pps" -t 3600 >/dev/null 2>&1 & noise=$! # it spins: the others come first
		sleep 0.5
	fi
	a=($(counts "$1"))
	ip netns exec "$(at c "$1")" $rt "$BENCH_BIN/pingpong" -to 10.9.2.2:7 -t "$secs" >"$f"
	b=($(counts "$1"))
	[ -z "$noise" ] || { kill "$noise" $(cat "/proc/$noise/task/$noise/children"); wait "$noise"; } 2>/dev/null
	echo "$pps ${labels[$1]} $(jget "$f" Trips) $(jget "$f" P50) $(jget "$f" P99) $(jget "$f" P999) $((b[0] - a[0])) $((b[1] - a[1]))" >>"$RES"
}

setups=("meter:$BENCH_BIN/xdpfib -o $xdp -do drop {IN}") labels=(generator)
[ -z "$pps" ] || setups=() labels=()
for arg; do labels+=("${arg%%=*}") setups+=("${arg#*=}"); done
lock
for i in "${!labels[@]}"; do
	take_up "$i" "${setups[i]}"
	[ -z "$pps" ] || attach "$(at s "$i")" 1 $rt "$BENCH_BIN/pingpong" -echo 10.9.2.2:7
done
echo "# $size-octet frames, $secs s, $rounds rounds${routes:+, $(wc -l <"$routes") routes}; $(uptime | sed 's/.*load/load/')"
for ((round = 1; round <= rounds; round++)); do
	for many in ${flows//,/ }; do
		for i in "${!labels[@]}"; do
			if [ -n "$pps" ]; then latency "$i"; else rate "$i" "$many"; fi
		done
	done
done
for i in "${!labels[@]}"; do
	[ -z "${BENCH_SHOW:-}" ] || [ -z "${stop[i]:-}" ] || [[ ${setups[i]} != *{CTL}* ]] ||
		echo "# ${labels[i]}: $(ip netns exec "$(at r "$i")" sh -c "$(subst "$BENCH_SHOW" CTL "$BENCH_TMP/ctl.$$.$i")")"
done
unlock
echo "# at the end $(uptime | sed 's/.*load/load/')"
median='function med(s,   n, i, j, t, v) { n = split(s, v, " ")
	for (i = 2; i <= n; i++) for (j = i; j > 1 && v[j] + 0 < v[j-1] + 0; j--) { t = v[j]; v[j] = v[j-1]; v[j-1] = t }
	return n % 2 ? v[(n+1)/2] : (v[n/2] + v[n/2+1]) / 2 }'
if [ -n "$pps" ]; then
	awk "$median"'
	{ if (!($2 in p)) ord[++m] = $2; p[$2] = p[$2] " " $4; q[$2] = q[$2] " " $5; r[$2] = r[$2] " " $6; n[$2] = n[$2] " " $3; k[$2] = k[$2] " " ($7 ? 100*$8/($7+$3) : 0) }
	END { printf "%-20s %10s %8s %8s %8s %9s\n", "label", "trips", "50_%_us", "99_%_us", "99.9_%", "kernel_%"
	  for (i = 1; i <= m; i++) { l = ord[i]; printf "%-20s %10d %8.2f %8.2f %8.2f %9.2f\n", l, med(n[l]), med(p[l]), med(q[l]), med(r[l]), med(k[l]) } }' "$RES"
	exit
fi
awk -v drop="$drop" "$median"'
{ if (!($2 in seen)) { ord[++m] = $2; seen[$2] = 1 }
  if (!($1 in known)) { fl[++f] = $1; known[$1] = 1 }
  if ($2 == "generator") { gen[$1] = 1e9 * $4 / $3; ns = gen[$1]; lost = 0 } else { ns = drop ? 1e9 * $4 / $3 : $5 ? 1e9 * $4 / $5 : 1e9; lost = 100 * (1 - $5 / $3) }
  at = $1 " " $2; all[at] = all[at] " " ns; above[at] = above[at] " " (ns - gen[$1]); k[at] = k[at] " " 100 * $6 / $3; l[at] = l[at] " " lost }
END { for (j = 1; j <= f; j++) {
	printf "%-9s %-22s %10s %8s %9s %8s %9s %8s\n", "flows", "label", "pkt/cpu_s", "ns", "above_ns", "times", "kernel_%", "lost_%"
	base = med(above[fl[j] " " ord[2]])
	for (i = 1; i <= m; i++) { at = fl[j] " " ord[i]; n = med(all[at]); a = med(above[at])
		printf "%-9d %-22s %10d %8.1f %9.1f %8s %9.2f %8.2f\n", fl[j], ord[i], 1e9 / n, n, a, (i > 1 ? sprintf("%.2f", base / a) : ""), med(k[at]), med(l[at]) } } }' "$RES"
