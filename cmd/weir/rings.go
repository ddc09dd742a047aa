package main

import (
	"errors"
	"io"
	"slices"

	"weir/capture"
	"weir/flow"
	"weir/host"
)

// ring is an open interface. It outlives a reload: what comes in between waits
// in it.
type ring struct {
	sources     []capture.Source
	promiscuous bool
}

// openRings gives the sources of the interfaces, those that are open as they
// are. If one cannot be opened, what was open stays so.
func (n *node) openRings(list []host.Interface) ([]capture.Source, error) {
	var all []capture.Source
	for _, i := range list {
		r, open := n.rings[i.Index]
		if promiscuous := n.conf.Interfaces[i.Name].Promiscuous; open && r.promiscuous != promiscuous {
			n.closeRing(i.Index)
			open = false
		}
		if !open {
			sources, err := openInterfaces([]host.Interface{i}, n.conf)
			if err != nil {
				return nil, err
			}
			r = ring{sources, n.conf.Interfaces[i.Name].Promiscuous}
			if n.rings == nil {
				n.rings = map[uint32]ring{}
			}
			n.rings[i.Index] = r
		}
		all = append(all, r.sources...)
	}
	return all, nil
}

// keepRings closes the rings of all other interfaces.
func (n *node) keepRings(list []host.Interface) {
	for index := range n.rings {
		if !slices.ContainsFunc(list, func(i host.Interface) bool { return i.Index == index }) {
			n.closeRing(index)
		}
	}
}

// closeRing closes a ring; what the kernel dropped at it stays in the ledger.
func (n *node) closeRing(index uint32) {
	r := n.rings[index]
	delete(n.rings, index)
	closeAll(r.sources)
	var drops uint64
	for _, s := range r.sources {
		if s, ok := s.(capture.Stats); ok {
			_, d := s.Stats()
			drops += d
		}
	}
	n.retire([]flow.Loss{{Stage: "capture", Reason: kernelDrop, Packets: drops}})
}

// outlived makes the end of an interface that goes away (a tunnel, a
// container's, a USB adapter) the end of its metering, not of all of weir.
func (n *node) outlived(sources []capture.Source) []capture.Source {
	list := make([]capture.Source, len(sources))
	for i, s := range sources {
		list[i] = &outlived{Source: s, node: n}
	}
	return list
}

type outlived struct {
	capture.Source
	node *node
}

func (o *outlived) Read(b *capture.Batch) error {
	err := o.Source.Read(b)
	if !errors.Is(err, capture.ErrGone) {
		return err
	}
	if !o.node.gone.Swap(true) {
		o.node.log.Warn("an interface is gone and no longer metered; when it is there again, SIGHUP takes it up", "error", err)
	}
	return io.EOF
}

func (o *outlived) Stats() (packets, drops uint64) {
	if s, ok := o.Source.(capture.Stats); ok {
		return s.Stats()
	}
	return 0, 0
}

// kernelDrop is the one loss that belongs to a ring rather than to its meter.
const kernelDrop = "kernel-drop"

// withoutDrops is a retired meter's ledger without what its rings go on counting.
func withoutDrops(list []flow.Loss) []flow.Loss {
	for i := range list {
		if list[i].Stage == "capture" && list[i].Reason == kernelDrop {
			list[i].Packets = 0
		}
	}
	return list
}
