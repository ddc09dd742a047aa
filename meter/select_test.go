package meter_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weir/capture"
	"weir/flow"
	"weir/meter"
)

// bothWays sums the two directions of what it is given, and prints.
type bothWays struct {
	csv
	sum total
}

func (b *bothWays) WriteRecords(batch []flow.Record) error {
	for i := range batch {
		packets, octets := batch[i].Total()
		b.sum.records++
		b.sum.packets += packets
		b.sum.bytes += octets
	}
	return b.csv.WriteRecords(batch)
}

var selections = []struct {
	name string
	s    flow.Selection
}{
	{"hosts by DSCP", flow.Selection{Key: flow.BySrc | flow.ByDst | flow.ByProto | flow.ByDSCP, Collect: flow.ByTTL | flow.ByLength}},
	{"datalink", flow.Selection{Key: flow.FactsCisco | flow.BySrcMAC | flow.ByDstMAC | flow.ByInnerVLAN, Collect: flow.ByTCPOptions | flow.ByFragment}},
	{"labels, hop limit, length", flow.Selection{Key: flow.Facts5Tuple | flow.ByMPLS | flow.ByTTL | flow.ByLength | flow.ByFlowLabel}},
	{"biflows", flow.Selection{Key: flow.Facts5Tuple, Biflow: true}},
	{"biflows in tunnels", flow.Selection{Key: flow.Facts5Tuple, Biflow: true, Inner: true, Collect: flow.BySrcMAC | flow.ByDstMAC | flow.ByTTL}},
}

// With any key the output is the same, octet for octet, on one core and on four, and
// counts every packet.
func TestSelectionsAreDeterministic(t *testing.T) {
	n := 30000
	if testing.Short() {
		n = 10000
	}
	packets := traffic(3, n, 2000, 3*time.Millisecond)
	for _, c := range selections {
		var first []byte
		for _, workers := range []int{1, 2, 4} {
			for _, entries := range []int{1 << 10, 1 << 14} { // under pressure, and not
				cfg := config(entries, workers)
				cfg.Cache.Select = c.s
				var out bothWays
				s := run(t, cfg, &out, &replay{packets: packets}).Summary()
				balance(t, s, &out.sum)
				if entries == 1<<10 {
					continue
				}
				if first == nil {
					first = bytes.Clone(out.Bytes())
				} else if !bytes.Equal(first, out.Bytes()) {
					t.Errorf("%s: other records with %d workers", c.name, workers)
				}
			}
		}
	}
}

// The corpus' captures, each with every selection: all packets are in a record.
func TestSelectionsOverTheCorpus(t *testing.T) {
	for i, path := range corpus(t) {
		if i%5 != 0 && !strings.Contains(path, "gre") && !strings.Contains(path, "vxlan") && !strings.Contains(path, "mpls") {
			continue // enough for a test
		}
		if info, err := os.Stat(path); err != nil || info.Size() > 4<<20 {
			continue
		}
		for _, c := range selections {
			cfg := config(1<<12, 1)
			cfg.Cache.Select = c.s
			var out bothWays
			s, err := meterFile(t, path, cfg, &out)
			if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && s.Packets == 0 {
				continue // not a capture that can be read
			}
			balance(t, s, &out.sum)
			if t.Failed() {
				t.Fatalf("%s, %s", filepath.Base(path), c.name)
			}
		}
	}
}

func TestSampleFlows(t *testing.T) {
	packets := traffic(5, 20000, 1000, time.Millisecond)
	all := map[flow.Key]uint64{}
	keyOf := func(r *flow.Record) flow.Key {
		return flow.Key{Src: r.Src, Dst: r.Dst, SrcPort: r.SrcPort, DstPort: r.DstPort, Proto: r.Proto}
	}
	sum := func(to map[flow.Key]uint64) flow.Sink {
		return flow.SinkFunc(func(batch []flow.Record) error {
			for i := range batch {
				to[keyOf(&batch[i])] += batch[i].Packets
			}
			return nil
		})
	}
	run(t, config(1<<14, 1), sum(all), &replay{packets: packets})
	some := map[flow.Key]uint64{}
	var out total
	cfg := config(1<<14, 2)
	cfg.SampleFlows, cfg.Sample = 4, meter.Sampling{}
	s := run(t, cfg, flow.Tee(sum(some), &out, flow.SinkFunc(func(batch []flow.Record) error {
		for i := range batch {
			if batch[i].Sampling != 4 {
				t.Fatalf("sampling %d, want 4", batch[i].Sampling)
			}
		}
		return nil
	})), &replay{packets: packets}).Summary()
	balance(t, s, &out)
	if len(some) < len(all)/6 || len(some) > len(all)/3 {
		t.Errorf("%d of %d flows at 1:4", len(some), len(all))
	}
	for k, n := range some { // a flow that is taken is taken whole
		if all[k] != n {
			t.Errorf("%d packets of a flow of %d", n, all[k])
		}
	}
	if s.Ignored["flow-not-sampled"].Packets == 0 {
		t.Error("nothing was left out")
	}
}

// Live, wide flows are shown and drained as others are.
func TestLiveBiflow(t *testing.T) {
	cfg := config(1<<12, 0)
	cfg.Cache.Select = flow.Selection{Key: flow.Facts5Tuple, Biflow: true, Collect: flow.BySrcMAC}
	var out bothWays
	m, err := meter.New(cfg, &out)
	if err != nil {
		t.Fatal(err)
	}
	src := &replay{packets: traffic(9, 3000, 50, time.Millisecond)}
	now := time.Now().UnixNano()
	for i := range src.packets {
		src.packets[i].Time = now
		src.packets[i].Interface = 2
		src.packets[i].Egress = i%2 == 0
	}
	if err := m.RunLive(context.Background(), capture.Source(src)); err != nil {
		t.Fatal(err)
	}
	balance(t, m.Summary(), &out.sum)
}
