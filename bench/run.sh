#!/usr/bin/env bash
# Peers and weir in one run, side by side; the figures are ratios of one
# machine and one hour, so run it on yours.
#
#   make bench                    packets to flows, the kernel's hit path, forwarding, floods, collector, queries
#   PACKETS=2000000 make bench    smaller (default 20 M packets, 5 M records)
#   SHORT=3 ROUTES=100000 ...     of forwarding: rounds (7), and prefixes of the BGP table (900 k, some 200 MB for each of three)
#
# Needs root, for the network namespace that all traffic stays in.
set -eu
cd "$(dirname "$0")/.."
export PATH=$PATH:/usr/sbin:/sbin
: "${PACKETS:=20000000}" "${FLOWS:=$((PACKETS / 20))}" "${RECORDS:=5000000}" "${RATE:=400000}" "${ROUNDS:=3}" "${SHORT:=7}" "${ROUTES:=900000}"
export BENCH_TMP=${BENCH_TMP:-$PWD/bench/out} BENCH_BIN=$PWD/bench/out/bin
[ "$(id -u)" = 0 ] || { echo "bench: needs root for network namespaces: sudo make bench" >&2; exit 1; }
mkdir -p "$BENCH_BIN"
make --no-print-directory build
go build -o "$BENCH_BIN/" ./bench/gen/...
weir=$PWD/bin/weir

capture() { # name, flags
	local f=$BENCH_TMP/$1-$PACKETS.pcap; shift
	[ -s "$f.truth.json" ] || "$BENCH_BIN/genpcap" -o "$f" -n "$PACKETS" "$@" >&2
	echo "$f"
}
mix=$(capture mix -flows "$FLOWS" -span 300)
flood=$(capture flood -mode synflood -span 60)
left=()
has() { command -v "$1" >/dev/null || { left+=("$1"); return 1; }; }

echo "== $(uname -srm), $(nproc) CPUs, $(awk -F': ' '/model name/{print $2; exit}' /proc/cpuinfo)"
check='awk -v q="\"" "/^\\{/{s=\$0} END{match(s,/\"records\":[0-9]+/); r=substr(s,RSTART+10,RLENGTH-10); match(s,/\"metered\":\\{\"packets\":[0-9]+,\"bytes\":[0-9]+/); m=substr(s,RSTART,RLENGTH); gsub(/[^0-9,]/,\"\",m); split(m,v,\",\"); print r, v[1], v[2]}" {OUT}/summary'
peers=()
has softflowd && peers+=("softflowd=softflowd -r {PCAP} -n {SINK} -v 9 -m 2000000 -t maxlife=1800 -t general=15")
has nfpcapd && peers+=("nfpcapd=nfpcapd -r {PCAP} -l {OUT}")
for file in "$mix" "$flood"; do
	echo; echo "== capture file to flows"
	bench/run_pcap.sh -r "$ROUNDS" "$file" \
		"weir=$weir meter -r {PCAP} -o csv -w /dev/null --summary 2>{OUT}/summary @@ $check" \
		"weir-export=$weir meter -r {PCAP} --export udp://{SINK}?version=9" "${peers[@]}"
done

echo; echo "== kernel: a packet of a known flow, and of new ones, beside the hash maps of eBPF agents"
go test ./bpf -run '^$' -bench Kernel -benchtime 1x | grep -v '^ok\|^PASS\|^goos\|^goarch\|^pkg'

