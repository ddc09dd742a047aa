package main

import (
	"bufio"
	"bytes"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"weir/console"
	"weir/flow"
)

// ciscoRecord is a flow as the kernel's table gives it.
func ciscoRecord(proto uint8, src string, sport uint16, dst string, dport uint16, packets, bytes uint64) flow.Record {
	return flow.Record{
		Has:   flow.HasProto | flow.HasSrc | flow.HasDst | flow.HasSrcPort | flow.HasDstPort | flow.HasPackets | flow.HasBytes | flow.HasFirst | flow.HasLast | flow.HasTOS | flow.HasInput | flow.HasDirection,
		Proto: proto, Src: addrOf(src), SrcPort: sport, Dst: addrOf(dst), DstPort: dport, Packets: packets, Bytes: bytes, Input: 2, IPVersion: familyOf(src),
		First: 1750000000e9, Last: 1750000010800e6,
	}
}

func ciscoText(verbose, bytesLast bool, records ...flow.Record) string {
	var b bytes.Buffer
	w := bufio.NewWriter(&b)
	l := &ciscoLines{w: w, names: map[uint32]string{2: "Gi0/1", 3: "Gi0/2", 4: "a-name-of-17-chars"}, verbose: verbose, bytes: bytesLast}
	l.head()
	l.both(records)
	w.Flush()
	return b.String()
}

// The columns stand where IOS has them: these lines are as routers print them.
func TestCiscoLines(t *testing.T) {
	echo := ciscoRecord(1, "172.16.29.17", 0, "172.16.29.16", 0x0303, 1, 56)
	snmp := ciscoRecord(17, "172.16.29.17", 0xe414, "192.168.100.200", 0x00a1, 74, 7400)
	snmp.Output, snmp.Has = 3, snmp.Has|flow.HasOutput
	egress := ciscoRecord(6, "10.0.0.1", 443, "10.0.0.2", 0xabcd, 414000, 1)
	egress.Output, egress.Direction, egress.Has = 3, 1, egress.Has&^flow.HasInput|flow.HasOutput
	const want = `SrcIf         SrcIPaddress    DstIf         DstIPaddress    Pr SrcP DstP  Pkts
Gi0/1         172.16.29.17    -             172.16.29.16    01 0000 0303     1
Gi0/1         172.16.29.17    Gi0/2         192.168.100.200 11 E414 00A1    74
-             10.0.0.1        Gi0/2*        10.0.0.2        06 01BB ABCD  414K
`
	if got := ciscoText(false, false, echo, snmp, egress); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	six := ciscoRecord(6, "2001:db8::1", 443, "2001:db8::2", 0x1234, 5, 500)
	unknown := flow.Record{Has: flow.HasPackets | flow.HasInput | flow.HasDst, Dst: addrOf("10.1.2.0"), Input: 9, Packets: 7, IPVersion: 4}
	long := ciscoRecord(17, "10.0.0.1", 1, "10.0.0.2", 2, 3, 4)
	long.Input = 4
	const more = `SrcIf         SrcIPaddress    DstIf         DstIPaddress    Pr SrcP DstP Bytes
if9           -               -             10.1.2.0        00 0000 0000     0
a-name-of-17-chars 10.0.0.1        -             10.0.0.2        11 0001 0002     4

SrcAddress                              InpIf         DstAddress                              OutIf         Prot SrcPrt DstPrt Bytes
2001:db8::1                             Gi0/1         2001:db8::2                             -             0x06 0x01BB 0x1234 500
`
	if got := ciscoText(false, true, six, unknown, long); got != more {
		t.Errorf("got\n%swant\n%s", got, more)
	}
	v := ciscoRecord(6, "10.251.138.218", 0x15, "172.16.10.2", 0x15, 65, 2600)
	v.TOS, v.TCPFlags, v.Has = 0x80, 0x1b, v.Has|flow.HasTCPFlags|flow.HasSrcMask|flow.HasDstAS
	v.SrcMask, v.DstAS = 24, 64500
	const verbose = `SrcIf          SrcIPaddress    DstIf          DstIPaddress    Pr TOS Flgs  Pkts
Port Msk AS                    Port Msk AS    NextHop              B/Pk  Active
Gi0/1          10.251.138.218  -              172.16.10.2     06 80  1B      65
0015 /24 -                     0015 /-  64500 -                      40    10.8
`
	if got := ciscoText(true, false, v); got != verbose {
		t.Errorf("got\n%swant\n%s", got, verbose)
	}
}

