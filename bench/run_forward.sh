#!/bin/bash
# Forwarding between three network namespaces over veth pairs, made here:
#
#   client c0 --- r0 router r1 --- s0 sink
#
# xdpsend makes packets in the kernel on one CPU; each setup in turn forwards
# them for SECONDS; the figure is what arrived at s0.
#
#   run_forward.sh [-r ROUNDS] [-t SECONDS] [-s SIZE] [-f FLOWS] 'label=setup' ...
#
# A setup is a shell command run inside the router namespace before the
# packets start; {IN} and {OUT} are its devices, {N:1000} expands to the
# built-in "nftables chain of 1000 rules that do not match, then accept".
# The kernel forwards. If the setup begins with "meter:" the rest is a program
# that stays in the foreground and says "msg=metering" for each device when it
# is ready.
. "$(dirname "$0")/lib.sh"
rounds=5 secs=3 size=60 flows=1024
while getopts r:t:s:f: o; do case $o in r) rounds=$OPTARG ;; t) secs=$OPTARG ;; s) size=$OPTARG ;; f) flows=$OPTARG ;; *) exit 2 ;; esac; done
shift $((OPTIND - 1))
: "${SEND_CPU:=0}"
C=${NS}c R=${NS}r S=${NS}s
more() { cleanup; for x in $C $R $S; do ip netns del "$x" 2>/dev/null; done; }
trap more EXIT
up() {
	for x in $C $R $S; do ip netns del "$x" 2>/dev/null; ip netns add "$x"; ip -n "$x" link set lo up; done
	ip -n $R link add r0 address 02:00:00:00:00:01 type veth peer name c0 netns $C address 02:00:00:00:00:02
	ip -n $R link add r1 address 02:00:00:00:00:03 type veth peer name s0 netns $S address 02:00:00:00:00:04
	for x in "$C c0" "$R r0" "$R r1" "$S s0"; do set -- $x; ip -n "$1" link set "$2" up; done
	ip -n $R addr add 10.9.1.1/24 dev r0
	ip -n $R addr add 10.9.2.1/24 dev r1
	ip -n $C addr add 10.9.1.2/24 dev c0
	ip -n $R route add 10.9.9.0/24 via 10.9.2.9
	# a next hop nobody has: the sink counts the frame and drops it at once
	ip -n $R neigh add 10.9.2.9 lladdr 02:00:00:00:09:09 dev r1
	ip netns exec $R ethtool -K r0 gro on
	ip netns exec $S ethtool -K s0 gro on # or no frame can be redirected to it
}
rules() { # linear list, none matching
	echo "table ip acl {"; echo " chain f { type filter hook forward priority 0; policy drop;"
	for ((k = 0; k < $1; k++)); do echo "  ip saddr 198.$((18 + k % 2)).$((k / 256)).$((k % 256)) udp dport $((2000 + k)) drop"; done
	echo "  accept"; echo " }"; echo "}"
}
echo "# $size-byte frames of $flows flows, $secs s, $rounds rounds"
for ((i = 1; i <= rounds; i++)); do
	lock # for a whole round: the setups are compared within it
	for arg; do
		label=${arg%%=*} setup=${arg#*=} prog=
		up
		case $setup in
		meter:*)
			ip netns exec $R sysctl -qw net.ipv4.ip_forward=1
			ip netns exec $R bash -c "exec $(subst "${setup#meter:}" IN r0 OUT r1)" >"$BENCH_TMP/log.$label" 2>&1 9>&- & prog=$!; PIDS=("$prog")
			for ((w = 0; w < 300; w++)); do [ "$(grep -cs msg=metering "$BENCH_TMP/log.$label" || true)" -ge "${METERED:-2}" ] && break; sleep 0.1; done ;;
		*) ip netns exec $R sysctl -qw net.ipv4.ip_forward=1
			while [[ $setup =~ \{N:([0-9]+)\} ]]; do
				rules "${BASH_REMATCH[1]}" >"$BENCH_TMP/rules.$$"
				setup=${setup/"${BASH_REMATCH[0]}"/nft -f "$BENCH_TMP/rules.$$"}
			done
			ip netns exec $R bash -c "$(subst "$setup" IN r0 OUT r1)" >"$BENCH_TMP/log.$label" 2>&1 ;;
		esac
		rx() { ip netns exec $S cat /proc/net/dev | awk '/s0:/{print $3}'; }
		a=$(rx)
		c0=$(awk '/^cpu /{print $2+$3+$4+$7+$8}' /proc/stat)
		ip netns exec $C taskset -c "$SEND_CPU" "$BENCH_BIN/xdpsend" -dev c0 -dmac 02:00:00:00:00:01 -t "$secs" -size "$size" -flows "$flows" >"$BENCH_TMP/gen.$$" || cat "$BENCH_TMP/gen.$$"
		sleep 0.1
		c1=$(awk '/^cpu /{print $2+$3+$4+$7+$8}' /proc/stat)
		b=$(rx)
		[ -z "$prog" ] || { kill "$prog"; wait "$prog"; PIDS=(); tail -n 1 "$BENCH_TMP/log.$label" | cut -c 1-200; }
		[ -z "$prog" ] || ip netns exec $R sh -c "${BENCH_DETACH:-true}" # or its memory stays
		echo "$label $((b - a)) $(jget "$BENCH_TMP/gen.$$" Made) $(jget "$BENCH_TMP/gen.$$" Seconds) $((c1 - c0))" | tee -a "$RES"
	done
	unlock
done
awk '
function med(s,   n, i, j, t, v) { n = split(s, v, " ")
	for (i = 2; i <= n; i++) for (j = i; j > 1 && v[j] + 0 < v[j-1] + 0; j--) { t = v[j]; v[j] = v[j-1]; v[j-1] = t }
	return n % 2 ? v[(n+1)/2] : (v[n/2] + v[n/2+1]) / 2 }
{ if (!($1 in p)) ord[++m] = $1; p[$1] = p[$1] " " $2/$4; l[$1] = l[$1] " " 100*(1-$2/$3); u[$1] = u[$1] " " $5/100/$4 }
END { printf "%-20s %12s %8s %8s %8s\n", "label", "forwarded/s", "ratio", "lost_%", "cpus"
  for (i = 1; i <= m; i++) { k = ord[i]; if (i == 1) base = med(p[k])
	printf "%-20s %12d %8.3f %8.2f %8.2f\n", k, med(p[k]), med(p[k])/base, med(l[k]), med(u[k]) } }' "$RES"
