package datapath

import (
	"net/netip"
	"slices"
	"testing"

	"weir/bpf"
)

// TestEachBucket: the groups of destinations that a change of a route concerns.
func TestEachBucket(t *testing.T) {
	of := func(p string) (n int, all bool, each []uint32) {
		all = !eachBucket(netip.MustParsePrefix(p), func(i uint32) { n++; each = append(each, i) })
		return n, all, each
	}
	for _, c := range []struct {
		prefix string
		n      int
		all    bool
	}{
		{"0.0.0.0/0", 0, true},
		{"0.0.0.0/3", 0, true},
		{"16.0.0.0/4", 256, false},
		{"10.0.0.0/8", 16, false},
		{"10.0.0.0/12", 1, false},
		{"10.1.2.0/24", 1, false},
		{"255.255.255.255/32", 1, false},
		{"::/0", 0, true},
		{"2001:db8::/23", 0, true},
		{"2001:d00::/24", 256, false},
		{"2001:db8::/29", 8, false},
		{"2001:db8::/32", 1, false},
		{"2001:db8:1:2::/64", 1, false},
		{"ffff:ffff::/128", 1, false},
	} {
		n, all, each := of(c.prefix)
		if n != c.n || all != c.all {
			t.Errorf("%s: %d groups, all %v; want %d, %v", c.prefix, n, all, c.n, c.all)
		}
		for _, i := range each {
			if six := netip.MustParsePrefix(c.prefix).Addr().Is6(); i >= 2*bpf.RouteBuckets || (i >= bpf.RouteBuckets) != six {
				t.Errorf("%s: group %d", c.prefix, i)
			}
		}
	}
	// What is within a prefix is among its groups.
	for _, c := range [][2]string{{"10.0.0.0/8", "10.200.3.4/32"}, {"16.0.0.0/4", "31.255.255.255/32"}, {"2001:db8::/29", "2001:dbf:1::/48"}, {"2001:d00::/24", "2001:dff::/32"}} {
		_, _, wide := of(c[0])
		_, _, narrow := of(c[1])
		if len(narrow) != 1 || !slices.Contains(wide, narrow[0]) {
			t.Errorf("%s is of %v, which are not among those of %s", c[1], narrow, c[0])
		}
	}
}

// TestRows: a row is given again only when no flow can have it any more.
func TestRows(t *testing.T) {
	f := &forwarder{f: &bpf.Forward{Hops: make([]bpf.Hop, bpf.MaxHops)}, fresh: bpf.MaxHops - 1}
	a, ok := f.take()
	if !ok || a != bpf.MaxHops-1 {
		t.Fatalf("took %d, %v", a, ok)
	}
	if _, ok := f.take(); ok {
		t.Fatal("there is a row beyond the last")
	}
	f.f.Hops[a] = bpf.Hop{To: 1, Device: 2, Number: 3, MTU: 1500}
	f.give(a)
	if h := f.f.Hops[a]; h.To != 0 || h.Device != 0 || h.Number != 0 {
		t.Errorf("a row that was given back says %+v", h)
	}
	if row, ok := f.take(); ok {
		t.Errorf("row %d is given while flows may have it", row)
	}
	f.free[0].at = f.free[0].at.Add(-2 * rowRests)
	if row, ok := f.take(); !ok || row != a {
		t.Errorf("took %d, %v, want %d", row, ok, a)
	}
}
