package flow

import (
	"encoding/json"
	"strings"
	"testing"
	"unsafe"

	"pgregory.net/rapid"
)

func TestMoreLayout(t *testing.T) {
	var m More
	if n := unsafe.Sizeof(m); n != 128 {
		t.Errorf("a More has %d octets, want 128: one place of an entry", n)
	}
	if at := unsafe.Offsetof(m.TCPOptions); at != 8*MoreKeyWords {
		t.Errorf("what is no part of the key begins at %d, want %d", at, 8*MoreKeyWords)
	}
	if at := unsafe.Offsetof(m.TunnelDst) + unsafe.Sizeof(m.TunnelDst); at > 8*MoreKeyWords {
		t.Errorf("the key ends at %d, beyond its words", at)
	}
}

func TestParseKey(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"cisco", "cisco"},
		{"netflow-original", "cisco"},
		{"5tuple", "5tuple"},
		{"src,dst,proto,dscp", "src,dst,proto,dscp"},
		{"dscp, proto ,dst,src", "src,dst,proto,dscp"},
		{"tos,dscp", "tos"},
		{"5tuple,vlan,mac", "src,dst,sport,dport,proto,vlan,src-mac,dst-mac"},
		{"hosts,ttl,length,mpls,flow-label,inner-vlan", "src,dst,inner-vlan,mpls,flow-label,ttl,length"},
	} {
		key, err := ParseKey(c.in)
		if err != nil || key.String() != c.want {
			t.Errorf("%q: %v, %v; want %s", c.in, key, err, c.want)
		}
		if again, err := ParseKey(key.String()); err != nil || again != key {
			t.Errorf("%q is not read again: %v, %v", key, again, err)
		}
	}
	for _, bad := range []string{"", "src,", "srcip", "tcp-options", "fragment"} {
		if _, err := ParseKey(bad); err == nil || !strings.Contains(err.Error(), "accepted: cisco, 5tuple") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	for _, bad := range []string{"", "src", "tunnel", "dscp"} {
		if _, err := ParseCollect(bad); err == nil || !strings.Contains(err.Error(), "accepted: inner-vlan") {
			t.Errorf("collect %q: %v", bad, err)
		}
	}
	for _, w := range Words() {
		if w.Help == "" || !w.Key && !w.Collected {
			t.Errorf("%+v says nothing", w)
		}
		if _, err := ParseKey(w.Name); (err == nil) != w.Key {
			t.Errorf("%s as a key: %v", w.Name, err)
		}
		if _, err := ParseCollect(w.Name); (err == nil) != w.Collected {
			t.Errorf("%s collected: %v", w.Name, err)
		}
	}
}

func TestSelectionWide(t *testing.T) {
	for _, c := range []struct {
		s    Selection
		wide bool
	}{
		{Selection{}, false},
		{Selection{Key: BySrc | ByDSCP}, false},
		{Selection{Collect: ByTTL | ByLength}, false}, // an entry has them
		{Selection{Key: FactsCisco | ByTTL}, true},
		{Selection{Collect: BySrcMAC}, true},
		{Selection{Biflow: true}, true},
		{Selection{Inner: true}, true},
	} {
		if got := c.s.Wide(); got != c.wide {
			t.Errorf("%+v: wide %v, want %v", c.s, got, c.wide)
		}
	}
	for _, bad := range []Selection{{Key: ByTCPOptions}, {Collect: BySrc}, {Key: FactsCisco | ByTunnel}, {Key: BySrc, Biflow: true}, {Key: Facts5Tuple | BySrcMAC, Biflow: true}} {
		if bad.Validate() == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}

func drawMore(t *rapid.T) *More {
	octets := rapid.SliceOfN(rapid.Byte(), 128, 128).Draw(t, "more")
	m := *(*More)(unsafe.Pointer(&octets[0]))
	m.Known = Facts(rapid.Uint32().Draw(t, "known")) & FactsMore
	m.Tunnel %= TunnelTeredo + 1
	return &m
}

// What more a record tells is a JSON object, or nothing.
func TestAppendMoreIsJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := Record{Proto: 6, IPVersion: 6, Has: Field(rapid.Uint64().Draw(t, "has"))}
		if rapid.Bool().Draw(t, "with more") {
			r.More = drawMore(t)
		}
		if rapid.Bool().Draw(t, "biflow") {
			r.Reverse = &Reverse{Packets: rapid.Uint64().Draw(t, "packets"), First: rapid.Int64().Draw(t, "first"), Last: 1}
		}
		b := r.AppendMore(nil)
		var object map[string]any
		if len(b) > 0 && json.Unmarshal(b, &object) != nil {
			t.Fatalf("no JSON: %s", b)
		}
		if len(b) == 0 && (r.Has&HasFlows != 0 || r.Reverse != nil) {
			t.Fatal("nothing told")
		}
	})
}

// Both directions apart count what they do together, and turning back gives the same.
func TestDirections(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := Record{
			Src: AddrFrom4([4]byte{10, 0, 0, 1}), Dst: AddrFrom4([4]byte{10, 0, 0, 2}), SrcPort: 1000, DstPort: 53, Proto: 17,
			Input: 3, SrcMask: 24, SrcAS: 64500, First: 10, Last: 20, FlowID: 9,
			Packets: rapid.Uint64Range(0, 2).Draw(t, "packets") * 7, Bytes: rapid.Uint64Range(0, 2).Draw(t, "bytes") * 100,
			Has:  HasSrc | HasDst | HasSrcPort | HasDstPort | HasProto | HasInput | HasDirection | HasSrcMask | HasSrcAS | HasFlowID | HasPackets | HasBytes,
			More: drawMore(t), Reverse: &Reverse{Packets: rapid.Uint64Range(0, 2).Draw(t, "back"), Bytes: 11, First: 12, Last: 19, TCPFlags: 0x12},
		}
		if r.Packets == 0 {
			r.Bytes = 0
		}
		if r.Reverse.Packets == 0 {
			r.Reverse.Bytes = 0
		}
		packets, octets := r.Total()
		parts := r.AppendDirections(nil)
		for i := range parts {
			p := &parts[i]
			packets, octets = packets-p.Packets, octets-p.Bytes
			if p.Reverse != nil || p.Elements != nil {
				t.Fatal("a direction has another one")
			}
		}
		if packets != 0 || octets != 0 || len(parts) == 0 || len(parts) > 2 {
			t.Fatalf("%d records, %d packets and %d octets over", len(parts), packets, octets)
		}
		last := parts[len(parts)-1]
		if r.Reverse.Packets == 0 {
			return
		}
		if last.Src != r.Dst || last.SrcPort != 53 || last.DstMask != 24 || last.Has&HasDstMask == 0 || last.Has&HasSrcMask != 0 ||
			last.Output != 3 || last.Has&HasInput != 0 || last.Direction != 1 || last.TCPFlags != 0x12 || last.More.SrcMAC != r.More.DstMAC {
			t.Fatalf("turned wrong: %+v", last)
		}
		if len(parts) == 2 && last.Has&HasFlowID != 0 {
			t.Fatal("two records have one flow id")
		}
	})
	ping := Record{Proto: ProtoICMP, ICMPType: 8, DstPort: 0x800, Packets: 1, Has: HasICMP | HasSrcPort | HasDstPort, Reverse: &Reverse{Packets: 1}}
	if p := ping.AppendDirections(nil); p[1].ICMPType != 0 || p[1].DstPort != 0 || p[1].SrcPort != 0 {
		t.Errorf("the answer to a ping is %+v", p[1])
	}
}
