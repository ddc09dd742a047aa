package capture

import (
	"strings"
	"testing"

	"weir/packet"
)

// One expression, packets of several link types in turn.
func TestExpressionFollowsTheLinkType(t *testing.T) {
	ip := []byte{0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2, 0, 53, 4, 0, 0, 8, 0, 0}
	ether := append([]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0}, ip...)
	e, err := ParseExpression("udp src port 53")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for _, c := range []struct {
			link packet.LinkType
			data []byte
		}{{packet.LinkEthernet, ether}, {packet.LinkRaw, ip}} {
			if !e.Match(&Packet{Data: c.data, Wire: uint32(len(c.data)), Link: c.link}) {
				t.Errorf("link type %d does not match", c.link)
			}
		}
	}
	only, err := ParseExpression("ether host 02:00:00:00:00:01")
	if err != nil {
		t.Fatal(err)
	}
	if !only.Match(&Packet{Data: ether, Wire: 42, Link: packet.LinkEthernet}) {
		t.Error("its Ethernet address does not match")
	}
	if only.Match(&Packet{Data: ip, Wire: 28, Link: packet.LinkRaw}) {
		t.Error("a packet without Ethernet addresses matches")
	}
	if err := only.Err(); err == nil || !strings.Contains(err.Error(), "raw IP") {
		t.Errorf("Err: %v, want one about raw IP", err)
	}
	if e.Err() != nil {
		t.Errorf("Err: %v", e.Err())
	}
	for _, text := range []string{"vlan 5 and ether multicast", "inbound", "udp"} {
		if live, err := ParseExpression(text); err != nil {
			t.Errorf("%s: %v", text, err)
		} else if _, err := live.Live(); err != nil {
			t.Errorf("%s, for an interface: %v", text, err)
		}
	}
	if _, err := ParseExpression("tcp prot 80"); err == nil {
		t.Error("a mistyped expression is accepted")
	}
	if _, err := ParseExpression("inbound and prot 6"); err == nil || !strings.Contains(err.Error(), "prot") {
		t.Errorf("a mistyped word behind one that Ethernet does not answer: %v", err)
	}
}