export BENCH_DETACH="$weir --control {CTL} meter --detach"
# What weir itself says that it did: packets by interface and reason.
export BENCH_SHOW="$weir --control {CTL} show routes -o csv 2>/dev/null | awk -F, 'NR==1 {for (i=1; i<=NF; i++) c[\$i]=i; next} \$c[\"reason\"] != \"\" && \$c[\"packets\"] > 0 {printf \"%s %s %s; \", \$c[\"interface\"], \$c[\"reason\"], \$c[\"packets\"]}'"
lists=$BENCH_TMP/lists
{
	echo "ip access-list extended BENCH"
	for ((k = 0; k < 1000; k++)); do echo " deny udp host 198.$((18 + k % 2)).$((k / 256)).$((k % 256)) any eq $((2000 + k))"; done
	printf ' permit ip any any\ninterface r0\n ip access-group BENCH in\n'
} >"$lists.acl"
printf 'interfaces: {r0: {meter: on}, r1: {meter: on}}\nacl: {file: %s.acl}\n' "$lists" >"$lists.yaml"
printf 'interfaces: {r0: {mode: xdp, forward: on}, r1: {mode: xdp, forward: on}}\n' >"$lists.forward.yaml"
sed 1q "$lists.forward.yaml" | cat - <(printf 'acl: {file: %s.acl}\n' "$lists") >"$lists.both.yaml"
live() { echo "meter:$weir $2 --control {CTL} meter -i {IN} $3 --mode $1 -w /dev/null"; }
forward() { echo "meter:$weir -c $lists.$1.yaml --control {CTL} meter -i {IN} -i {OUT} -w /dev/null"; }
xdp() { echo "meter:$BENCH_BIN/xdpfib -o $BENCH_BIN/xdpfib.o -do $1 -dmac 02:00:00:00:09:09 {IN} {OUT}"; }
filters=()
has nft && filters=("nft-100={N:100}" "nft-1000={N:1000}")
if has clang-19; then
	clang-19 -O2 -g -target bpf -mcpu=v3 -Wall -Wextra -Werror -Wno-unused-function -c bench/gen/xdpfib/xdpfib.bpf.c -o "$BENCH_BIN/xdpfib.o"
	echo; echo "== kernel: what metering and filtering cost of the kernel's forwarding"
	bench/run_forward.sh -r "$SHORT" -f 1,64,1024 "no-program=true" "idle-xdp=$(xdp idle)" "idle-xdp+tcx=$(xdp idle+idle_out)" "idle-tcx=$(xdp idle_in+idle_out)" "weir-xdp=$(live xdp "" "-i {OUT}")" \
		"weir-xdp-in=$(live xdp "" "")" "weir-tc=$(live tc "" "-i {OUT}")" "weir-xdp-1000-rules=$(live xdp "-c $lists.yaml" "-i {OUT}")"

	echo; echo "== kernel: forwarders"
	bench/run_forward.sh -r "$SHORT" -f 1,1024,65536,524288 "kernel=true" "${filters[@]}" "xdp-fib=$(xdp fib)" "xdp-redirect=$(xdp redirect)" \
		"weir=$(forward forward)" "weir-1000-rules=$(forward both)"

	echo; echo "== kernel: who drops what is beyond a rate: of one flow, and of new flows"
	nftdrop() { echo "echo 'table ip g { set m { type ipv4_addr . inet_service . ipv4_addr . inet_service; flags dynamic; size 65536; timeout 10s; }; set d { type ipv4_addr; flags dynamic; size 65536; timeout 10s; }; chain p { type filter hook prerouting priority -300; $1; }; }' | nft -f -"; }
	hashlimit() { echo "iptables -t raw -A PREROUTING -p udp -m hashlimit --hashlimit-name b --hashlimit-above 1000/sec --hashlimit-mode $1 -j DROP"; }
	printf 'store: {dir: %s/limits.store}\ninterfaces: {r0: {mode: xdp}}\nguard: {flows: {any: {pps: 1000, action: police}}}\n' "$BENCH_TMP" >"$lists.flows.yaml"
	sed 's/limits.store/new.store/; s/flows: .*/new-flows: {per-cpu: 0, per-source: 0, per-destination: 0}}/' "$lists.flows.yaml" >"$lists.new.yaml"
	guarded() { echo "meter:$weir -c $lists.$1.yaml --control {CTL} up -i {IN} --listen udp://127.0.0.1:2055 --console ''"; }
	bench/run_forward.sh -d -r "$SHORT" -f 1 "nft-limit=$(nftdrop "limit rate over 1000/second drop")" "nft-meter=$(nftdrop "update @m { ip saddr . udp sport . ip daddr . udp dport limit rate over 1000/second } drop")" \
		"iptables-hashlimit=$(hashlimit srcip,srcport,dstip,dstport)" "weir-flow-limit=$(guarded flows)"
	BENCH_AFTER="$weir --control {CTL} guard propose --new --to 10.9.8.0/22 --pps 1000 --for 1h --approve --override" \
		bench/run_forward.sh -d -r "$SHORT" -f 16777216 "nft-limit=$(nftdrop "limit rate over 1000/second drop")" \
		"nft-meter=$(nftdrop "update @m { ip saddr . udp sport . ip daddr . udp dport limit rate over 1000/second } drop")" \
		"nft-meter-dst=$(nftdrop "update @d { ip daddr limit rate over 1000/second } drop")" \
		"iptables-hashlimit=$(hashlimit dstip)" "weir-new-flows=$(guarded new)"
	echo; echo "== kernel: what a flood of forged SYNs leaves of established flows"
	printf '%s\nguard: {mode: observe}\n' "$(sed 1q "$lists.forward.yaml")" >"$lists.observe.yaml"
	printf '%s\nguard: {mode: automatic, action: drop, networks: [10.9.9.0/24], thresholds: {pps: 1M, flows: 5k, tcp-syn-pps: 5k}, outgoing: {}}\n' "$(sed 1q "$lists.forward.yaml")" >"$lists.automatic.yaml"
	flooded() { echo "meter:$weir -c $lists.$1.yaml --control {CTL} up --store {STORE} --listen udp://127.0.0.1:2055 --console ''"; }
	for many in "-e 50000 -x 0,5" "-e 100000 -x 0,5,inf"; do
		WEIR=$weir BENCH_SHOW='' bench/run_flood.sh -r "$ROUNDS" -w 3 $many "kernel=true" "weir=$(flooded forward)" "weir-guard=$(flooded observe)" "weir-automatic=$(flooded automatic)" \
			"weir-new-flows=$(flooded observe) @@ $weir --control {CTL} guard propose --new --to 10.9.9.9 --action drop --for 1h --approve --override"
	done
	echo; echo "== kernel: forwarders with a full BGP table"
	"$BENCH_BIN/genroutes" -n "$ROUTES" -o "$BENCH_TMP/routes" -dsts "$BENCH_TMP/routes.dsts"
	bench/run_forward.sh -r "$SHORT" -f 1024,65536,524288 -b "$BENCH_TMP/routes" "kernel=true" "xdp-fib=$(xdp fib)" "weir=$(forward forward)"

	echo; echo "== kernel: what is lost of a million packets a second while weir, which forwards them, is killed or stopped, and comes back"
	for signal in KILL TERM; do bench/run_kill.sh -s $signal "$(forward forward | sed s/^meter://)"; done

	echo; echo "== kernel: how long a packet takes there and back, alone, and beside a tenth of what the kernel forwards"
	for pps in 0 60000; do
		bench/run_forward.sh -r "$SHORT" -t 2 -l $pps "kernel=true" "${filters[@]}" "xdp-fib=$(xdp fib)" "weir=$(forward forward)"
	done
