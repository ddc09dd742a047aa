#!/usr/bin/env bash
# fill.sh DIR RECORDS WEIR: the same export datagrams into a weir store and
# nfcapd files, for the queries to be timed on.
. "$(dirname "$0")/lib.sh"
data=$1 records=$2 weir=$3
mkdir -p "$data/nf" "$data/weir"
in_ns "$weir" collect --listen udp://127.0.0.1:9995 --store "$data/weir" --control "$data/ctl" 2>"$data/weir.log" & PIDS+=($!)
in_ns nfcapd -w "$data/nf" -p 9996 -z=lz4 -B 67108864 >"$data/nf.log" 2>&1 & PIDS+=($!)
sleep 2
at=$(($(date +%s) * 1000))
in_ns "$BENCH_BIN/genflow" -v 9 -n "$records" -rate 250000 -to 127.0.0.1:9995 -time $at
in_ns "$BENCH_BIN/genflow" -v 9 -n "$records" -rate 250000 -to 127.0.0.1:9996 -time $at
sleep 6
for p in "${PIDS[@]}"; do kill -TERM "$p"; done
wait
PIDS=()
