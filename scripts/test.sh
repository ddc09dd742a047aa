#!/usr/bin/env bash
# All the tests. Prints a line a package, the failures whole, and at the end
# every test that was skipped with its reason: nothing is passed over in silence.
set -u
cd "$(dirname "$0")/.."
export PATH=$PATH:/usr/sbin:/sbin
log=$(mktemp)
trap 'rm -rf "$log" "$log".*' EXIT
status=0

if command -v npm >/dev/null && [ ! -d ui/node_modules ]; then
	echo "== console packages"
	# Without them the console's tests say that they did not rebuild its bundle.
	npm ci --prefix ui --no-audit --no-fund --loglevel=error || echo "not fetched: the committed bundle is not compared with its sources"
fi

# Beside the tests, most of which wait for something; what it says comes behind them.
scripts/lint.sh >"$log.form" 2>&1 &
form=$!

echo "== build"
# Once for all tests that start programs: linking takes a while.
mkdir "$log.bin"
chmod 755 "$log.bin" # tests run it as nobody
if go build -o "$log.bin/weir" ./cmd/weir && CGO_ENABLED=0 go build -o "$log.bin/weir-static" ./cmd/weir; then
	export WEIR_BINARY="$log.bin/weir" WEIR_OTHER="$log.bin/weir-static"
else
	status=1
fi

# A kernel that locks up when programs are loaded takes every process with it
# that tries: it is asked once, and left alone if so.
echo "== kernel"
said=$(go test -count=1 -v ./test/kernel 2>&1)
case $said in
*"any more"*)
	export WEIR_KERNEL_OFF="this kernel does not load programs any more" WEIR_WITHOUT=bpf
	echo "$WEIR_KERNEL_OFF: what needs them is not tried (reboot the machine)" ;;
*) echo "$(uname -sr): programs $(case $said in *SKIP*) echo "cannot be tried here" ;; *) echo "can be loaded" ;; esac)" ;;
esac

echo "== tests"
# The longest first, lest one of two cores has nothing to do at the end. What vet says,
# scripts/lint.sh says. The timeout is for what hangs, on however slow a machine.
go test -v -vet=off -timeout 40m ./test/system ./datapath ./export ./... >"$log" 2>&1 || status=1
grep -E '^(ok|FAIL|---|panic|\?)' "$log" | grep -E '^(ok|FAIL|--- FAIL|panic)'
if [ $status != 0 ]; then
	echo "== what failed"
	# Of each test the end of what it said, of a panic the beginning.
	awk '/^=== /{test=$3; next}
		/^ *--- FAIL/{print; for(i=n[$3]>60?n[$3]-60:0;i<n[$3];i++) print said[$3,i]; next}
		/^(ok|FAIL)\t/{split("",n); left=0}
		/^panic: /{left=30} left>0{print; left--; next}
		/^# |DATA RACE|\.go:[0-9]+:[0-9]+:/{print; next}
		{said[test,n[test]++]=$0}' "$log" | head -n 400
fi

echo "== form"
wait "$form" || status=1
cat "$log.form"

echo "== race detector"
# DuckDB's Go binding trips the pointer checks that -race brings along: they are off. A
# process that ends need not wait a second for others' races: tests start many.
race() { GORACE=atexit_sleep_ms=50 go test -race -short -vet=off -gcflags=all=-d=checkptr=0 -timeout 30m "$@"; }
# Of the guard only the tests that have goroutines: the others have one each, and would
# take longer than all else.
raced=0
race ./datapath ./export ./store ./meter ./cache ./console ./collect ./flow >"$log.race" 2>&1 || raced=1
race -run 'WhileItCounts|Script|Webhook|Notifier' ./guard >>"$log.race" 2>&1 || raced=1
[ $raced = 0 ] || { status=1; cat "$log.race"; }
grep -E '^(ok|FAIL)' "$log.race"

skipped=$(grep -cE '^ *--- SKIP' "$log")
echo "== not tried here: $skipped"
# The reason is the last that the test said.
awk '/^=== /{test=$3; next} /^(ok|FAIL)\t/{split("",said)}
	/^ *--- /{if($2=="SKIP:") print "  " $3 ": " said[$3]; next}
	{sub(/^ */,""); said[test]=$0}' "$log"
passed=$(grep -cE '^ *--- PASS' "$log")
failed=$(grep -cE '^ *--- FAIL' "$log")
echo "$passed passed, $failed failed, $skipped skipped"
exit $status
