package datapath

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"weir/bpf"
	"weir/flow"
)

// stopping is a twin whose lists stop packets.
type stopping struct {
	*twin
	lists   *bpf.Lists
	stopped map[flow.Key]bpf.Count
}

func newStopping(flows int) *stopping {
	w := newTwin(flows, 1, 1)
	w.now.Store(1000 * second)
	slots := len(w.mem.Sides)
	return &stopping{w, &bpf.Lists{Judged: make([]bpf.Judged, slots), Hits: make([]bpf.Hits, bpf.MaxRules)}, map[flow.Key]bpf.Count{}}
}

// send is a packet of flow n that rule 7 lets pass, or rule 9 stops.
func (w *stopping) send(n uint64, stop bool) {
	k := numbered(n)
	f := frame{key: k, length: lengthOf(&k), flags: flow.ACK, ttl: 64}
	w.cpus[0].packet(&f)
	slot := w.slot(&k)
	word := uint64(1)<<32 | 7<<16 | bpf.VerdictPermit
	if stop {
		word = 1<<32 | 9<<16 | bpf.VerdictDeny
		j := &w.lists.Judged[slot]
		atomic.AddUint64(&j.DroppedBytes, uint64(f.length))
		atomic.AddUint64(&j.DroppedPackets, 1)
		plus(w.stopped, k, f.length)
	}
	atomic.StoreUint64(&w.mem.Sets[slot/bpf.Ways].Entry[slot%bpf.Ways].Verdict, word)
}

func (w *stopping) slot(k *flow.Key) int {
	for i := range w.mem.Sets[:w.mem.Flows] {
		for way := range w.mem.Sets[i].Word {
			switch w.mem.Sets[i].Word[way] & bpf.StateMask {
			case bpf.New, bpf.Live:
				if w.mem.Sets[i].Entry[way].Key == *k {
					return i*bpf.Ways + way
				}
			}
		}
	}
	panic("the flow is not there")
}

// told adds up what records say was dropped, each once, as a collector does.
type told struct {
	*collector
	dropped map[flow.Key]bpf.Count
}

func newTold(t *testing.T) *told {
	c := &told{newCollector(), map[flow.Key]bpf.Count{}}
	c.each = func(r *flow.Record) {
		if text := string(r.AppendVerdict(nil)); text != string(r.Elements) || (r.Has&flow.HasDropped != 0) != (r.DroppedPackets > 0) {
			t.Errorf("elements %s, want %s", r.Elements, text)
		}
		if _, known := c.ids[r.FlowID]; known {
			return
		}
		k := keyOf(r)
		n := c.dropped[k]
		c.dropped[k] = bpf.Count{Packets: n.Packets + r.DroppedPackets, Bytes: n.Bytes + r.DroppedBytes}
	}
	return c
}

