#!/bin/bash
# What a flood leaves of established flows:
#
#   client c0 --- r0 router r1 --- s0 sink
#
#   run_flood.sh [-r ROUNDS] [-t SECONDS] [-e PPS] [-x TIMES,...] [-w SECONDS] 'label=setup' ...
#
# One CPU (SEND_CPU) makes all packets (xdpsend): of 1024 established flows PPS a
# second, one by one, and in between SYNs to the same destination, each from an address
# and a port of its own: for each of TIMES, so many for each packet of the flows ("inf":
# whatever that CPU can still make). Another CPU (ROUTE_CPU) takes them in, all from one
# queue, by threaded NAPI, forwards, and drops at the sink, by XDP. Both with real-time
# priority, as interrupts would have it; weir's own process has what they leave, before
# others. The veth pair between holds 256 packets.
#
# Each setup stands alone; the flows are known, and the flood lasts for -w SECONDS, before
# those that count. Medians of the rounds:
#
#   flows_k flood_k  what was sent, thousand packets a second
#   arrived_%        what of the flows' packets came to the sink
#   kept_%           the same, of what came at the first of TIMES (0): the rate that they keep
#   syn_%            what of the SYNs came to the sink
#   taken_%          what of all packets the router took from its queue
#   counted_%        packets in weir's records, aggregates included, of those; from the
#                    first packet to the last
#   rss_MiB entries  weir's resident memory, and flows in its table, at the end
#
# A setup is as run_forward.sh's: a shell command in the router's namespace, or
# "meter:" and a program that says msg=metering, then " @@ " and what is run once the
# flows are known; {IN} {OUT} {CTL} {STORE}. BENCH_SHOW is run at the end.
. "$(dirname "$0")/lib.sh"
rounds=3 secs=2 rate=100000 times=0,5,inf warm=1
while getopts r:t:e:x:w: o; do case $o in
	r) rounds=$OPTARG ;; t) secs=$OPTARG ;; e) rate=$OPTARG ;; x) times=$OPTARG ;; w) warm=$OPTARG ;; *) exit 2 ;; esac; done
