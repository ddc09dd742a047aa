package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"weir/acl"
	"weir/capture"
	"weir/flow"
	"weir/packet"
	"weir/query"
	"weir/store"
	"weir/store/storetest"
)

// corpusPackets are the captures of the corpus; without it, those of this folder.
func corpusPackets(t *testing.T) []string {
	t.Helper()
	dir := os.Getenv("WEIR_CORPUS")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared", "corpus")
	}
	files, err := filepath.Glob(filepath.Join(dir, "packets", "*.pcap*"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Logf("no corpus in %s (WEIR_CORPUS): one small capture only", dir)
	}
	return append(files, "testdata/hundred.pcap")
}

// tryLists ask for much of what packets of captures have.
const tryLists = `ip access-list extended A
 5 deny tcp any any match-all +syn +fin
 10 permit tcp any any eq www 443 time-range THEN
 20 permit tcp any any established
 30 deny udp 10.0.0.0 0.255.255.255 any gt 1023 ttl lt 64
 40 permit udp any any eq domain
 50 permit icmp any any echo
 60 permit icmp any any echo-reply
 70 deny ip any 192.168.0.0 0.0.255.255 length gt 600
 75 permit ip any any fragments
 80 permit ip 192.168.0.0 0.0.255.255 any
 90 deny ip any any dscp ef
 100 permit udp any any range 1024 65535
ipv6 access-list A
 10 permit tcp any any eq www 443
 20 permit icmp any any echo-request
 30 permit udp any any eq domain
 40 permit ipv6 fe80::/10 any ttl eq 255
time-range THEN
 absolute start 00:00 1 January 2005 end 00:00 1 January 2017
 periodic daily 3:00 to 22:00
`

// Of each packet of many captures weir acl test says what Evaluate says.
func TestPacketsAreJudgedAsEvaluateSays(t *testing.T) {
	rules := filepath.Join(t.TempDir(), "rules")
	if err := os.WriteFile(rules, []byte(tryLists), 0o644); err != nil {
		t.Fatal(err)
	}
	p, err := acl.Read(rules, []byte(tryLists))
	if err != nil {
		t.Fatal(err)
	}
	packets, hit := 0, map[string]int{}
	for _, file := range corpusPackets(t) {
		var want strings.Builder
		want.WriteString("packet,verdict,rule\n")
		n := 0
		ended := evaluate(t, p, file, func(verdict acl.Action, rule string) {
			n++
			hit[rule]++
			fmt.Fprintf(&want, "%d,%s,%s\n", n, verdict, rule)
		})
		packets += n
		var out, errs bytes.Buffer
		status := run(t.Context(), []string{"acl", "test", "--acl", rules, "-o", "csv", "--summary", file}, strings.NewReader(""), &out, &errs)
		if (status != 0) != (ended != nil) {
			t.Errorf("%s: exit status %d, %s; reading it: %v", file, status, errs.String(), ended)
		}
		if ended != nil && n == 0 { // no capture at all
			continue
		}
		if got := out.String(); got != want.String() {
			t.Fatalf("%s: %s", file, firstDifference(got, want.String()))
		}
		balanced(t, file, errs.Bytes(), uint64(n))
	}
	t.Logf("%d packets: %v", packets, hit)
}

// evaluate reads a capture as Evaluate would judge it.
func evaluate(t *testing.T, p *acl.Policy, file string, do func(acl.Action, string)) error {
	s, err := capture.Open(file)
	if err != nil {
		return err
	}
	defer s.Close()
	var b capture.Batch
	for {
		end := s.Read(&b)
		for i := range b.Packets {
			x := &b.Packets[i]
			var in packet.Info
			why := packet.Decode(x.Link, x.Data, x.Wire, &in)
			switch {
			case why.NonIP():
				do(acl.Permit, "")
			case why != packet.Decoded:
				do(acl.Deny, "")
			default:
				f := acl.IPv4
				if in.Key.VLAN&flow.KeyIPv6 != 0 {
					f = acl.IPv6
				}
				v := p.Evaluate(p.List("A", f), &in, time.Unix(0, x.Time))
				rule := ""
				if v.Rule != nil {
					rule = strconv.Itoa(int(v.Rule.Seq))
				}
				do(v.Action, rule)
			}
		}
		switch {
		case errors.Is(end, io.EOF):
			return nil
		case end != nil:
			return end
		}
	}
}

