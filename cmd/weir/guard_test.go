package main

import (
	"bytes"
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weir/cache"
	"weir/config"
	"weir/flow"
	"weir/guard"
	"weir/meter"
)

// cached is a metering process whose flows a test says.
type cached struct{ flows []flow.Record }

func (c *cached) Snapshot() meter.Snapshot { return meter.Snapshot{} }
func (c *cached) Losses() []flow.Loss      { return nil }

func (c *cached) Entries(context.Context) ([]flow.Record, error) { return c.flows, nil }

func (c *cached) Walk(_ context.Context, yield func([]flow.Record) error) error {
	return yield(c.flows)
}

// guardNode is a node with a guard and an enforcer that is none of the kernel's, told of
// a flood towards 192.0.2.10.
func guardNode(t *testing.T, mode string) (a *app, out *bytes.Buffer, n *node, fake *guard.Fake) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "weir.yaml")
	text := "control: " + filepath.Join(dir, "weir.sock") + "\nguard:\n  mode: " + mode + "\n  action: drop\n  allow-own: off\n  networks: [192.0.2.0/24]\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	conf, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	fake = &guard.Fake{}
	n = meterNode(conf, slog.New(slog.DiscardHandler))
	r, err := newGuardRoom(conf, fake, n.log)
	if err != nil {
		t.Fatal(err)
	}
	n.guarding.now.Store(r)
	// What was counted before the start is no attack of this second.
	r.shown([]flow.Record{{Src: flow.AddrFrom4([4]byte{11}), Dst: flow.AddrFrom4([4]byte{192, 0, 2, 99}), Packets: 1e9, First: 1, Last: 2, Has: flow.HasPackets}})
	r.primed = true
	t.Cleanup(n.answering(t.Context(), &cached{}, nil))
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) { // until the socket is there
		if _, err := os.Stat(conf.Control); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("no control socket")
		}
	}
	out = &bytes.Buffer{}
	return &app{ctx: t.Context(), configPath: file, stdout: out, stderr: out}, out, n, fake
}

// flood lets a second of a flood pass, of flows that are shown and flows that left.
func flood(n *node) {
	r := n.guarding.now.Load()
	var list []flow.Record
	for i := range 8000 {
		list = append(list, flow.Record{
			Src: flow.AddrFrom4([4]byte{11, 0, byte(i >> 8), byte(i)}), Dst: flow.AddrFrom4([4]byte{192, 0, 2, 10}), Proto: 6, TCPFlags: flow.SYN, DstPort: 80,
			Packets: 1, Bytes: 40, First: 1e18, Last: 1e18, FlowID: uint64(i) << flow.IDRecordBits, Has: flow.HasPackets | flow.HasFlowID,
		})
	}
	now := time.Now().UnixNano()
	r.engine.Tick(now - 1e9)
	r.shown(list[:4000])
	n.guarding.WriteRecords(list[2000:]) // the first of them were shown already
	r.differ.Walked()
	r.engine.Tick(now)
}

func TestGuardVerbs(t *testing.T) {
	a, out, n, fake := guardNode(t, "approve")
	flood(n)
	if s := n.guarding.now.Load().engine.Status(time.Now().UnixNano()); len(s.Attacks) != 1 || s.Attacks[0].PeakPPS != 8000 {
		t.Fatalf("8000 packets a second: %+v", s.Attacks)
	}
	verb := func(want string, run interface{ Run(*app) error }) {
		t.Helper()
		out.Reset()
		if err := run.Run(a); err != nil {
			t.Fatalf("%T: %v", run, err)
		}
		if !strings.Contains(out.String(), want) {
			t.Errorf("%T: %q is not in\n%s", run, want, out)
		}
	}
	verb("proposed", &guardListCmd{Output: "table"})
	verb(`"what":"drop: tcp syn to 192.0.2.10"`, &guardListCmd{Output: "json"})
	verb("syn-flood", &showCmd{What: "guard", Output: "table"})
	verb(`"kind":"syn-flood"`, &showCmd{What: "guard", Output: "ndjson"})
	id := n.guarding.now.Load().engine.Status(0).Actions[0].ID
	verb("undo: weir guard lift", &guardApproveCmd{ID: []uint64{id}})
	if rules, _ := fake.Rules(); len(rules) != 1 || !rules[0].Match.SYN || rules[0].Do != guard.Drop {
		t.Errorf("in force: %+v", rules)
	}
	verb("active", &guardExtendCmd{ID: id, For: config.Duration(time.Hour)})
	verb("lifted", &guardLiftCmd{ID: []uint64{id}})
	if err := (&guardLiftCmd{ID: []uint64{id}}).Run(a); err == nil || !strings.Contains(err.Error(), "no such action") {
		t.Errorf("lifted twice: %v", err)
	}
	to, err := config.ParsePrefix("192.0.2.1")
	if err != nil {
		t.Fatal(err)
	}
	verb("active", &guardProposeCmd{To: &to, Proto: "udp", Sport: []uint16{53}, Action: "drop", Announce: "none", For: config.Duration(time.Minute), Approve: true})
	if rules, _ := fake.Rules(); len(rules) != 1 || rules[0].Match.String() != "udp sport 53 to 192.0.2.1" {
		t.Errorf("in force: %+v", rules)
	}
	verb("pps", &guardBaselineCmd{Output: "csv"})
	verb("the running weir: off", guardOffCmd{})
	if rules, _ := fake.Rules(); len(rules) != 0 || n.guarding.now.Load().engine.On() {
		t.Errorf("off: %+v", rules)
	}
	if _, err := os.Stat(offMark(n.config())); err != nil {
		t.Error(err)
	}
	verb("the running weir: on", guardOnCmd{})
	if !n.guarding.now.Load().engine.On() {
		t.Error("on")
	}
	if x := n.guardAnswer(); len(x.Attacks) != 1 || x.Attacks[0].Evidence == nil || len(x.Actions) != 2 || x.MayAct {
		t.Errorf("console: %+v", x)
	}
	if err := n.guardDo("approve", 1, "x"); err == nil || !strings.Contains(err.Error(), "guard.console is off") {
		t.Errorf("console: %v", err)
	}
}