// A daemon killed at each store: each packet that was stopped is told of; those of
// flows that went on may be told of twice, each flow's once, as one kill was.
func TestDroppedKilledAtEachStore(t *testing.T) {
	twice := 0
	for n := 0; ; n++ {
		w, c := newStopping(4), newTold(t)
		cfg := storyConfig
		cfg.Lists = w.lists
		s := sweeper(t, cfg, w, c)
		if err := s.Adopt(); err != nil {
			t.Fatal(err)
		}
		left, killed := n, false
		for second := range uint64(30) {
			for f := range uint64(6) {
				if second < 12 || f > 2 && second < 22 { // these go on beyond their active timeout
					w.send(f, (f+second)%3 == 0)
				}
			}
			used := 0
			ended, err := until(left, s, func() error {
				inner := s.step
				s.step = func() { used++; inner() }
				return s.Tick(w.now.Add(uint64(time.Second)))
			})
			if err != nil {
				t.Fatal(err)
			}
			if left -= used; ended {
				killed, left = true, 1<<30
				w.send(3, true) // the programs go on
				s = sweeper(t, cfg, w, c)
				if err := s.Adopt(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := s.DrainAll(flow.EndForced); err != nil {
			t.Fatal(err)
		}
		for k, want := range w.stopped {
			got := c.dropped[k]
			if !killed && got != want || got.Packets < want.Packets || got.Packets > 2*want.Packets {
				t.Fatalf("killed at %d: %+v are told to be dropped, %+v were", n, got, want)
			}
			if got != want {
				twice++
			}
		}
		for i := range w.lists.Judged {
			if j := &w.lists.Judged[i]; j.DroppedPackets != 0 {
				t.Fatalf("killed at %d: %d are left", n, j.DroppedPackets)
			}
		}
		if !killed {
			if n < 200 || twice == 0 {
				t.Errorf("%d stores, %d flows told of twice", n, twice)
			}
			return
		}
	}
}

// What records tell of dropped packets costs no memory.
func TestDroppedAllocates(t *testing.T) {
	w := newStopping(64)
	s := sweeper(t, SweepConfig{Idle: time.Hour, Active: time.Second, Lists: w.lists}, w, discard{})
	for n := range uint64(400) {
		w.send(n, true)
	}
	if a := testing.AllocsPerRun(20, func() {
		for n := range uint64(400) {
			k := numbered(n)
			w.cpus[0].packet(&frame{key: k, length: 100, ttl: 64})
		}
		for i := range w.lists.Judged {
			atomic.AddUint64(&w.lists.Judged[i].DroppedPackets, 1)
		}
		if err := s.Tick(w.now.Add(2 * second)); err != nil {
			t.Fatal(err)
		}
	}); a != 0 {
		t.Errorf("a tick allocates %v times", a)
	}
	if st := s.Stats(); st.Expired[flow.EndActive] < 400*20 {
		t.Errorf("%+v", st)
	}
}

// Numbers tell their rules; when one is given to another rule, that is told too.
func TestRuleNames(t *testing.T) {
	f := &Filter{ids: map[string]uint16{}}
	if _, _, ok := f.Rule(1); ok || f.Changed() != 0 {
		t.Error("a rule before there are any")
	}
	name := func(list, rule string) string { return "ipv6 " + list + "\x00" + rule + "\x000\x00false" }
	f.ids[name("A", "deny tcp any any")], f.ids[name("B", "permit ipv6 any any")] = 1, 70
	f.nameRules()
	f.ids[name("B", "deny ipv6 any any")] = 71
	f.nameRules()
	if list, rule, ok := f.Rule(1); list != "A" || rule != "deny tcp any any" || !ok {
		t.Errorf("rule 1 is %q %q %v", list, rule, ok)
	}
	for _, none := range []uint16{0, 2, 72, 65535} {
		if list, rule, ok := f.Rule(none); ok {
			t.Errorf("rule %d is %q %q", none, list, rule)
		}
	}
	if f.Changed() != 0 {
		t.Error("a new rule has changed an old one")
	}
	delete(f.ids, name("A", "deny tcp any any"))
	f.ids[name("C", "deny udp any any")] = 1
	f.nameRules()
	if list, _, _ := f.Rule(1); list != "C" || f.Changed() != 1 {
		t.Errorf("rule 1 is of %q, %d changes", list, f.Changed())
	}
}

// kept keeps records.
type kept struct{ all []flow.Record }

func (k *kept) WriteRecords(batch []flow.Record) error {
	k.all = flow.AppendCopies(k.all, batch)
	return nil
}

// leaving is what the kernel knows of a buffer that has come in by the loopback
// interface (ingress_ifindex of struct __sk_buff).
var leaving = [48]uint32{9: loopback}

// Of a flow some of whose packets are dropped each record tells how many, its
// verdict and its rule: over active reports, at the end, where the packets come in
// and where they leave; and over all records the sum is what the programs dropped.
func TestKernelDropped(t *testing.T) {
	k, f := filteringWith(t, bpf.Options{Entries: 1 << 9, Lists: true, TestClock: true}, FilterOptions{})
	clockTo(k, 1000*second)
	if err := f.Apply(mustRead(t, `ip access-list extended IN
 permit tcp any any established
 deny tcp any any
 permit ip any any
ip access-list extended OUT
 deny udp any any eq 53
 permit ip any any
interface lo
 ip access-group IN in
 ip access-group OUT out
`), 0); err != nil {
		t.Fatal(err)
	}
	rule := func(text string) (id uint16) {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.ids["ipv4 "+text+"\x000\x00false"]
	}
	var (
		established, denied = rule("IN\x00permit tcp any any established"), rule("IN\x00deny tcp any any")
		others, dns         = rule("IN\x00permit ip any any"), rule("OUT\x00deny udp any any eq domain")
	)
	if established == 0 || denied == 0 || others == 0 || dns == 0 {
		t.Fatalf("rules %d %d %d %d of %v", established, denied, others, dns, f.ids)
	}
	if list, rule, ok := f.Rule(denied); list != "IN" || rule != "deny tcp any any" || !ok {
		t.Errorf("rule %d is told as %q %q", denied, list, rule)
	}
	sink := &kept{}
	s := sweeper(t, SweepConfig{Idle: 15 * time.Second, Active: 10 * time.Second, Lists: k.Lists}, k, sink)
	now := uint64(1000)
	tick := func(seconds uint64) {
		t.Helper()
		now += seconds
		clockTo(k, now*second)
		if err := s.Tick(now * second); err != nil {
			t.Fatal(err)
		}
	}
	frame := func(proto, flags byte, sport, dport uint16, size int) []byte {
		b := append(make([]byte, 12), 0x08, 0, 0x45, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(size))
		b = append(b, 0, 0, 0, 0, 64, proto, 0, 0, 10, 0, 0, 1, 203, 0, 113, 1)
		b = binary.BigEndian.AppendUint16(b, sport)
		b = binary.BigEndian.AppendUint16(b, dport)
		b = append(b, make([]byte, size-24)...)
		if proto == flow.ProtoTCP {
			b[14+20+12], b[14+20+13] = 0x50, flags
		}
		return b
	}
	var stopped bpf.Count // all of them
	run := func(p *ebpf.Program, drop uint32, o ebpf.RunOptions) {
		t.Helper()
		got, err := p.Run(&o)
		if err != nil {
			t.Fatal(err)
		}
		if got == drop {
			stopped.Packets++
			stopped.Bytes += uint64(binary.BigEndian.Uint16(o.Data[16:]))
		}
	}
	in := func(b []byte) { t.Helper(); run(k.Programs.XDP, 1, ebpf.RunOptions{Data: b}) }
	out := func(b []byte) {
		t.Helper()
		run(k.Programs.Egress, 2, ebpf.RunOptions{Data: b, Context: leaving})
	}
	expect := func(when string, want ...string) {
		t.Helper()
		var got []string
		for _, r := range sink.all {
			got = append(got, fmt.Sprintf("%d: %d/%d dropped %d/%d status %d rule %d, %v", r.SrcPort, r.Packets, r.Bytes, r.DroppedPackets, r.DroppedBytes, r.ForwardingStatus, r.Rule, r.EndReason))
			if text := string(r.AppendVerdict(nil)); text != string(r.Elements) {
				t.Errorf("%s: elements %s, want %s", when, r.Elements, text)
			}
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("%s:\n got %q\nwant %q", when, got, want)
		}
		sink.all = sink.all[:0]
	}

	// Flow 1 is judged packet by packet, flow 2 is refused, flow 3 let pass; flow 4
	// comes in, and where it leaves it is stopped.
	in(frame(6, flow.SYN, 1, 80, 40))
	in(frame(6, flow.SYN, 2, 80, 44))
	in(frame(17, 0, 3, 443, 60))
	in(frame(17, 0, 4, 53, 64))
	out(frame(17, 0, 4, 53, 64))
	tick(4)
	in(frame(6, flow.SYN, 1, 80, 40))
	in(frame(6, flow.ACK, 1, 80, 52))
	in(frame(6, flow.SYN, 2, 80, 44))
	in(frame(17, 0, 4, 53, 64))
	out(frame(17, 0, 4, 53, 64))
	tick(7)
	expect("first report",
		fmt.Sprintf("1: 3/132 dropped 2/80 status 64 rule %d, active", established),
		fmt.Sprintf("2: 2/88 dropped 2/88 status 129 rule %d, active", denied),
		fmt.Sprintf("3: 1/60 dropped 0/0 status 64 rule %d, active", others),
		fmt.Sprintf("4: 2/128 dropped 2/128 status 129 rule %d, active", dns))

	in(frame(6, flow.ACK, 1, 80, 100))
	in(frame(6, flow.SYN, 1, 80, 41))
	in(frame(17, 0, 3, 443, 60))
	in(frame(17, 0, 4, 53, 64))
	tick(12)
	expect("second report: what comes in has been told of before it is stopped",
		fmt.Sprintf("1: 2/141 dropped 1/41 status 129 rule %d, active", denied),
		fmt.Sprintf("3: 1/60 dropped 0/0 status 64 rule %d, active", others),
		fmt.Sprintf("4: 1/64 dropped 0/0 status 129 rule %d, active", dns))
	out(frame(17, 0, 4, 53, 64))
	in(frame(6, flow.ACK, 1, 80, 52))
	tick(20)
	expect("the end", // flow 2 and 3 had nothing new to say
		fmt.Sprintf("1: 1/52 dropped 0/0 status 64 rule %d, idle", established),
		fmt.Sprintf("4: 0/0 dropped 1/64 status 129 rule %d, idle", dns))

	// More flows than there is room for, of both kinds.
	r := rand.New(rand.NewPCG(3, 9))
	sum := func() (c bpf.Count) {
		for i := range sink.all {
			c.Packets += sink.all[i].DroppedPackets
			c.Bytes += sink.all[i].DroppedBytes
		}
		return c
	}
	stopped = bpf.Count{}
	m := k.Memory()
	aggregates := func(from, to uint32) {
		for i := range m.Sets[m.Flows : m.Flows+m.Aggregates] {
			for way := range m.Sets[m.Flows+i].Word {
				atomic.CompareAndSwapUint32(&m.Sets[m.Flows+i].Word[way], from, to)
			}
		}
	}
	for n := range 1500 {
		b := frame([]byte{6, 17}[r.IntN(2)], []byte{flow.SYN, flow.ACK}[r.IntN(2)], uint16(5+r.IntN(3000)), 80, 40+r.IntN(60))
		b[14+16], b[14+17], b[14+18] = 198, byte(18+r.IntN(2)), byte(r.Uint32())
		switch { // what finds no place finds an aggregate, a free place for one, or neither
		case n == 900:
			aggregates(bpf.Free, bpf.Claimed)
		case n == 1200:
			aggregates(bpf.Claimed, bpf.Free)
		case n%200 == 0 && (n < 900 || n > 1200):
			tick(1)
		}
		in(b)
	}
	if err := s.DrainAll(flow.EndForced); err != nil {
		t.Fatal(err)
	}
	if got := sum(); got != stopped || got.Packets < 300 {
		t.Errorf("records tell of %+v that were dropped, %+v were", got, stopped)
	}
	c, err := k.Counters()
	if err != nil {
		t.Fatal(err)
	}
	const first = 2 + 2 + 2 + 1 + 1
	if all := allPorts(c); all[bpf.Dropped].Packets != stopped.Packets+first || all[bpf.Refused].Packets == 0 || all[bpf.Caught].Packets == 0 {
		t.Errorf("%d packets are told to be dropped, %d were; %d found no place, %d of them are in no aggregate", all[bpf.Dropped].Packets, stopped.Packets+first, all[bpf.Refused].Packets, all[bpf.Caught].Packets)
	}
	for i := range k.Lists.Judged {
		if j := &k.Lists.Judged[i]; j.DroppedPackets|j.DroppedBytes != 0 {
			t.Errorf("slot %d has %d/%d left", i, j.DroppedPackets, j.DroppedBytes)
		}
	}
}
