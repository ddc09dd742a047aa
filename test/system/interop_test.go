package system

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"weir/test/kernel"
)

// interopCaptures are those that go to peers: some of the corpus, or in the
// long form (WEIR_INTEROP) all that are small enough to look at one by one.
func interopCaptures(t testing.TB) []string {
	t.Helper()
	dir := corpus(t, "packets")
	if os.Getenv("WEIR_INTEROP") != "" {
		var some []string
		for _, f := range captures(t, dir) {
			if _, err := os.Stat(strings.TrimSuffix(f, filepath.Ext(f)) + ".flows.csv"); err == nil {
				some = append(some, f)
			}
		}
		return some
	}
	return []string{filepath.Join(dir, "ipfixprobe_mixed.pcap"), filepath.Join(dir, "libtrace_vlan.pcap")}
}

// metered runs a capture through the meter into an exporter and gives the
// records it made.
func metered(t testing.TB, ns, capture, url string) rows {
	t.Helper()
	r := must(t, ns, weir, "meter", "-r", capture, "-o", "csv", "--export", url)
	return parseCSV(t, r.stdout)
}

// v4 is what NetFlow v5 can carry of records.
func v4(all rows) (some rows) {
	for _, m := range all {
		if !strings.Contains(m["src"], ":") {
			some = append(some, m)
		}
	}
	return some
}

// nfcapd has every record that weir exports, and sees no sequence error.
func TestInteropNfcapd(t *testing.T) {
	t.Parallel()
	need(t, "nfcapd", "nfdump")
	list := interopCaptures(t)
	for _, version := range []string{"5", "9", "10"} {
		t.Run("v"+version, func(t *testing.T) {
			t.Parallel()
			ns := namespace(t)
			dir := t.TempDir()
			p := start(t, ns, "nfcapd", "-p", "9995", "-b", "127.0.0.1", "-l", dir, "-t", "3600", "-B", "8000000", "-e")
			p.await(t, "Startup")
			time.Sleep(200 * time.Millisecond)
			var want count
			flows := uint64(0)
			for i, file := range list {
				all := metered(t, ns, file, fmt.Sprintf("udp://127.0.0.1:9995?version=%s&domain=%d&template=cisco", version, i+1))
				if version == "5" {
					all = v4(all)
				}
				flows += uint64(len(all))
				want.add(all.sum(t))
			}
			time.Sleep(500 * time.Millisecond)
			p.signal(t, 15)
			p.wait(t)
			log := p.stderr.String() + p.stdout.String()
			if m := regexp.MustCompile(`Sequence Errors: ([1-9]\d*)|Bad Packets: ([1-9]\d*)`).FindString(log); m != "" {
				t.Errorf("nfcapd: %s\n%s", m, tail(log, 3000))
			}
			if !strings.Contains(log, "Sequence Errors: 0") {
				t.Errorf("nfcapd does not tell of sequence errors: %s", tail(log, 2000))
			}
			n, got := nfdumped(t, dir)
			if n != flows || got != want {
				t.Errorf("nfdump has %d flows of %+v, weir exported %d of %+v", n, got, flows, want)
			}
			t.Logf("%d flows of %d captures: %+v", n, len(list), got)
		})
	}
}

// tshark reads every datagram to its end: nothing malformed, no template
// missing, no complaint; and as many flows as weir made.
func TestInteropTshark(t *testing.T) {
	t.Parallel()
	need(t, "tshark", "tcpdump")
	kernel.Programs(t) // tcpdump's filter is one
	list := interopCaptures(t)
	for _, version := range []string{"5", "9", "10"} {
		t.Run("v"+version, func(t *testing.T) {
			t.Parallel()
			ns := namespace(t)
			file := filepath.Join(t.TempDir(), "exports.pcap")
			p := start(t, ns, "tcpdump", "--immediate-mode", "-i", "lo", "-U", "-s", "0", "-B", "8192", "-w", file, "udp port 2055")
			p.await(t, "listening on")
			flows := 0
			for i, capture := range list {
				all := metered(t, ns, capture, fmt.Sprintf("udp://127.0.0.1:2055?version=%s&domain=%d", version, i+1))
				if version == "5" {
					all = v4(all)
				}
				flows += len(all)
			}
			time.Sleep(500 * time.Millisecond)
			p.signal(t, 2)
			p.wait(t)
			if !strings.Contains(p.stderr.String(), "0 packets dropped by kernel") {
				t.Fatalf("tcpdump missed some: %s", p.stderr.String())
			}
			r := must(t, "", "tshark", "-r", file, "-d", "udp.port==2055,cflow", "-V", "-Y", "udp.dstport == 2055")
			for line := range strings.Lines(r.stdout) {
				if strings.Contains(line, "Possible traceroute") {
					continue // a guess from the port that the kernel chose
				}
				low := strings.ToLower(line)
				if strings.Contains(low, "malformed") || strings.Contains(low, "expert info") || strings.Contains(low, "no template found") ||
					strings.Contains(low, "warn") || strings.Contains(low, "unexpected") {
					t.Errorf("tshark: %s", strings.TrimSpace(line))
				}
			}
			if version == "5" {
				if n := strings.Count(r.stdout, "pdu "); n != flows {
					t.Errorf("tshark has %d flows, weir exported %d", n, flows)
				}
			} else if n := len(regexp.MustCompile(`(?m)^    +(Octets|Packets): \d+`).FindAllString(r.stdout, -1)); n != 2*flows {
				t.Errorf("tshark has %d octet and packet counters, weir exported %d flows", n, flows)
			}
			t.Logf("%d flows of %d captures", flows, len(list))
		})
	}
}

