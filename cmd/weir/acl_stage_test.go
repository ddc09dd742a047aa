package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"weir/acl"
	"weir/control"
	"weir/datapath"
	"weir/flow"
	"weir/packet"
)

// stageLists makes lists that generated flows meet: applied at interfaces 1 and 2 in
// and at 2 out. Without outside they ask for nothing but the key.
func stageLists(d *rand.Rand, outside bool) string {
	of := func(list ...string) string { return list[d.IntN(len(list))] }
	var b strings.Builder
	list := func(name string, six bool) {
		ip, icmp, addr := "ip", "icmp", func() string { return of("any", "any", "host 10.0.0.1", "10.0.0.0 0.0.0.3", "10.0.0.2 0.0.0.4") }
		if six {
			ip, icmp, addr = "ipv6", "icmp", func() string { return of("any", "any", "host 2001:db8::1", "2001:db8::/126") }
			fmt.Fprintf(&b, "ipv6 access-list %s\n", name)
		} else {
			fmt.Fprintf(&b, "ip access-list extended %s\n", name)
		}
		port := func() string { return of("", "", " eq 80", " gt 100", " range 22 80", " neq 53") }
		for range 3 + d.IntN(9) {
			action := of("permit", "deny")
			more := ""
			if outside {
				more = of("", "", "", " ttl lt 64", " length gt 200", " length range 40 100")
			}
			switch d.IntN(5) {
			case 0:
				fmt.Fprintf(&b, " %s %s %s %s%s%s\n", action, ip, addr(), addr(), of("", " fragments", " dscp ef"), more)
			case 1:
				fmt.Fprintf(&b, " %s %s %s %s%s\n", action, icmp, addr(), addr(), more)
			case 2:
				fmt.Fprintf(&b, " %s udp %s%s %s%s%s\n", action, addr(), port(), addr(), port(), more)
			default:
				if outside {
					more += of("", " established", " syn", " match-all +syn -ack")
				}
				fmt.Fprintf(&b, " %s tcp %s%s %s%s%s\n", action, addr(), port(), addr(), port(), more)
			}
		}
	}
	for _, name := range []string{"A", "B", "C"} {
		list(name, false)
		list(name+"6", true)
	}
	b.WriteString("interface one\n ip access-group A in\n ipv6 traffic-filter A6 in\ninterface two\n ip access-group B in\n ip access-group C out\n ipv6 traffic-filter C6 out\n")
	return b.String()
}

// stageFlow is a flow with the packets that made it.
type stageFlow struct {
	record  flow.Record
	packets []packet.Info
}

func stageFlows(d *rand.Rand, n int) (all []stageFlow) {
	now := time.Now().UnixNano()
	for i := range n {
		var f stageFlow
		r := &f.record
		six := d.IntN(4) == 0
		addr := func() flow.Addr {
			if six {
				return addrOf(fmt.Sprintf("2001:db8::%d", d.IntN(8)))
			}
			return addrOf(fmt.Sprintf("10.0.0.%d", d.IntN(8)))
		}
		r.Has = flow.HasFirst | flow.HasLast | flow.HasProto | flow.HasSrc | flow.HasDst | flow.HasSrcPort | flow.HasDstPort | flow.HasTOS | flow.HasTCPFlags | flow.HasPackets | flow.HasBytes | flow.HasFlowID
		r.FlowID = uint64(i) + 1
		r.First, r.Last = now, now+int64(i)
		r.Src, r.Dst, r.IPVersion = addr(), addr(), 4
		r.Proto, r.TOS = []uint8{6, 6, 6, 17, 1}[d.IntN(5)], []uint8{0, 0, 46 << 2}[d.IntN(3)]
		port := func() uint16 { return []uint16{22, 53, 80, 443}[d.IntN(4)] }
		key := flow.Key{}
		if six {
			r.IPVersion, key.VLAN = 6, flow.KeyIPv6
			if r.Proto == 1 {
				r.Proto = 58
			}
		}
		switch {
		case d.IntN(10) == 0:
			r.Fragment = true
			key.VLAN |= flow.KeyFragment
		case r.Proto == 1, r.Proto == 58:
			r.DstPort = []uint16{8 << 8, 135 << 8, 3<<8 | 1}[d.IntN(3)]
		default:
			r.SrcPort, r.DstPort = port(), port()
		}
		if d.IntN(8) > 0 {
			r.Input, r.Has = uint32(1+d.IntN(3)), r.Has|flow.HasInput
		}
		if d.IntN(3) > 0 {
			r.Output, r.Has = uint32(1+d.IntN(3)), r.Has|flow.HasOutput
		}
		key.Src, key.Dst, key.SrcPort, key.DstPort, key.Proto, key.TOS = r.Src, r.Dst, r.SrcPort, r.DstPort, r.Proto, r.TOS
		for range 1 + d.IntN(4)*d.IntN(2) {
			in := packet.Info{Key: key, TTL: []uint8{1, 63, 64, 255}[d.IntN(4)], Length: uint32(40 + d.IntN(300))}
			if r.Proto == 6 && !r.Fragment {
				in.TCPFlags = []uint8{flow.SYN, flow.ACK, flow.SYN | flow.ACK, flow.RST, flow.FIN | flow.ACK, flow.PSH}[d.IntN(6)]
			}
			f.packets = append(f.packets, in)
			r.Packets++
			r.Bytes += uint64(in.Length)
			r.TCPFlags |= uint16(in.TCPFlags)
		}
		all = append(all, f)
	}
	return all
}

