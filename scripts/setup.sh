#!/usr/bin/env bash
# Installs the Debian packages that a task needs and that are not there.
#
#   scripts/setup.sh build|test|ui|bpf|interop|bench
#
# As root, or with a sudo that asks nothing; else it says what to install.
set -eu

# command:package. A command that is there is left alone, wherever it came from.
build="gcc:gcc g++:g++"
ui="npm:npm node:nodejs"
bpf="clang-19:clang-19 llvm-strip-19:llvm-19"
test="$build $ui $bpf ethtool:ethtool ip:iproute2 tcpdump:tcpdump tshark:tshark nfcapd:nfdump softflowd:softflowd chromium:chromium zstd:zstd nft:nftables iptables-save:iptables"
interop="$test nfacctd:pmacct fprobe:fprobe ovs-vswitchd:openvswitch-switch bird:bird2 vtysh:frr"
bench="$test nfacctd:pmacct"

task=${1:?usage: setup.sh build|test|ui|bpf|interop|bench}
case $task in build | ui | bpf | test | interop | bench) ;; *) echo "setup.sh: no task $task" >&2; exit 2 ;; esac

PATH=$PATH:/usr/sbin:/sbin
missing=
for pair in ${!task}; do
	command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair#*:}"
done
[ -f /usr/include/stdlib.h ] || missing="$missing libc6-dev"
case " ${!task} " in *clang-19*) [ -f /usr/include/bpf/bpf_helpers.h ] || missing="$missing libbpf-dev" ;; esac
[ -n "$missing" ] || exit 0

as=
if [ "$(id -u)" != 0 ]; then
	if sudo -n true 2>/dev/null; then as="sudo -n"; else
		echo "setup: these Debian packages are missing:$missing" >&2
		echo "setup: install them with: sudo apt-get install$missing" >&2
		[ "$task" = build ] && exit 1
		exit 0 # the tests say by name what they could not try
	fi
fi
command -v apt-get >/dev/null || { echo "setup: no apt-get here; install by hand:$missing" >&2; exit 1; }
echo "setup: installing$missing" >&2
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# shellcheck disable=SC2086 # lists of words
if ! { $as apt-get -q -y update && $as env DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends $missing; } >"$log" 2>&1; then
	tail -n 20 "$log" >&2
	echo "setup: could not install$missing" >&2
	exit 1
fi