func TestGuardOffWithoutAWeir(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "weir.yaml")
	if err := os.WriteFile(file, []byte("control: "+filepath.Join(dir, "run", "weir.sock")+"\nguard: {mode: automatic}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	a := &app{ctx: t.Context(), configPath: file, stdout: &out, stderr: &out}
	pinned := &guard.Fake{}
	old := openSwitch
	openSwitch = func() (guard.Switch, error) { return pinned, nil }
	defer func() { openSwitch = old }()
	if err := (guardOffCmd{}).Run(a); err != nil || !strings.Contains(out.String(), "the kernel's programs: off") || !strings.Contains(out.String(), "no weir is running") {
		t.Fatalf("%v\n%s", err, out.String())
	}
	if on, _ := pinned.On(); on {
		t.Error("the pinned switch is on")
	}
	conf, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	r, err := newGuardRoom(conf, guard.None{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if r.switched(time.Now()); r.engine.On() {
		t.Error("the next weir starts with its guard on")
	}
	if err := (guardOnCmd{}).Run(a); err != nil {
		t.Fatal(err)
	}
	if on, _ := pinned.On(); !on {
		t.Error("the pinned switch is off")
	}
	// Where the mark cannot be made, nobody says that the next weir heeds it.
	if err := os.MkdirAll(filepath.Join(offMark(conf), "in the way"), 0o755); err != nil {
		t.Fatal(err)
	}
	out.Reset()
	if err := (guardOffCmd{}).Run(a); err == nil || strings.Contains(out.String(), "the next one") {
		t.Errorf("%v\n%s", err, out.String())
	}
}

// A rule for one flow compares the whole key: what a record says must give it.
func TestGuardKnowsTheWholeKey(t *testing.T) {
	ip := func(s string) flow.Addr { return flow.AddrFrom(netip.MustParseAddr(s)) }
	for name, k := range map[string]flow.Key{
		"IPv4":             {Src: ip("192.0.2.1"), Dst: ip("192.0.2.2"), SrcPort: 1, DstPort: 2, Input: 3, Proto: 17, TOS: 4},
		"IPv6":             {Src: ip("2001:db8::1"), Dst: ip("2001:db8::2"), SrcPort: 1, DstPort: 2, Input: 3, Proto: 6, VLAN: flow.KeyIPv6},
		"a VLAN":           {Src: ip("192.0.2.1"), Dst: ip("192.0.2.2"), Input: 3, Proto: 17, VLAN: flow.KeyTagged | 100},
		"a priority tag":   {Src: ip("192.0.2.1"), Dst: ip("192.0.2.2"), Input: 3, Proto: 17, VLAN: flow.KeyTagged},
		"a later fragment": {Src: ip("2001:db8::1"), Dst: ip("2001:db8::2"), Input: 3, Proto: 17, VLAN: flow.KeyIPv6 | flow.KeyFragment},
		"what is sent":     {Src: ip("192.0.2.1"), Dst: ip("192.0.2.2"), Input: flow.KeyEgress | 3, Proto: 17},
		"ICMP":             {Src: ip("192.0.2.1"), Dst: ip("192.0.2.2"), DstPort: 8 << 8, Input: 3, Proto: 1},
	} {
		var r flow.Record
		recorder := cache.NewRecorder(&cache.Config{})
		recorder.Fill(&cache.Gone{Entry: cache.Entry{Key: k, Packets: 1, Bytes: 40, First: 1, Last: 2}}, &r)
		if d := guard.DeltaOf(&r); d.Key != k {
			t.Errorf("%s: %+v, want %+v", name, d.Key, k)
		}
	}
}