var stageIndices = map[string]uint32{"one": 1, "two": 2, "three": 3}

// plainly is what a policy makes of a packet, read from top to bottom.
func plainly(p *acl.Policy, r *flow.Record, in *packet.Info) fate {
	f := acl.IPv4
	if in.Key.VLAN&flow.KeyIPv6 != 0 {
		f = acl.IPv6
	}
	for d, at := range []struct {
		has   flow.Field
		index uint32
	}{{flow.HasInput, r.Input}, {flow.HasOutput, r.Output}} {
		if r.Has&at.has == 0 {
			continue
		}
		for _, b := range p.Bindings {
			if stageIndices[b.Interface] == at.index && int(b.Direction) == d && b.Family == f && p.Evaluate(p.List(b.List, f), in, time.Now()).Action == acl.Deny {
				return dropped
			}
		}
	}
	return passes
}

func mustPolicy(t testing.TB, text string) *acl.Policy {
	t.Helper()
	p, err := acl.ReadCisco("test", []byte(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return p
}

// stagedOver stages one policy over another, nil being none.
func stagedOver(t testing.TB, p, now *acl.Policy) *staged {
	t.Helper()
	var f *datapath.InForce
	if now != nil {
		ports := map[string]uint16{"two": 7, "one": 9, "three": 200}
		bank, err := acl.Compile(now, acl.CompileOptions{Now: time.Now(), Ports: ports})
		if err != nil {
			t.Fatal(err)
		}
		f = &datapath.InForce{Policy: now, Bank: bank, Ports: ports, Since: time.Now().Add(-time.Minute)}
	}
	s, err := newStaged(change{Name: "test"}, p, juryOptions{indices: func() map[string]uint32 { return stageIndices }}, func() *datapath.InForce { return f })
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// What is said of a flow is so for each of its packets, read from top to bottom; and
// where lists ask for the key alone, something is said of every flow.
func TestStagedJudgesAsEvaluate(t *testing.T) {
	for seed := range uint64(150) {
		d := rand.New(rand.NewPCG(seed, 7))
		outside := seed%2 == 1
		p := mustPolicy(t, stageLists(d, outside))
		var now *acl.Policy
		if seed%3 > 0 {
			now = mustPolicy(t, stageLists(d, outside))
		}
		s := stagedOver(t, p, now)
		var want, got [allChanges]uint64
		told := 0
		for _, f := range stageFlows(d, 300) {
			var before, after [3]int
			for i := range f.packets {
				after[plainly(p, &f.record, &f.packets[i])]++
				if now != nil {
					before[plainly(now, &f.record, &f.packets[i])]++
				} else {
					before[passes]++
				}
			}
			all := len(f.packets)
			// The kernel's word is of the last packet.
			f.record.Has, f.record.ForwardingStatus = f.record.Has|flow.HasForwardingStatus, 64
			if now != nil && plainly(now, &f.record, &f.packets[all-1]) == dropped {
				f.record.ForwardingStatus = statusDropped
			}
			was := s.counts.changes
			s.take([]flow.Record{f.record})
			is := -1
			for i := range was {
				if s.counts.changes[i].flows != was[i].flows {
					is = i
				}
			}
			got[is] += uint64(all)
			unknown := f.record.Has&flow.HasOutput == 0 && f.record.ForwardingStatus == statusDropped
			switch {
			case is == changeDepends:
				if !outside && !unknown {
					t.Fatalf("seed %d: %+v depends, and lists ask for the key alone", seed, f.record)
				}
				continue
			case is == newlyDropped:
				want[is] += uint64(all)
				if before[passes] != all || after[dropped] != all {
					t.Fatalf("seed %d: %+v newly dropped; packets pass and are dropped: %v now, %v then", seed, f.record, before, after)
				}
			case is == newlyPassed:
				want[is] += uint64(all)
				if before[dropped] != all || after[passes] != all {
					t.Fatalf("seed %d: %+v newly passed; packets pass and are dropped: %v now, %v then", seed, f.record, before, after)
				}
			case before != after || before[passes]%all != 0:
				t.Fatalf("seed %d: %+v as now; packets pass and are dropped: %v now, %v then", seed, f.record, before, after)
			}
			told++
		}
		if got[newlyDropped] != want[newlyDropped] || got[newlyPassed] != want[newlyPassed] || told < 100 {
			t.Errorf("seed %d: told of %d flows; %v, want %v", seed, told, got, want)
		}
		conserved(t, s)
	}
}

// conserved: every record is in one line of the changes, and in one for each list
// that was asked, or in what was not judged.
func conserved(t *testing.T, s *staged) {
	t.Helper()
	c := &s.counts
	var changes sums
	for i := range c.changes {
		changes.flows += c.changes[i].flows
		changes.packets += c.changes[i].packets
		changes.bytes += c.changes[i].bytes
	}
	skipped := uint64(0)
	if x := c.skipped["aggregate"]; x != nil {
		skipped = x.packets
	}
	if changes.packets+skipped != c.all.packets {
		t.Errorf("changes of %d packets and %d of nobody; %d in all", changes.packets, skipped, c.all.packets)
	}
}

// A rule's counts are those of the flows that it decides.
func TestStagedRules(t *testing.T) {
	p := mustPolicy(t, `ip access-list extended A
 10 permit tcp any any eq 80
 20 permit tcp any any established
 30 deny udp any any eq 53
 40 permit udp any any
interface one
 ip access-group A in
`)
	s := stagedOver(t, p, nil)
	add := func(proto uint8, dport uint16, flags uint16, packets uint64, has flow.Field) {
		s.take([]flow.Record{{
			Src: addrOf("10.0.0.1"), Dst: addrOf("10.0.0.2"), IPVersion: 4, Proto: proto, SrcPort: 999, DstPort: dport, TCPFlags: flags,
			Packets: packets, Bytes: 100 * packets, Input: 1, First: 1, Last: 2, Has: flow.HasSrc | flow.HasDst | flow.HasInput | has,
		}})
	}
	add(6, 80, flow.SYN, 3, 0)                    // by the key alone
	add(6, 22, flow.SYN, 1, 0)                    // one packet, which is not established
	add(6, 22, flow.SYN, 5, 0)                    // nor is any of five
	add(6, 22, flow.SYN|flow.ACK, 7, 0)           // any of the seven may be
	add(6, 22, flow.SYN|flow.ACK, 1, 0)           // this one is
	add(17, 53, 0, 11, 0)                         // dropped
	add(17, 54, 0, 13, 0)                         // not
	add(47, 0, 0, 17, 0)                          // by what is implicit
	s.count(&flow.Record{Packets: 19}, &s.counts) // an aggregate
	var got []string
	for _, r := range s.report(10).Rows {
		if r.Section == "flow" || r.Flows == 0 && r.Section != "change" {
			continue
		}
		got = append(got, strings.TrimSpace(fmt.Sprint(r.Section, " ", r.Change, r.List, " ", ruleName(&r), " ", r.Verdict, " ", r.Depends, " ", r.Packets)))
	}
	want := []string{
		"change newly-dropped    34", "change newly-passed    0", "change depends    7", "change none    17",
		"rule A 10 permit  3", "rule A 20 permit  1", "rule A 20 depends TCP flags 7", "rule A 30 deny  11", "rule A 40 permit  13", "rule A implicit deny  23",
		"not-judged    aggregate 19",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// What was handed on and is still shown among the flows counts once; what is alive
// counts when it is asked about, and not before.
func TestStagedReads(t *testing.T) {
	s := stagedOver(t, mustPolicy(t, "ip access-list extended A\n permit udp any any\ninterface one\n ip access-group A in\n"), nil)
	flows := stageFlows(rand.New(rand.NewPCG(1, 1)), 40)
	var all []flow.Record
	for i := range flows {
		all = append(all, flows[i].record)
	}
	s.take(all[:25])
	walk := func(yield func([]flow.Record) error) error { return yield(all[20:]) }
	for range 2 {
		seen, err := s.read(walk)
		if err != nil || seen.counts.all.flows != 40 || s.counts.all.flows != 25 {
			t.Fatalf("%d flows in all, of which %d have left (%v); want 40, 25", seen.counts.all.flows, s.counts.all.flows, err)
		}
	}
	s.take(all[25:])
	if seen, _ := s.read(func(func([]flow.Record) error) error { return nil }); seen.counts.all != s.counts.all || seen.counts.all.flows != 40 {
		t.Errorf("%+v, want %+v", seen.counts.all, s.counts.all)
	}
}

// Changes are counted against what is in force now; rules go on.
func TestStagedForgetsChanges(t *testing.T) {
	const text = "ip access-list extended A\n deny udp any any\ninterface one\n ip access-group A in\n"
	s := stagedOver(t, mustPolicy(t, text), nil)
	var f *datapath.InForce
	s.force = func() *datapath.InForce { return f }
	r := flow.Record{Src: addrOf("10.0.0.1"), Dst: addrOf("10.0.0.2"), IPVersion: 4, Proto: 17, Packets: 2, Input: 1, Has: flow.HasSrc | flow.HasInput}
	s.take([]flow.Record{r, r})
	if s.counts.changes[newlyDropped].packets != 4 {
		t.Fatalf("%+v", s.counts.changes)
	}
	p := mustPolicy(t, text)
	ports := map[string]uint16{"one": 3}
	bank, err := acl.Compile(p, acl.CompileOptions{Ports: ports})
	if err != nil {
		t.Fatal(err)
	}
	f = &datapath.InForce{Policy: p, Bank: bank, Ports: ports}
	s.take([]flow.Record{r})
	if c := s.counts.changes; c[newlyDropped].packets != 0 || c[changeNone].packets != 2 || s.counts.rules[0][0].alone.packets != 6 {
		t.Errorf("changes %+v, the rule %+v", c, s.counts.rules[0][0])
	}
	f = &datapath.InForce{Policy: p, Bank: bank, Ports: ports} // a time range
	s.take([]flow.Record{r})
	if c := s.counts.changes; c[changeNone].packets != 4 {
		t.Errorf("changes %+v after the same lists were compiled again", c)
	}
}

// A list at a place that only counts drops nothing, and the next list is asked; at one
// that is closed what no list judges is dropped.
func TestStagedPlaces(t *testing.T) {
	p := mustPolicy(t, "ip access-list extended A\n deny udp any any\ninterface one\n ip access-group A in\ninterface two\n ip access-group A out\n")
	s, err := newStaged(change{}, p, juryOptions{
		countOnly: func(b *acl.Binding) bool { return b.Interface == "one" }, closed: []string{"two", "three"},
		indices: func() map[string]uint32 { return stageIndices },
	}, func() *datapath.InForce { return nil })
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		in, out uint32
		proto   uint8
		six     bool
		fate    fate
		steps   int
	}{
		{1, 0, 17, false, passes, 1},
		{1, 2, 17, false, dropped, 2},
		{2, 0, 17, false, dropped, 0}, // closed, and no list in
		{3, 0, 17, false, dropped, 0},
		{1, 2, 17, true, dropped, 0},
		{1, 4, 17, true, passes, 0},
		{4, 2, 17, false, dropped, 1},
	} {
		r := flow.Record{Src: addrOf("10.0.0.1"), Dst: addrOf("10.0.0.2"), IPVersion: 4, Proto: c.proto, Packets: 1, Input: c.in, Output: c.out, Has: flow.HasSrc | flow.HasInput}
		if c.out > 0 {
			r.Has |= flow.HasOutput
		}
		if c.six {
			r.IPVersion, r.Src, r.Dst = 6, addrOf("2001:db8::1"), addrOf("2001:db8::2")
		}
		k := knownOf(&r)
		if v := s.lists.judge(&r, &k); v.fate != c.fate || v.n != c.steps {
			t.Errorf("%+v: fate %d after %d lists, want %d, %d", c, v.fate, v.n, c.fate, c.steps)
		}
	}
}

// A flow that is not wholly within the present state of the time ranges depends.
func TestStagedTimes(t *testing.T) {
	p := mustPolicy(t, "time-range T\n periodic daily 0:00 to 24:00\nip access-list extended A\n permit udp any any time-range T\ninterface one\n ip access-group A in\n")
	s := stagedOver(t, p, nil)
	r := flow.Record{Src: addrOf("10.0.0.1"), Dst: addrOf("10.0.0.2"), IPVersion: 4, Proto: 17, Packets: 1, Input: 1, Has: flow.HasSrc | flow.HasInput}
	r.First, r.Last = time.Now().Add(time.Second).UnixNano(), time.Now().Add(2*time.Second).UnixNano()
	s.take([]flow.Record{r})
	r.First = time.Now().Add(-time.Hour).UnixNano()
	s.take([]flow.Record{r})
	if c := s.counts.changes; c[changeNone].flows != 1 || c[changeDepends].flows != 1 {
		t.Errorf("%+v", c)
	}
	s.lists.until = time.Now().Add(-time.Second)
	was := s.lists
	if err := s.tick(time.Now()); err != nil || s.lists == was {
		t.Errorf("not compiled again (%v)", err)
	}
}

// The flows that changed are bounded; the largest are right all the same.
func TestStagedTopIsBounded(t *testing.T) {
	s := stagedOver(t, mustPolicy(t, "ip access-list extended A\n deny udp any any\ninterface one\n ip access-group A in\n"), nil)
	for i := range 3 * mostTopped {
		r := flow.Record{Src: addrOf("10.0.0.1"), Dst: addrOf("10.0.0.2"), SrcPort: uint16(i), IPVersion: 4, Proto: 17, Packets: 1, Input: 1, Has: flow.HasSrc | flow.HasInput}
		if i < 3 {
			r.Packets = uint64(1000 - i)
		}
		s.take([]flow.Record{r})
	}
	top := &s.counts.top[newlyDropped]
	if len(top.by) > mostTopped || !top.partial {
		t.Errorf("%d flows are kept count of, partial %v", len(top.by), top.partial)
	}
	for i, k := range top.most(3) {
		if int(k.srcPort) != i || top.by[k].packets != uint64(1000-i) {
			t.Errorf("the largest: %+v %+v", k, top.by[k])
		}
	}
}

const stagedFile = "ip access-list extended WAN\n 10 permit tcp any any eq 443\n 20 deny udp any any\n 30 permit ip any any\ninterface lo\n ip access-group WAN in\n"

func aclRun(t testing.TB, control string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	t.Setenv("HOME", t.TempDir())
	var out, errs strings.Builder
	status = run(t.Context(), append([]string{"--control", control, "acl"}, args...), strings.NewReader(""), &out, &errs)
	return status, out.String(), errs.String()
}

func TestStageVerb(t *testing.T) {
	list := someFlows(300)
	var udp uint64
	for i := range list {
		list[i].Input, list[i].Has = 1, list[i].Has|flow.HasInput
		if list[i].Proto == 17 && list[i].IPVersion != 6 {
			udp += list[i].Packets
		}
	}
	socket, n := running(t, &fakeMeter{flows: list})
	file := filepath.Join(t.TempDir(), "wan.acl")
	if err := os.WriteFile(file, []byte(stagedFile), 0o600); err != nil {
		t.Fatal(err)
	}
	if status, _, errs := aclRun(t, socket, "stage"); status != 1 || !strings.Contains(errs, "nothing is staged") {
		t.Errorf("nothing staged: %d %s", status, errs)
	}
	if status, _, errs := aclRun(t, socket, "stage", file); status != 0 || !strings.Contains(errs, "1 list of 3 rules") {
		t.Fatalf("stage: %d %s", status, errs)
	}
	if err := n.staging.WriteRecords(list[:100]); err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"table", "csv", "json", "ndjson"} {
		status, out, errs := aclRun(t, socket, "stage", "-o", format)
		if status != 0 || !strings.Contains(out, "deny udp any any") {
			t.Errorf("%s: %d %s %s", format, status, out, errs)
		}
	}
	_, out, _ := aclRun(t, socket, "stage", "-o", "json", "-n", "3")
	var rows []map[string]any
	if err := json.Unmarshal([]byte(out), &rows); err != nil {
		t.Fatal(err)
	}
	sections := map[string]int{}
	for _, r := range rows {
		sections[fmt.Sprint(r["section"])]++
		if r["change"] == "newly-dropped" && r["section"] == "change" && r["packets"] != float64(udp) {
			t.Errorf("newly dropped: %v packets, want %d", r["packets"], udp)
		}
		if len(r) != len(stagedColumns) {
			t.Errorf("%d columns", len(r))
		}
	}
	if !maps.Equal(sections, map[string]int{"change": 4, "flow": 3, "rule": 4, "not-judged": 1}) {
		t.Errorf("sections %v", sections)
	}
	if status, _, errs := aclRun(t, socket, "apply", "--staged", "--now"); status != 1 || !strings.Contains(errs, "nothing is filtered here") {
		t.Errorf("apply: %d %s", status, errs)
	}
	if status, _, errs := aclRun(t, socket, "diff", file); status != 1 || !strings.Contains(errs, "nothing is filtered here") {
		t.Errorf("diff: %d %s", status, errs)
	}
	if status, _, errs := aclRun(t, socket, "stage", "--drop"); status != 0 || !strings.Contains(errs, "nothing is staged any more") {
		t.Errorf("drop: %d %s", status, errs)
	}
	if n.staging.now.Load() != nil {
		t.Error("still staged")
	}
}

// What comes to the control socket is bounded, and refused in one line.
func TestStageHandlersRefuse(t *testing.T) {
	socket, n := running(t, &fakeMeter{})
	body := func(c map[string]any) string {
		b, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for name, c := range map[string]struct{ path, body, want string }{
		"no JSON":        {"stage", "permit ip any any", "cannot be read"},
		"empty":          {"stage", "", "cannot be read"},
		"a list":         {"stage", "[1, 2]", "cannot be read"},
		"more behind":    {"stage", body(map[string]any{"text": stagedFile}) + "{}", "something stands behind it"},
		"unknown":        {"stage", `{"text": "", "force": true}`, "unknown field"},
		"without end":    {"stage", `{"text": "` + strings.Repeat("x", 2*maxChange+10), "too large"},
		"large":          {"stage", body(map[string]any{"text": strings.Repeat("x", maxChange+1)}), "at most"},
		"a long name":    {"stage", body(map[string]any{"name": strings.Repeat("x", maxWord+1)}), "a name of"},
		"a long session": {"stage", body(map[string]any{"session": strings.Repeat("1 ", maxSession)}), "a session of"},
		"no lists":       {"stage", body(map[string]any{"name": "f", "text": "! nothing"}), "applies its lists nowhere"},
		"errors":         {"stage", body(map[string]any{"name": "f", "text": "foo\nbar\nbaz\n"}), "; f:2"},
		"for ever":       {"bound", body(map[string]any{"text": stagedFile, "seconds": 1e300}), "a trial of"},
		"backwards":      {"bound", body(map[string]any{"text": stagedFile, "seconds": -5}), "a trial of"},
		"both":           {"bound", body(map[string]any{"text": stagedFile, "staged": true}), "one of them"},
		"not staged":     {"bound", body(map[string]any{"staged": true}), "nothing is staged"},
		"many flows":     {"stage?n=99999999999999999999", "", "accepted: 0 to"},
		"negative":       {"stage?n=-1", "", "accepted: 0 to"},
	} {
		t.Run(name, func(t *testing.T) {
			method := http.MethodPost
			if strings.Contains(c.path, "?") {
				method = http.MethodGet
			}
			req, err := http.NewRequest(method, "http://localhost/control/acl/"+c.path, strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			r, err := control.Client(socket).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Body.Close()
			text, err := io.ReadAll(r.Body)
			var answer struct{ Error string }
			if err == nil {
				err = json.Unmarshal(text, &answer)
			}
			if err != nil || r.StatusCode == http.StatusOK || !strings.Contains(answer.Error, c.want) || strings.Contains(answer.Error, "\n") {
				t.Errorf("%s: %.300q (%v), want %q", r.Status, text, err, c.want)
			}
		})
	}
	if n.staging.now.Load() != nil {
		t.Error("something is staged")
	}
}

// BenchmarkStaged judges records by staged lists of so many rules, over as many in
// force.
func BenchmarkStaged(b *testing.B) {
	for _, c := range []struct {
		name, first string
		rules       int
	}{
		{"none", "", 0},
		{"16 rules", "", 16},
		{"4096 rules", "", 4096},
		{"16 rules, established", " permit tcp any any established\n", 16},
		{"4096 rules, established", " permit tcp any any established\n", 4096},
	} {
		b.Run(c.name, func(b *testing.B) {
			rules := c.rules
			d := rand.New(rand.NewPCG(3, 3))
			text := "ip access-list extended A\n" + c.first
			for i := range rules {
				text += fmt.Sprintf(" %s tcp 10.%d.%d.0 0.0.0.255 any eq %d\n", []string{"permit", "deny"}[i%2], i/256, i%256, 1+d.IntN(1000))
			}
			text += " permit ip any any\ninterface one\n ip access-group A in\n"
			var s staging
			if rules > 0 {
				p := mustPolicy(b, text)
				s.now.Store(stagedOver(b, p, p))
			}
			batch := make([]flow.Record, 1<<14)
			for i := range batch {
				batch[i] = flow.Record{
					Src: addrOf(fmt.Sprintf("10.%d.%d.%d", d.IntN(16), d.IntN(256), d.IntN(256))), Dst: addrOf("192.0.2.1"), SrcPort: uint16(d.IntN(1 << 16)), DstPort: uint16(1 + d.IntN(1000)),
					IPVersion: 4, Proto: []uint8{6, 17}[i%2], TCPFlags: []uint16{flow.SYN, flow.SYN | flow.ACK}[i/2%2], Packets: uint64(1 + i%5), Bytes: 100, First: math.MaxInt64, Last: math.MaxInt64, FlowID: uint64(i + 1), ForwardingStatus: 64,
					Input: 1, Has: flow.HasSrc | flow.HasDst | flow.HasInput | flow.HasFlowID | flow.HasForwardingStatus,
				}
			}
			const at = 512
			if err := s.WriteRecords(batch); err != nil { // what grows has grown
				b.Fatal(err)
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			n := 0
			for b.Loop() {
				if err := s.WriteRecords(batch[n%len(batch):][:at]); err != nil {
					b.Fatal(err)
				}
				n += at
			}
			runtime.ReadMemStats(&after)
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/record")
			b.ReportMetric(float64(after.Mallocs-before.Mallocs)/float64(n), "allocs/record")
		})
	}
}
