package datapath

import (
	"slices"
	"testing"

	"weir/flow"
	"weir/host"
)

// TestUppers: what is on top of metered interfaces is known if all that leads there
// is metered.
func TestUppers(t *testing.T) {
	links := []host.Interface{
		{Name: "eth0", Index: 2}, {Name: "eth1", Index: 3}, {Name: "eth2", Index: 4, Master: "br0"}, {Name: "eth3", Index: 5, Master: "br0"},
		{Name: "br0", Index: 6}, {Name: "eth0.10", Index: 7, Parent: 2, VLAN: 10}, {Name: "eth0.10.20", Index: 8, Parent: 7, VLAN: 20},
		{Name: "tap0", Index: 9, Master: "br1"}, {Name: "eth1.5", Index: 10, Parent: 3, VLAN: 5, Master: "br1"}, {Name: "br1", Index: 11},
		{Name: "mac0", Index: 12, Parent: 2}, {Name: "red", Index: 13, Kind: "vrf"}, {Name: "eth4", Index: 14, Master: "red"},
		{Name: "br0.7", Index: 15, Parent: 6, VLAN: 7},
	}
	metered := map[uint32]uint32{2: 1, 3: 2, 4: 3, 5: 4, 14: 5}
	got := uppers(links, func(i uint32) (uint32, bool) { n, ok := metered[i]; return n, ok })
	for i := range got {
		if got[i].lower == 0 {
			got[i].number = 0 // of any of them
		}
	}
	want := []upper{
		{ifindex: 6},
		{ifindex: 7, lower: 2, number: 1, vlan: flow.KeyTagged | 10},
		{ifindex: 8, lower: 2, number: 1, vlan: flow.KeyTagged | 10},
		{ifindex: 10, lower: 3, number: 2, vlan: flow.KeyTagged | 5},
		{ifindex: 12, lower: 2, number: 1},
		{ifindex: 13, lower: 14, number: 5},
		{ifindex: 15, vlan: flow.KeyTagged | 7},
	}
	if !slices.Equal(got, want) {
		t.Errorf("uppers\n%+v, want\n%+v", got, want)
	}
	// What is metered itself counts for itself; what something else leads to, too, is none.
	metered[6] = 9
	for _, u := range uppers(links, func(i uint32) (uint32, bool) { n, ok := metered[i]; return n, ok }) {
		if u.ifindex == 6 || u.ifindex == 11 {
			t.Errorf("%d is among the uppers: %+v", u.ifindex, u)
		}
	}
}