fi

echo; echo "== collector: receive and store"
peers=()
has nfcapd && peers+=("nfcapd-lz4=exec nfcapd -w {OUT} -p {PORT} -z=lz4 -B 67108864" )
has nfacctd && [ -n "${BENCH_NFACCTD:-}" ] && peers+=("nfacctd=exec nfacctd -l {PORT} -P memory -c src_host,dst_host,src_port,dst_port,proto")
for v in 5 9 10; do
	printf 'store:\n  compact: off\n' >"$BENCH_TMP/weir.yaml"
	stored="@@ $weir query --store {OUT} -A proto -o csv | awk -F, 'NR>1{f+=\$2;p+=\$3;b+=\$4}END{print f,p,b}'"
	bench/run_collect.sh -v $v -n "$RECORDS" -R "$RATE" -r "$ROUNDS" \
		"weir-ingest=exec $weir -c $BENCH_TMP/weir.yaml --control {OUT}/ctl collect --listen udp://127.0.0.1:{PORT} --store {OUT} $stored" \
		"weir-compacting=exec $weir --control {OUT}/ctl collect --listen udp://127.0.0.1:{PORT} --store {OUT} $stored" "${peers[@]}"
done

echo; echo "== queries"
data=$BENCH_TMP/query
if [ ! -d "$data/weir" ] && has nfcapd; then
	bench/fill.sh "$data" "$RECORDS" "$weir"
fi
if [ -d "$data/weir" ] && has nfdump; then
	bench/run_query.sh -r "$ROUNDS" -n "$RECORDS" -d "$data" \
		"weir-top-src=$weir query --store $data/weir -s srcip/bytes" "nfdump-top-src=nfdump -R $data/nf -s srcip/bytes -n 10" \
		"weir-top-port=$weir query --store $data/weir -s dstport/bytes" "nfdump-top-port=nfdump -R $data/nf -s dstport/bytes -n 10" \
		"weir-filter=$weir query --store $data/weir -A proto 'proto udp and dst port 53'" "nfdump-filter=nfdump -R $data/nf -A proto 'proto udp and dst port 53'"
fi
echo
echo "not run: ${left[*]:-every peer of the table was here}; ipfixprobe, vflow, goflow2, pmacct's nfacctd (BENCH_NFACCTD=1 runs it)"
