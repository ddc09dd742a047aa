package wire

import (
	"slices"
	"strings"
	"testing"

	"weir/flow"
)

// fieldsRecord knows everything.
func fieldsRecord() flow.Record {
	return flow.Record{
		Has: ^flow.Field(0), Src: flow.AddrFrom4([4]byte{192, 0, 2, 1}), Dst: flow.AddrFrom4([4]byte{192, 0, 2, 2}),
		First: 1_750_000_000e9, Last: 1_750_000_001e9, Packets: 3, Bytes: 400, Proto: 6, SrcPort: 1, DstPort: 443, TCPFlags: 0x12, IPVersion: 4,
	}
}

func namesOf(l *Layout) string {
	var names []string
	for _, f := range l.Fields {
		names = append(names, f.Name)
	}
	return strings.Join(names, ",")
}

func TestFieldsChosenByName(t *testing.T) {
	for _, c := range []struct {
		version uint8
		choice  string
		want    string
	}{
		{9, "src,bytes", "sourceIPv4Address,octetDeltaCount"},
		{10, "dst,dport,packets,last", "destinationIPv4Address,destinationTransportPort,packetDeltaCount,flowEndMilliseconds"},
		{9, "sport,first", "sourceTransportPort,flowStartSysUpTime"},
		{9, "sourceIPv4Address,flowStartMilliseconds", "sourceIPv4Address,flowStartMilliseconds"},
		{10, "proto", "protocolIdentifier,paddingOctets"},
		{10, "sport,dport,proto", "sourceTransportPort,destinationTransportPort,protocolIdentifier"},
		{10, "bytes,src", "sourceIPv4Address,octetDeltaCount"}, // the order is weir's
	} {
		f, err := ParseFields(c.choice)
		if err != nil {
			t.Fatal(err)
		}
		r := fieldsRecord()
		l := NewLayout(c.version, f.Of(ShapeOf(c.version, Selected, &r, true)), 256)
		if got := namesOf(l); got != c.want {
			t.Errorf("v%d %s: %s; want %s", c.version, c.choice, got, c.want)
		}
		if got := len(l.Append(nil, &r, 1_749_999_000e9, 1)); got != l.Size || got < 4 {
			t.Errorf("%s: a record of %d octets; its template says %d", c.choice, got, l.Size)
		}
	}
	// Records without what was chosen, or of the other family, have their own layout.
	f, _ := ParseFields("src,sport,vlan")
	r := fieldsRecord()
	r.Has &^= flow.HasVLAN
	r.Src, r.IPVersion = flow.Addr{0x20, 1}, 6
	if got := namesOf(NewLayout(10, f.Of(ShapeOf(10, Selected, &r, false)), 256)); got != "sourceIPv6Address,sourceTransportPort" {
		t.Error(got)
	}
	for _, bad := range []string{"", "src,,dst", "srcip", "src,src", "tcpWindowSize"} {
		if _, err := ParseFields(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// Every name makes a layout with a field, and every field of all layouts has a name.
func TestEveryFieldHasAName(t *testing.T) {
	r := fieldsRecord()
	icmp := r
	icmp.Proto = flow.ProtoICMP
	r.More = &flow.More{Known: flow.FactsMore, InnerVLAN: flow.KeyTagged | 7, Labels: [flow.MaxLabels]uint32{flow.LabelThere, flow.LabelThere, flow.LabelThere}}
	six := r
	six.IPVersion = 6
	for _, name := range FieldNames() {
		f, err := ParseFields(name)
		if err != nil {
			t.Fatal(err)
		}
		of := &r
		switch name {
		case "icmp":
			of = &icmp
		case "flow_label":
			of = &six
		}
		if l := NewLayout(10, f.Of(ShapeOf(10, Selected, of, true)), 256); l.Fields[0].Name == "paddingOctets" {
			t.Errorf("%s selects nothing", name)
		}
	}
	for _, version := range []uint8{9, 10} {
		for _, f := range NewLayout(version, ShapeOf(version, Full, &r, true), 256).Fields {
			if !slices.ContainsFunc(FieldNames(), func(n string) bool { return slices.Contains(columnFields[n], f.ID) }) {
				t.Errorf("%s has no name to be chosen by", f.Name)
			}
		}
	}
}

func TestPresetsMinimalAndSecurity(t *testing.T) {
	r := fieldsRecord()
	r.FlowID, r.SrcAS = 7, 64500
	const minimal = "sourceIPv4Address,destinationIPv4Address,sourceTransportPort,destinationTransportPort,protocolIdentifier,packetDeltaCount,octetDeltaCount,flowStartMilliseconds,flowEndMilliseconds"
	if got := namesOf(NewLayout(10, ShapeOf(10, Minimal, &r, false), 256)); got != minimal {
		t.Error(got)
	}
	got := namesOf(NewLayout(10, ShapeOf(10, Security, &r, false), 256))
	for _, want := range []string{"tcpControlBits", "flowEndReason", "droppedPacketDeltaCount", "firewallEvent", "commonPropertiesId", "ingressInterface"} {
		if !strings.Contains(got, want) {
			t.Errorf("security lacks %s: %s", want, got)
		}
	}
	for _, other := range []string{"bgp", "flowId", "NextHop", "PrefixLength"} {
		if strings.Contains(got, other) {
			t.Errorf("security has %s: %s", other, got)
		}
	}
}
