package system

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"weir/test/kernel"
)

// Many more flows than the table holds: every packet is in a record, of its
// flow, of an aggregate or of the catch-all; flows that have an entry keep it;
// and the ledger says that aggregates were needed.
func TestFlood(t *testing.T) {
	kernel.Programs(t)
	t.Parallel()
	for _, mode := range []string{"xdp", "tc"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			l := newLine(t, false)
			out := newSender(t, l.a, "va")
			control := filepath.Join(t.TempDir(), "sock")
			p := meterStart(t, l.b, mode, "vb", "-o", "csv", "--summary", "--cache", "1Ki", "--idle", "30s", "--tcp-end=false", "--control", control)
			var established [][]byte
			old := map[string]count{}
			for i := range 100 {
				f := tcp4("10.9.0.9", "10.8.0.8", uint16(20000+i), 443, 16, 500)
				established = append(established, f.octets)
				old[f.key] = count{}
			}
			var sent count
			both := func(frames [][]byte) {
				t.Helper()
				out.send(t, frames...)
				for _, f := range frames {
					sent.add(count{1, uint64(be.Uint16(f[16:]))})
				}
			}
			both(established)
			both(established) // not new any more
			rounds := 40
			for round := range rounds {
				var some [][]byte
				for i := range 1000 {
					n := round*1000 + i
					some = append(some, udp4(fmt.Sprintf("172.16.%d.%d", n>>8&255, n&255), fmt.Sprintf("10.%d.0.1", n%200), uint16(n), 53, 10).octets)
				}
				both(some)
				both(established)
				if round%10 == 9 {
					time.Sleep(200 * time.Millisecond)
				}
			}
			settle()
			var ledger loss
			until(t, 5*time.Second, "the ledger tells of aggregates", func() bool {
				ledger = lossOf(losses(t, l.b, control), "cache", "aggregated")
				return ledger.Packets > 0
			})
			p.stop(t)
			all := parseCSV(t, p.stdout.String())
			if got := all.sum(t); got != sent {
				t.Errorf("records of %+v, sent %+v", got, sent)
			}
			s := parseSummary(t, p.stderr.String())
			if s.Metered != sent || s.count != sent {
				t.Errorf("metered %+v of %+v, sent %+v", s.Metered, s.count, sent)
			}
			records := map[string]int{}
			var aggregated, caught count
			for _, m := range all {
				c := count{number(t, m["packets"]), number(t, m["bytes"])}
				k := keyOf(m)
				if _, is := old[k]; is {
					o := old[k]
					o.add(c)
					old[k] = o
					records[k]++
				}
				switch {
				case m["src"] == "" && m["dst"] == "":
					caught.add(c)
				case m["src"] == "":
					aggregated.add(c)
				}
			}
			each := uint64(rounds + 2)
			for k, c := range old {
				if c != (count{each, each * 540}) || records[k] != 1 {
					t.Errorf("established flow %s: %+v in %d records, want %d packets in one", k, c, records[k], each)
				}
			}
			if aggregated.Packets == 0 || aggregated.Packets+caught.Packets < ledger.Packets {
				t.Errorf("in aggregates %+v, in the catch-all %+v; the ledger says %d", aggregated, caught, ledger.Packets)
			}
			t.Logf("%d packets: %d in aggregates, %d in the catch-all", sent.Packets, aggregated.Packets, caught.Packets)
			detach(t, l.b)
		})
	}
}
