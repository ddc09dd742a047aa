package acl

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // machines without zones have Berlin, too

	"pgregory.net/rapid"

	"weir/flow"
	"weir/packet"
)

// packetOf reads a packet as this test writes it:
//
//	PROTO SRC[,PORT] DST[,PORT or TYPE/CODE] [words]
//
// words: TCP flags, fragment (a later one), tos=N, ttl=N, len=N.
func packetOf(t testing.TB, s string) *packet.Info {
	t.Helper()
	w := strings.Fields(s)
	in := &packet.Info{Length: 60, TTL: 64}
	k := &in.Key
	end := func(s string) (a flow.Addr, port uint16) {
		host, p, _ := strings.Cut(s, ",")
		typ, code, icmp := strings.Cut(p, "/")
		n, _ := strconv.Atoi(typ)
		if icmp {
			c, _ := strconv.Atoi(code)
			n = n<<8 | c
		}
		addr := netip.MustParseAddr(host)
		if addr.Is6() {
			k.VLAN |= flow.KeyIPv6
		}
		return flow.AddrFrom(addr), uint16(n)
	}
	k.Src, k.SrcPort = end(w[1])
	k.Dst, k.DstPort = end(w[2])
	f := IPv4
	if k.VLAN&flow.KeyIPv6 != 0 {
		f = IPv6
	}
	n, ok := protoTables[f].number(w[0], 255)
	if !ok {
		t.Fatalf("no protocol %q", w[0])
	}
	k.Proto = uint8(n)
	for _, s := range w[3:] {
		key, value, _ := strings.Cut(s, "=")
		n, _ := strconv.Atoi(value)
		switch bit := flagNames.byName[key]; {
		case bit != 0:
			in.TCPFlags |= uint8(bit)
		case key == "fragment":
			k.VLAN |= flow.KeyFragment
		case key == "tos":
			k.TOS = uint8(n)
		case key == "ttl":
			in.TTL = uint8(n)
		case key == "len":
			in.Length = uint32(n)
		default:
			t.Fatalf("no word %q", s)
		}
	}
	return in
}

// said is a verdict as the cases have it: the action and the rule's number.
func said(v Verdict) string {
	if v.Rule == nil {
		return v.Action.String() + " implicitly"
	}
	return fmt.Sprintf("%s by %d", v.Action, v.Rule.Seq)
}

func mustRead(t rapid.TB, text string) *Policy {
	t.Helper()
	p, err := ReadCisco("acl", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestEvaluate: in testdata/evaluate.txt each case is a list, and behind its
// first line "packets" what is asked and answered.
func TestEvaluate(t *testing.T) {
	runCases(t, "testdata/evaluate.txt", func(t *testing.T, c textCase) (string, string) {
		list, packets, ok := strings.Cut(c.in, "packets\n")
		if !ok {
			t.Fatal("no line packets")
		}
		p := mustRead(t, list)
		var out strings.Builder
		for line := range strings.Lines(packets) {
			line = strings.TrimSpace(line)
			if line == "" {
				continue
			}
			v := p.Evaluate(p.Lists[0], packetOf(t, line), time.Now())
			fmt.Fprintf(&out, "%-50s %s\n", line, said(v))
		}
		return "verdicts", out.String()
	})
}

func TestTimeRanges(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		period string
		in     string // of November 2026, local: the 2nd is a Monday
		want   bool
	}{
		{"weekdays 8:00 to 17:00", "2 8:00:00", true},
		{"weekdays 8:00 to 17:00", "2 16:59:59", true},
		{"weekdays 8:00 to 17:00", "2 17:00:00", false},
		{"weekdays 8:00 to 17:00", "2 7:59:59", false},
		{"weekdays 8:00 to 17:00", "1 12:00:00", false},
		{"weekend 0:00 to 24:00", "1 23:59:59", true},
		{"weekend 0:00 to 24:00", "2 0:00:00", false},
		{"weekend 0:00 to 23:59", "1 23:59:00", false},
		{"Saturday 22:00 to 6:00", "7 23:00:00", true},
		{"Saturday 22:00 to 6:00", "8 5:59:59", true},
		{"Saturday 22:00 to 6:00", "8 6:00:00", false},
		{"Saturday 22:00 to 6:00", "7 5:00:00", false},
		{"Monday 9:00 to Friday 17:00", "4 3:00:00", true},
		{"Monday 9:00 to Friday 17:00", "6 17:00:00", false},
		{"Monday 9:00 to Friday 17:00", "2 8:59:59", false},
		{"Friday 17:00 to Monday 9:00", "1 12:00:00", true},
		{"Friday 17:00 to Monday 9:00", "9 8:59:00", true},
		{"Friday 17:00 to Monday 9:00", "9 9:00:00", false},
		{"Monday 9:00 to Monday 8:00", "2 8:30:00", false},
		{"Monday 9:00 to Monday 8:00", "8 8:30:00", true},
		{"daily 0:00 to 0:00", "3 12:00:00", true},
	} {
		p := mustRead(t, "time-range T\n periodic "+c.period+"\n")
		now, err := time.ParseInLocation("2006 1 2 15:04:05", "2026 11 "+c.in, berlin)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Times[0].active(now); got != c.want {
			t.Errorf("%s on %s: %v", c.period, now.Format("Mon 15:04:05"), got)
		}
	}
}

// On 29 March 2026 the clocks of Berlin go from 2:00 to 3:00, on 25 October from
// 3:00 to 2:00.
func TestTimeRangesFollowTheClockOnTheWall(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	p := mustRead(t, "time-range T\n periodic daily 2:30 to 8:00\n").Times[0]
	minutes := func(month time.Month, day int) (n int) {
		for now := time.Date(2026, month, day, 0, 0, 0, 0, berlin); now.Day() == day; now = now.Add(time.Minute) {
			if p.active(now) {
				n++
			}
		}
		return n
	}
	for _, c := range []struct {
		month     time.Month
		day, want int
	}{{time.March, 28, 330}, {time.March, 29, 300}, {time.October, 25, 360}} {
		if got := minutes(c.month, c.day); got != c.want {
			t.Errorf("%s %d: active for %d minutes, want %d", c.month, c.day, got, c.want)
		}
	}
}

func TestTimeRangeBounds(t *testing.T) {
	p := mustRead(t, "time-range T\n absolute start 8:00 1 May 2026 end 17:00 2 May 2026\n periodic daily 8:00 to 17:00\n").Times[0]
	for in, want := range map[string]bool{
		"2026-05-01 07:59": false, "2026-05-01 08:00": true, "2026-05-01 18:00": false, "2026-05-02 16:59": true, "2026-05-02 17:00": false, "2026-05-03 09:00": false,
	} {
		now, err := time.ParseInLocation("2006-01-02 15:04", in, time.Local)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Active(now); got != want {
			t.Errorf("%s: %v", in, got)
		}
	}
}
