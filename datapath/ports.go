package datapath

import (
	"fmt"
	"slices"
	"sync/atomic"

	"weir/bpf"
	"weir/flow"
	"weir/host"
)

// ports is the table of metered interfaces that the programs search. Only one
// process writes it.
type ports struct{ c *bpf.Control }

// find gives an interface's place, or nil.
func (p ports) find(ifindex uint32) *bpf.Port {
	for i := range uint32(bpf.PortProbes) {
		if at := &p.c.Port[(ifindex+i)%bpf.PortSlots]; at.Ifindex == ifindex {
			return at
		}
	}
	return nil
}

// set enters an interface, or changes its flags.
func (p ports) set(ifindex, flags uint32) error {
	if at := p.find(ifindex); at != nil {
		atomic.StoreUint32(&at.Flags, flags)
		return nil
	}
	at, number := p.place(ifindex), p.free()
	if at == nil || number == 0 {
		p.forget()
		at, number = p.place(ifindex), p.free()
	}
	if at == nil || number == 0 {
		return fmt.Errorf("interface %d: no place among the metered interfaces; at most %d are metered in the kernel at a time", ifindex, bpf.MaxPorts-1)
	}
	at.Number = number
	atomic.StoreUint32(&at.Flags, flags)
	atomic.StoreUint32(&at.Ifindex, ifindex) // what is found is whole
	return nil
}

// setMAC says which frames come to an interface.
func (p ports) setMAC(ifindex uint32, mac uint64) {
	if at := p.find(ifindex); at != nil {
		atomic.StoreUint64(&at.MAC, mac)
	}
}

// An upper is an interface on top of metered ones, which the kernel says that a
// forwarded packet came in by: a VLAN's, a bridge, a VRF.
type upper struct {
	ifindex uint32
	lower   uint32 // the metered one; 0: there are several
	number  uint32 // one's port number
	vlan    uint16 // the tag that what comes in there has on the wire; 0: none
}

// uppers finds them. One that some interface leads to which is not metered is none:
// what comes in by that has been counted nowhere.
func uppers(links []host.Interface, metered func(ifindex uint32) (number uint32, ok bool)) (list []upper) {
	found := map[uint32]upper{}
	whole := map[uint32]bool{} // all that leads there is metered
	note := func(at uint32, u upper, ok bool) {
		before, known := found[at]
		if known && u.lower != before.lower {
			u.lower = 0
		}
		whole[at] = ok && (whole[at] || !known)
		u.ifindex = at
		found[at] = u
	}
	for i := range links {
		base := &links[i]
		if base.Parent != 0 || hasMembers(links, base.Name) {
			continue // what it is on top of is looked at
		}
		number, ok := metered(base.Index)
		climb(links, base, upper{lower: base.Index, number: number}, func(at uint32, u upper) { note(at, u, ok) })
	}
	for at, u := range found {
		if _, own := metered(at); !own && whole[at] {
			list = append(list, u)
		}
	}
	slices.SortFunc(list, func(a, b upper) int { return int(a.ifindex) - int(b.ifindex) })
	return list
}

func hasMembers(links []host.Interface, master string) bool {
	return slices.ContainsFunc(links, func(i host.Interface) bool { return i.Master == master })
}

// climb visits all that is on top of an interface.
func climb(links []host.Interface, at *host.Interface, u upper, visit func(uint32, upper)) {
	const highest = 8 // what is on top of each other; there are no circles
	var up func(at *host.Interface, u upper, left int)
	up = func(at *host.Interface, u upper, left int) {
		for i := range links {
			next := &links[i]
			if left == 0 || next.Parent != at.Index && (at.Master == "" || next.Name != at.Master) {
				continue
			}
			v := u
			if next.Parent == at.Index && next.VLAN != 0 && v.vlan == 0 {
				v.vlan = flow.KeyTagged | next.VLAN // the outermost tag, which keys have
			}
			visit(next.Index, v)
			up(next, v, left-1)
		}
	}
	up(at, u, highest)
}

// setUpper enters one, and takes note of it.
func (p ports) setUpper(u upper) error {
	at := p.find(u.ifindex)
	if at == nil {
		if at = p.place(u.ifindex); at == nil {
			return fmt.Errorf("interface %d: no place among the interfaces on top of metered ones", u.ifindex)
		}
	}
	at.Number = u.number
	atomic.StoreUint32(&at.Lower, u.lower)
	atomic.StoreUint32(&at.Flags, bpf.PortIngress|bpf.PortUpper|uint32(u.vlan)<<bpf.PortVLAN)
	atomic.StoreUint32(&at.Ifindex, u.ifindex)
	return nil
}

// place is where an interface can be entered, or nil.
func (p ports) place(ifindex uint32) *bpf.Port {
	for i := range uint32(bpf.PortProbes) {
		if at := &p.c.Port[(ifindex+i)%bpf.PortSlots]; at.Ifindex == 0 {
			return at
		}
	}
	return nil
}

// free is a number that no interface has; 0: there is none.
func (p ports) free() uint32 {
	var used [bpf.MaxPorts]bool
	for i := range p.c.Port {
		if at := &p.c.Port[i]; at.Ifindex != 0 {
			used[at.Number%bpf.MaxPorts] = true
		}
	}
	for n := uint32(1); n < bpf.MaxPorts; n++ {
		if !used[n] {
			return n
		}
	}
	return 0
}

// forget takes out the interfaces that are metered no longer. What their
// numbers have counted goes on with whoever gets them.
func (p ports) forget() {
	for i := range p.c.Port {
		if at := &p.c.Port[i]; atomic.LoadUint32(&at.Flags) == 0 {
			atomic.StoreUint32(&at.Ifindex, 0)
		}
	}
}

// quiet says that an interface is metered no longer; its flows may still be there.
func (p ports) quiet(ifindex uint32) {
	if at := p.find(ifindex); at != nil {
		atomic.StoreUint32(&at.Flags, 0)
	}
}