// What softflowd exports of captures is in the store, to the packet: nfcapd,
// to which it sends the same, has as much.
func TestInteropSoftflowd(t *testing.T) {
	t.Parallel()
	need(t, "softflowd", "nfcapd", "nfdump")
	list := interopCaptures(t)
	for _, version := range []string{"5", "9", "10"} {
		t.Run("v"+version, func(t *testing.T) {
			t.Parallel()
			ns := namespace(t)
			c := startCollector(t, ns, t.TempDir())
			flows := t.TempDir()
			peer := start(t, ns, "nfcapd", "-p", "9996", "-b", "127.0.0.1", "-l", flows, "-t", "3600", "-B", "8000000", "-e")
			peer.await(t, "Startup")
			time.Sleep(200 * time.Millisecond)
			unread := 0
			for _, capture := range list {
				r := do(t, ns, "timeout", "20", "softflowd", "-r", capture, "-n", "127.0.0.1:9995,127.0.0.1:9996", "-v", version, "-d",
					"-p", filepath.Join(t.TempDir(), "pid"), "-c", "none")
				if r.status != 0 {
					unread++ // a link type it does not read
				}
				time.Sleep(20 * time.Millisecond) // it sends as fast as it can
			}
			time.Sleep(500 * time.Millisecond)
			all := losses(t, ns, c.control)
			c.stop(t)
			peer.signal(t, 15)
			peer.wait(t)
			wantFlows, want := nfdumped(t, flows)
			if wantFlows == 0 || unread > len(list)/4 {
				t.Fatalf("softflowd exported %d flows and read %d captures of %d", wantFlows, len(list)-unread, len(list))
			}
			n, got := stored(t, c.store)
			if n != wantFlows || got != want {
				t.Errorf("stored %d records of %+v, nfcapd has %d of %+v", n, got, wantFlows, want)
			}
			if len(list) < 10 {
				noLoss(t, all)
			} else {
				// Hundreds of processes, one after another, of one address and domain,
				// each counting from 0: nfcapd sees errors, too. One that sent little
				// before the next began looks like datagrams in disorder.
				noLoss(t, all, "collect/sequence-gaps")
				t.Logf("gaps told: %+v", lossOf(all, "collect", "sequence-gaps"))
			}
			t.Logf("%d records of %+v from %d captures, %d not read by softflowd", n, got, len(list)-unread, unread)
		})
	}
}

// nfdumped is what is in nfcapd's files.
func nfdumped(t testing.TB, dir string) (flows uint64, c count) {
	t.Helper()
	r := must(t, "", "nfdump", "-R", dir, "-q", "-N", "-o", "fmt:%pkt %byt")
	for line := range strings.Lines(r.stdout) {
		if f := strings.Fields(line); len(f) == 2 {
			flows++
			c.add(count{number(t, f[0]), number(t, f[1])})
		}
	}
	return flows, c
}

// The record that weir's JSON lines carry are what another program reads.
func TestInteropJSONLines(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "flows.jsonl")
	p := start(t, ns, weir, "collect", "--listen", "udp://127.0.0.1:9995", "--to", "jsonl:"+file, "--control", filepath.Join(dir, "sock"))
	p.await(t, "listening")
	g := generate(t, ns, "-v", "10", "-n", "3000", "-rate", "30000")
	time.Sleep(300 * time.Millisecond)
	p.stop(t)
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var got count
	n := uint64(0)
	for line := range strings.Lines(string(b)) {
		var r struct{ Packets, Bytes uint64 }
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		n++
		got.add(count{r.Packets, r.Bytes})
	}
	if n != g.Records || got != g.count() {
		t.Errorf("%d lines of %+v, sent %d of %+v", n, got, g.Records, g.count())
	}
}
