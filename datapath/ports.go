package datapath

import (
	"fmt"
	"sync/atomic"

	"weir/bpf"
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
