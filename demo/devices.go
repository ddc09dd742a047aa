package demo

import (
	"net/netip"
	"strings"

	"weir/export"
	"weir/flow"
	"weir/wire"
)

// device is one exporter's part in the play.
type device struct {
	name     string
	version  uint8
	preset   wire.Preset
	domain   uint32
	sampling uint32
	ports    []export.Interface
}

// outward says whether an interface leads away from our network. There traffic
// is metered in both directions, elsewhere where it comes in.
func (d *device) outward(index uint32) bool {
	for _, p := range d.ports {
		if p.Index == index {
			_, what, _ := strings.Cut(p.Description, ": ")
			return strings.HasPrefix(what, "transit") || strings.HasPrefix(what, "peering") || what == "internet" || what == "uplink"
		}
	}
	return false
}

func (d *device) names() func() []export.Interface {
	if d.version < flow.VersionV9 {
		return nil
	}
	return func() []export.Interface { return d.ports }
}

// The devices, and which is which.
const (
	edge1 = iota
	edge2
	dc1
	dc2
	branch
	firewall
)

var devices = [...]device{
	edge1: {"edge-1", flow.VersionV9, wire.Cisco, 1, 1, []export.Interface{
		{Index: 1, Name: "TenGigE0/0/0", Description: "edge-1: transit, Arelion"},
		{Index: 2, Name: "TenGigE0/0/1", Description: "edge-1: peering, DE-CIX"},
		{Index: 3, Name: "HundredGigE0/1/0", Description: "edge-1: core"},
	}},
	edge2: {"edge-2", flow.VersionV9, wire.Cisco, 2, 100, []export.Interface{
		{Index: 1, Name: "TenGigE0/0/0", Description: "edge-2: transit, Cogent"},
		{Index: 2, Name: "TenGigE0/0/1", Description: "edge-2: peering, AMS-IX"},
		{Index: 3, Name: "HundredGigE0/1/0", Description: "edge-2: core"},
	}},
	dc1: {"dc-1", flow.VersionIPFIX, wire.Full, 10, 1, []export.Interface{
		{Index: 10, Name: "et-0/0/10", Description: "dc-1: fabric A"},
		{Index: 11, Name: "et-0/0/11", Description: "dc-1: fabric B"},
		{Index: 12, Name: "et-0/0/12", Description: "dc-1: storage"},
		{Index: 20, Name: "ae20", Description: "dc-1: uplink"},
	}},
	dc2: {"dc-2", flow.VersionIPFIX, wire.Full, 11, 1, []export.Interface{
		{Index: 10, Name: "et-0/0/10", Description: "dc-2: fabric A"},
		{Index: 12, Name: "et-0/0/12", Description: "dc-2: storage"},
		{Index: 20, Name: "ae20", Description: "dc-2: uplink"},
	}},
	branch: {"branch-1", flow.VersionV5, wire.Compact, 5, 1, []export.Interface{
		{Index: 1, Name: "Vlan10", Description: "branch-1: desks"},
		{Index: 2, Name: "Vlan20", Description: "branch-1: guests"},
		{Index: 24, Name: "GigabitEthernet1/0/24", Description: "branch-1: uplink"},
	}},
	firewall: {"fw-1", flow.VersionIPFIX, wire.Full, 30, 1, []export.Interface{
		{Index: 1, Name: "outside", Description: "fw-1: internet"},
		{Index: 2, Name: "dmz", Description: "fw-1: published services"},
		{Index: 3, Name: "inside", Description: "fw-1: campus"},
	}},
}

// ownAS is the network's own, from the range for documentation (RFC 5398).
const ownAS = 64500

// site is a part of our network: prefixes with hosts of some popularity.
type site struct {
	v4, v6 netip.Prefix
	hosts  int
}

var (
	campus  = site{netip.MustParsePrefix("10.20.0.0/16"), netip.MustParsePrefix("2001:db8:20::/48"), 1800}
	guests  = site{netip.MustParsePrefix("10.5.20.0/22"), netip.MustParsePrefix("2001:db8:5::/64"), 250}
	servers = site{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8:100::/64"), 60}
	backend = site{netip.MustParsePrefix("10.100.0.0/20"), netip.MustParsePrefix("2001:db8:200::/64"), 300}
)

// peer is a network outside, by its real number and one of its prefixes.
type peer struct {
	as     uint32
	v4, v6 netip.Prefix
	weight float64 // share of the conversations
	port   uint32  // edge interface by which it is reached
}

func network(as uint32, v4, v6 string, weight float64, port uint32) peer {
	return peer{as, netip.MustParsePrefix(v4), netip.MustParsePrefix(v6), weight, port}
}

var peers = []peer{
	network(15169, "142.250.0.0/15", "2a00:1450:4000::/37", 18, 2),
	network(13335, "104.16.0.0/13", "2606:4700::/32", 15, 2),
	network(16509, "52.84.0.0/15", "2600:9000::/28", 13, 2),
	network(8075, "20.40.0.0/13", "2603:1000::/24", 11, 2),
	network(20940, "23.32.0.0/11", "2a02:26f0::/32", 9, 2),
	network(32934, "157.240.0.0/16", "2a03:2880::/32", 7, 2),
	network(2906, "45.57.0.0/17", "2a00:86c0::/32", 6, 2),
	network(54113, "151.101.0.0/16", "2a04:4e42::/32", 6, 2),
	network(36459, "140.82.112.0/20", "2606:50c0::/32", 2, 1),
	network(24940, "88.198.0.0/16", "2a01:4f8::/32", 3, 1),
	network(16276, "51.68.0.0/16", "2001:41d0::/32", 2, 1),
	network(3320, "84.128.0.0/10", "2003::/19", 4, 1),
	network(3215, "90.0.0.0/9", "2a01:cb00::/27", 2, 1),
	network(7922, "73.0.0.0/8", "2601::/20", 1, 1),
	network(64496, "198.51.100.0/24", "2001:db8:f000::/36", 1, 1),
}

// strangers scan and flood: addresses kept for documentation (RFC 5737).
var strangers = peer{as: 64511, v4: netip.MustParsePrefix("203.0.113.0/24"), v6: netip.MustParsePrefix("2001:db8:bad::/48"), port: 1}
