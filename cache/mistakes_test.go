package cache

import (
	"testing"
	"time"

	"weir/flow"
	"weir/packet"
)

// What other meters get wrong, by their sources. What exporters get wrong is
// tried in package export, under the same name. That hash tables cannot be
// attacked and that keys are compared in full (ipfixprobe, fprobe):
// TestHashSeesEverything, TestModel; that timers do not wait for packets
// (ipfixprobe): TestLateness.
func TestMistakesOfOthers(t *testing.T) {
	const start = 1_700_000_000 * second
	meter := func(t *testing.T, cfg Config) (*Cache, *[]flow.Record) {
		var out []flow.Record
		return open(t, cfg, flow.SinkFunc(func(b []flow.Record) error {
			out = flow.AppendCopies(out, b)
			return nil
		})), &out
	}
	t.Run("nfpcapd: octets and packets beyond 32 bits", func(t *testing.T) {
		c, out := meter(t, DefaultConfig())
		batch := make([]packet.Info, 1000)
		for i := range batch {
			batch[i] = packet.Info{Key: numbered(1), Length: 1 << 30, Time: start}
		}
		for range 10 {
			c.Add(batch)
		}
		c.Restart(flow.EndForced, start)
		c.Flush()
		if r := *out; len(r) != 1 || r[0].Bytes != 10_000<<30 || r[0].Packets != 10_000 {
			t.Errorf("%+v", r)
		}
	})
	t.Run("ipt_NETFLOW: the active timeout does not wait for the flow, and FIN shortens its life", func(t *testing.T) {
		cfg := DefaultConfig()
		cfg.Active = 31 * time.Second
		c, out := meter(t, cfg)
		now := int64(start)
		for i := range 100 {
			in := packet.Info{Key: numbered(1), Length: 40, Time: now, TCPFlags: flow.ACK}
			in.Key.Proto = flow.ProtoTCP
			if i == 99 {
				in.TCPFlags |= flow.FIN
			}
			c.Tick(now)
			c.Add([]packet.Info{in})
			now += second
		}
		c.Tick(now + 3*second)
		reasons := map[flow.EndReason]int{}
		for _, r := range *out {
			if span := time.Duration(r.Last - r.First); span > cfg.Active+time.Second {
				t.Errorf("a record spans %v", span)
			}
			reasons[r.EndReason]++
		}
		if len(*out) != 4 || reasons[flow.EndActive] != 3 || reasons[flow.EndDetected] != 1 {
			t.Errorf("records ended for %v", reasons)
		}
	})
	t.Run("netobserv: the interface and the ToS are of the key", func(t *testing.T) {
		c, out := meter(t, DefaultConfig())
		in := packet.Info{Key: numbered(1), Length: 40, Time: start}
		in.Key.Input = 1
		other, marked := in, in
		other.Key.Input, marked.Key.TOS = 2, 0xb8
		c.Add([]packet.Info{in, other, marked})
		c.Restart(flow.EndForced, start)
		c.Flush()
		if len(*out) != 3 {
			t.Errorf("%d flows; want 3", len(*out))
		}
	})
	t.Run("pmacct: Cisco's timers by default", func(t *testing.T) {
		if c := DefaultConfig(); c.Idle != 15*time.Second || c.Active != 30*time.Minute || c.TCPEnd != 2*time.Second {
			t.Errorf("idle %v, active %v, end %v", c.Idle, c.Active, c.TCPEnd)
		}
	})
}