shift $((OPTIND - 1))
: "${SEND_CPU:=0}" "${ROUTE_CPU:=1}" "${WEIR:=weir}"
c=${NS}c r=${NS}r s=${NS}s
ctl=$BENCH_TMP/ctl.$$ store=$BENCH_TMP/store.$$
more() {
	take_down
	cleanup
	rm -rf "$store" "$BENCH_TMP"/*."$$"
} 2>/dev/null
trap more EXIT
up() {
	wire_up
	attach "$s" 1 "$BENCH_BIN/xdpfib" -o "$BENCH_BIN/xdpfib.o" -do tell s0
	sink=$! sinklog=$log
}
threads() { pgrep '^napi/r0-' | sort; }
take_up() { # setup
	local setup before
	up
	router= after=true
	setup=$(subst "$1" IN r0 OUT r1 CTL "$ctl" STORE "$store")
	case $setup in
	meter:*)
		before=${setup#meter:}
		attach "$r" 2 chrt -r 1 bash -c "exec ${before%% @@ *}"
		router=$!
		[[ $setup != *" @@ "* ]] || after=${setup#* @@ } ;;
	*) ip netns exec "$r" bash -c "$setup" || exit 1 ;;
	esac
	before=$(threads)
	ip netns exec "$r" sh -c 'echo 1 >/sys/class/net/r0/threaded'
	for w in $(comm -13 <(echo "$before") <(threads)); do
		taskset -p -c "$ROUTE_CPU" "$w"
		chrt -f -p 50 "$w"
	done >/dev/null
}
take_down() {
	[ -z "${router:-}" ] || { kill "$router" && wait "$router"; [ -z "${BENCH_DETACH:-}" ] || ip netns exec "$r" sh -c "$(subst "$BENCH_DETACH" CTL "$ctl")"; }
	[ -z "${sink:-}" ] || { kill "$sink" && wait "$sink"; }
	router= sink=
	for x in $c $r $s; do ip netns del "$x"; done
} 2>/dev/null
send() { # seconds, SYNs a second
	ip netns exec "$c" "$BENCH_BIN/xdpsend" -cpu "$SEND_CPU" -dev c0 -dmac 02:00:00:00:01:00 -pps "$rate" -t "$1" -syn "$2" >"$BENCH_TMP/gen.$$"
	made=$(($(jget "$BENCH_TMP/gen.$$" Made))) syn=$(($(jget "$BENCH_TMP/gen.$$" SYN)))
}
arrived() { # of the flows, of the flood: the sink is asked, and goes on
	kill -USR1 "$sink"
	sleep 0.2
	udp=$(jget <(tail -n 1 "$sinklog") UDP) tcp=$(jget <(tail -n 1 "$sinklog") TCP)
}
taken() { ip netns exec "$r" awk '/r0:/ { n += $3 } END { print n }' /proc/net/dev; }
measure() { # label, setup, SYNs for each packet
	local flood=0 udp0 tcp0 taken0 all counted=- rss=- entries=-
	case $3 in 0) ;; inf) flood=inf ;; *) flood=$(($3 * rate)) ;; esac
	take_up "$2"
	send 1 0
	ip netns exec "$r" sh -c "$after" >/dev/null || exit 1
	[ "$flood" = 0 ] || send "$warm" "$flood"
	arrived; udp0=$udp tcp0=$tcp taken0=$(taken)
	send "$secs" "$flood"
	arrived
	all=$(($(taken) - taken0))
	if [ -n "$router" ]; then
		rss=$(awk '/VmRSS/ { print int($2 / 1024) }' "/proc/$(pgrep -n -P "$router" weir || echo "$router")/status")
		entries=$(ip netns exec "$r" $WEIR --control "$ctl" show cache -o csv | awk -F, 'NR==1 { for (i = 1; i <= NF; i++) if ($i == "entries") c = i } NR==2 { print $c }')
		[ -z "${BENCH_SHOW:-}" ] || echo "# $1 $3: $(ip netns exec "$r" sh -c "$(subst "$BENCH_SHOW" CTL "$ctl")")" >&2
		kill "$router"; wait "$router" 2>/dev/null
		router=
		ip netns exec "$r" sh -c "$(subst "${BENCH_DETACH:-true}" CTL "$ctl")" 2>/dev/null
		[ ! -d "$store" ] || counted=$($WEIR query --store "$store" -A proto -n 0 -o csv 'dst net 10.9.9.0/24 or proto tcp' | awk -F, -v of="$(taken)" 'NR > 1 { n += $3 } END { print 100 * n / of }')
	fi
	take_down
	rm -rf "$store"
	echo "$3 $1 $made $syn $((udp - udp0)) $((tcp - tcp0)) $all $counted $rss ${entries:--}" | tee -a "$RES" >&2
}

echo "# $rate packets a second of 1024 flows, $secs s, $rounds rounds, $(uptime | sed 's/.*load/load/')"
lock
for ((round = 1; round <= rounds; round++)); do
	for many in ${times//,/ }; do
		for arg; do measure "${arg%%=*}" "${arg#*=}" "$many"; done
	done
done
unlock
echo "# at the end $(uptime | sed 's/.*load/load/')"
awk -v secs="$secs" 'function med(s,   n, i, j, t, v) { n = split(s, v, " ")
	for (i = 2; i <= n; i++) for (j = i; j > 1 && v[j] + 0 < v[j-1] + 0; j--) { t = v[j]; v[j] = v[j-1]; v[j-1] = t }
	return n % 2 ? v[(n+1)/2] : (v[n/2] + v[n/2+1]) / 2 }
{ if (!($2 in seen)) { ord[++m] = $2; seen[$2] = 1 }
  if (!($1 in known)) { fl[++f] = $1; known[$1] = 1 }
  at = $1 " " $2; fr[at] = fr[at] " " $3 / secs / 1000; sr[at] = sr[at] " " $4 / secs / 1000; a[at] = a[at] " " 100 * $5 / $3
  y[at] = y[at] " " ($4 ? 100 * $6 / $4 : 0); k[at] = k[at] " " 100 * $7 / ($3 + $4); n[at] = n[at] " " $8; rss[at] = rss[at] " " $9; e[at] = e[at] " " $10; real[$2] = $8 != "-" }
END { for (j = 1; j <= f; j++) {
	printf "%-6s %-20s %8s %8s %10s %8s %8s %8s %10s %8s %9s\n", "times", "label", "flows_k", "flood_k", "arrived_%", "kept_%", "syn_%", "taken_%", "counted_%", "rss_MiB", "entries"
	for (i = 1; i <= m; i++) { at = fl[j] " " ord[i]; base = med(a[fl[1] " " ord[i]])
		printf "%-6s %-20s %8.1f %8.1f %10.2f %8.1f %8.2f %8.2f %10s %8s %9s\n", fl[j], ord[i], med(fr[at]), med(sr[at]), med(a[at]), base ? 100 * med(a[at]) / base : 0, med(y[at]), med(k[at]),
			real[ord[i]] ? sprintf("%.4f", med(n[at])) : "-", real[ord[i]] ? med(rss[at]) : "-", real[ord[i]] ? med(e[at]) : "-" } } }' "$RES"
