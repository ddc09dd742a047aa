// Package host knows the machine weir runs on: its interfaces, and whether it
// is fit for the work.
//
// In: netlink, /proc, /sys. Out: the interfaces to meter, and the findings of
// `weir doctor`, each with the fix. Nothing here changes the machine.
package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weir/config"
)

// Interface is a network interface of this machine.
type Interface struct {
	Name   string
	Index  uint32
	Kind   string // netlink's word: device, veth, bridge, vlan, …
	Driver string // of the hardware; empty for virtual ones
	Master string
	Up     bool
	Routed bool // a unicast route of any table leaves by it; Links does not say
	MTU    int
	Parent uint32 // index of the interface that it is on top of: a VLAN's, a MACVLAN's; 0: none
	VLAN   uint16 // its VLAN's id; 0: none
}

// Interfaces lists all, by index. It reads the whole routing table.
func Interfaces() ([]Interface, error) {
	list, err := Links()
	if err != nil {
		return nil, err
	}
	routed, err := routedLinks()
	for i := range list {
		list[i].Routed = routed[int(list[i].Index)]
	}
	return list, err
}

// Links lists all, by index.
func Links() ([]Interface, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("listing interfaces: %w", err)
	}
	byIndex := map[int]string{}
	for _, l := range links {
		byIndex[l.Attrs().Index] = l.Attrs().Name
	}
	list := make([]Interface, 0, len(links))
	for _, l := range links {
		a := l.Attrs()
		i := Interface{
			Name: a.Name, Index: uint32(a.Index), Kind: l.Type(), Master: byIndex[a.MasterIndex],
			Up: a.RawFlags&unix.IFF_UP != 0, MTU: a.MTU,
		}
		if slices.Contains([]string{"vlan", "macvlan", "ipvlan"}, l.Type()) { // a veth's parent is its peer
			i.Parent = uint32(a.ParentIndex)
		}
		if v, ok := l.(*netlink.Vlan); ok {
			i.VLAN = uint16(v.VlanId)
		}
		if driver, err := os.Readlink(filepath.Join("/sys/class/net", a.Name, "device/driver")); err == nil {
			i.Driver = filepath.Base(driver)
		}
		list = append(list, i)
	}
	slices.SortFunc(list, func(a, b Interface) int { return int(a.Index) - int(b.Index) })
	return list, nil
}

// RoutesByMark says whether marks of packets, which netfilter and sockets set, decide
// where some leave.
func RoutesByMark() bool {
	rules, err := netlink.RuleList(netlink.FAMILY_ALL)
	if err != nil {
		return true // nobody knows
	}
	return slices.ContainsFunc(rules, func(r netlink.Rule) bool { return r.Mark != 0 })
}

// routedLinks are the interfaces that some unicast route leaves by.
func routedLinks() (map[int]bool, error) {
	routed := map[int]bool{}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		err := netlink.RouteListFilteredIter(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC, Type: unix.RTN_UNICAST}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_TYPE, func(r netlink.Route) bool {
			// Every IPv6 interface has its link-local and multicast routes: no sign of use.
			if family == netlink.FAMILY_V6 && r.Dst != nil && (r.Dst.IP.IsLinkLocalUnicast() || r.Dst.IP.IsMulticast()) {
				return true
			}
			routed[r.LinkIndex] = true
			for _, hop := range r.MultiPath {
				routed[hop.LinkIndex] = true
			}
			return true
		})
		if errors.Is(err, unix.EAFNOSUPPORT) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, fmt.Errorf("listing routes: %w", err)
		}
	}
	return routed, nil
}

// Default picks those to meter when nobody says which: up, with a route, and
// no part of a bridge or bond, so that a packet is counted once.
func Default(all []Interface) []Interface {
	var chosen []Interface
	for _, i := range all {
		if i.Up && i.Routed && i.Master == "" {
			chosen = append(chosen, i)
		}
	}
	return chosen
}

// Find picks interfaces by name. An unknown name is an error that lists those
// there are.
func Find(all []Interface, names []string) ([]Interface, error) {
	known := make([]string, len(all))
	for i := range all {
		known[i] = all[i].Name
	}
	var chosen []Interface
	for _, n := range names {
		at := slices.Index(known, n)
		if at < 0 {
			hint := ""
			if s := config.Suggest(n, known); s != "" {
				hint = fmt.Sprintf(" (did you mean %q?)", s)
			}
			return nil, fmt.Errorf("no interface %q here; there are: %s%s", n, strings.Join(known, ", "), hint)
		}
		chosen = append(chosen, all[at])
	}
	return chosen, nil
}