func firstDifference(got, want string) string {
	a, b := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return fmt.Sprintf("%q; Evaluate: %q", a[i], b[i])
		}
	}
	return fmt.Sprintf("%d lines; Evaluate: %d", len(a), len(b))
}

// balanced: each packet is in one list's hits, or not judged, or malformed.
func balanced(t *testing.T, file string, stderr []byte, packets uint64) {
	t.Helper()
	at := bytes.IndexByte(stderr, '{')
	if at < 0 {
		t.Fatalf("%s: no summary: %s", file, stderr)
	}
	var s aclSummary
	if err := json.NewDecoder(bytes.NewReader(stderr[at:])).Decode(&s); err != nil {
		t.Fatalf("%s: %v: %s", file, err, stderr)
	}
	sum := uint64(0)
	for _, l := range s.Lists {
		hits := uint64(0)
		for _, r := range l.Rules {
			hits += r.Packets
		}
		if hits != l.Packets {
			t.Errorf("%s: %s: %d packets, %d hits", file, l.List, l.Packets, hits)
		}
		sum += hits
	}
	for _, m := range []map[string]uint64{s.NotJudged, s.Malformed} {
		for _, n := range m {
			sum += n
		}
	}
	if s.Packets != packets || s.Permit+s.Deny != packets || sum != packets {
		t.Errorf("%s: %d packets, %d permitted and %d denied, %d accounted for; read %d", file, s.Packets, s.Permit, s.Deny, sum, packets)
	}
}

// Flows that are judged group by group come to the same as flows judged one by
// one.
func TestSimulationOfGroupsIsThatOfFlows(t *testing.T) {
	const text = `ip access-list extended A
 10 permit tcp any any eq 443
 20 permit tcp any any established
 30 permit udp any any eq domain
 40 deny tcp any any eq 22 ttl lt 5
 50 permit icmp any any echo
 60 deny ip 10.0.0.0 0.127.255.255 any
 70 permit ip any any dscp default
ipv6 access-list A
 10 permit tcp any any established
interface 1
 ip access-group A in
 ipv6 traffic-filter A in
interface 2
 ip access-group A out
`
	dir := t.TempDir()
	now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	s, err := store.Open(dir, store.Options{Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	traffic := storetest.NewTraffic(7, now.UnixNano())
	records := append(traffic.Records(3000), traffic.Any(3000)...)
	for i := range records {
		records[i].Input %= 4
		records[i].Output %= 4
		if i%3 == 0 {
			records[i].Version = flow.VersionMetered
		}
	}
	if err := errors.Join(s.WriteRecords(records), s.Flush(), s.Close()); err != nil {
		t.Fatal(err)
	}
	reader, err := store.OpenReader(dir)
	if err != nil {
		t.Fatal(err)
	}
	engine, err := query.Open(reader, query.Options{Threads: 2})
	if err != nil {
		t.Skipf("skipped: %v", err)
	}
	defer query.Close(engine)
	p, err := acl.Read("a.acl", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range [][]string{nil, {"A"}} {
		told := func(one bool) string {
			c := &aclSimulateCmd{ACL: "a.acl", judging: judging{List: list}}
			sim, err := c.simulation(p, query.Request{Limit: -1, Filter: "packets > 0 or bytes > 0 or flags 0"})
			if err != nil {
				t.Fatal(err)
			}
			if one {
				sim.looks = sim.looks.With(acl.FieldLength)
			}
			if err := sim.run(context.Background(), engine); err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			fmt.Fprintln(&b, "all", sim.all)
			for i := range sim.lists {
				l := &sim.lists[i]
				for _, o := range l.outcomes() {
					fmt.Fprintln(&b, l.Head(), o.rule.Text(l.Family), o.verdict, o.depends, *l.sums[o])
				}
			}
			for _, k := range slices.Sorted(maps.Keys(sim.skipped)) {
				fmt.Fprintln(&b, k, *sim.skipped[k])
			}
			for _, m := range sim.denied {
				for _, d := range most(m, len(m)) {
					fmt.Fprintln(&b, d.addr, *d.sums)
				}
			}
			return b.String()
		}
		groups, flows := told(false), told(true)
		if groups != flows {
			t.Errorf("groups: %s", firstDifference(groups, flows))
		}
		for _, part := range []string{"established permit TCP flags", "established depends TCP flags", "echo", "ttl lt 5 deny TTL"} {
			if !strings.Contains(groups, part) {
				t.Errorf("nothing of %q in\n%.4000s", part, groups)
			}
		}
	}
}