// What stands before the flows, of a state that is all known.
func TestCiscoCache(t *testing.T) {
	var seen tally
	seen.count([]flow.Record{
		{Proto: 6, DstPort: 23, Packets: 34, Bytes: 34 * 40, First: 0, Last: 10.5e9},
		{Proto: 6, DstPort: 80, Packets: 9, Bytes: 9 * 93, First: 0, Last: 0.1e9},
		{Proto: 17, DstPort: 123, Packets: 1, Bytes: 76, First: 0, Last: 0},
		{Proto: 1, DstPort: 0x800, Packets: 10, Bytes: 15000, First: 0, Last: 4e9},
	}, 15e9)
	_, counted := seen.read()
	began := time.Unix(1e9, 0)
	var b bytes.Buffer
	ciscoCache(&b, console.Cache{Entries: 4, Capacity: 4096, Memory: 278544, Sweeps: 1195, Refused: 3, ActiveSeconds: 1800, IdleSeconds: 15}, counted, began, began.Add(10*time.Second))
	const want = `IP packet size distribution (54 total packets):
   1-32   64   96  128  160  192  224  256  288  320  352  384  416  448  480
   .000 .630 .185 .000 .000 .000 .000 .000 .000 .000 .000 .000 .000 .000 .000

    512  544  576 1024 1536 2048 2560 3072 3584 4096 4608
   .000 .000 .000 .000 .185 .000 .000 .000 .000 .000 .000

IP Flow Switching Cache, 278544 bytes
  4 active, 4092 inactive, 8 added
  1195 ager polls, 3 flow alloc failures
  Active flows timeout in 30 minutes
  Inactive flows timeout in 15 seconds
  last clearing of statistics never
Protocol         Total    Flows   Packets Bytes  Packets Active(Sec) Idle(Sec)
--------         Flows     /Sec     /Flow  /Pkt     /Sec     /Flow     /Flow
TCP-Telnet           1      0.1        34    40      3.4      10.5       4.5
TCP-WWW              1      0.1         9    93      0.9       0.1      14.9
UDP-NTP              1      0.1         1    76      0.1       0.0      15.0
ICMP                 1      0.1        10  1500      1.0       4.0      11.0
Total:               4      0.4        14   320      5.4       3.6      11.3

`
	if got := b.String(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestCiscoTimeouts(t *testing.T) {
	for _, c := range []struct {
		seconds float64
		minutes bool
		want    string
	}{{1800, true, "in 30 minutes"}, {60, true, "in 1 minutes"}, {90, true, "in 90 seconds"}, {15, false, "in 15 seconds"}, {0.5, false, "in 0.5 seconds"}, {0, true, "never"}} {
		if got := ciscoTimeout(c.seconds, c.minutes); got != c.want {
			t.Errorf("%v s: %s, want %s", c.seconds, got, c.want)
		}
	}
}

// Shares sum to one, or to nothing, and none is off by a thousandth.
func TestPermille(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		counts := rapid.SliceOfN(rapid.OneOf(rapid.Just(uint64(0)), rapid.Uint64Range(0, 1000), rapid.Uint64Range(0, 1<<58)), 1, 26).Draw(t, "counts")
		var sum float64
		for _, n := range counts {
			sum += float64(n)
		}
		total := 0
		for i, s := range permille(counts) {
			total += s
			if off := float64(s) - 1000*float64(counts[i])/max(sum, 1); off > 1.001 || off < -1.001 || counts[i] == 0 && s != 0 {
				t.Fatalf("share %d of %v is %d", i, counts, s)
			}
		}
		if total != 1000 && !(total == 0 && sum == 0) {
			t.Fatalf("shares of %v sum to %d", counts, total)
		}
	})
}

// Numbers take five columns, and are off by a tenth at most.
func TestCiscoNumber(t *testing.T) {
	form := regexp.MustCompile(`^(\d+)([KMGTP]?)$`)
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Uint64Range(0, 9_999e15).Draw(t, "n") >> rapid.IntRange(0, 63).Draw(t, "shift")
		text := ciscoNumber(n)
		m := form.FindStringSubmatch(text)
		if m == nil || len(text) > 5 {
			t.Fatalf("%d prints as %q", n, text)
		}
		v, err := strconv.ParseUint(m[1], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if m[2] != "" {
			for range strings.Index("KMGTP", m[2]) + 1 {
				v *= 1000
			}
		}
		if v > n || n-v > n/10 || m[2] == "" && v != n {
			t.Fatalf("%d prints as %q", n, text)
		}
	})
}

// A script that reads IOS's lines reads these.
func TestCiscoParses(t *testing.T) {
	line := regexp.MustCompile(`^(\S+)\s+(\d+\.\d+\.\d+\.\d+)\s+(\S+)\s+(\d+\.\d+\.\d+\.\d+)\s+([0-9A-F]{2})\s+([0-9A-F]{4})\s+([0-9A-F]{4})\s+(\d+[KMG]?)\s*$`)
	rapid.Check(t, func(t *rapid.T) {
		addr := func(name string) string {
			b := rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, name)
			return fmt.Sprintf("%d.%d.%d.%d", b[0], b[1], b[2], b[3])
		}
		r := ciscoRecord(rapid.Byte().Draw(t, "proto"), addr("src"), rapid.Uint16().Draw(t, "sport"), addr("dst"), rapid.Uint16().Draw(t, "dport"), rapid.Uint64Range(0, 1<<40).Draw(t, "packets"), 1)
		text := strings.Split(ciscoText(false, false, r), "\n")[1]
		m := line.FindStringSubmatch(text)
		if m == nil {
			t.Fatalf("%q", text)
		}
		if want := fmt.Sprintf("%s %s %02X %04X %04X", string(r.AppendColumn(nil, flow.ColSrc)), string(r.AppendColumn(nil, flow.ColDst)), r.Proto, r.SrcPort, r.DstPort); strings.Join([]string{m[2], m[4], m[5], m[6], m[7]}, " ") != want {
			t.Fatalf("%q is not %s", text, want)
		}
	})
}
