// Package hook attaches programs where packets pass, and knows who else is
// there.
//
// In: an interface, the mode that was asked for, the programs. Out: a Plan in
// one sentence; hooks that live on without this process, pinned in a bpffs; what
// is attached, by us and by others; the findings of `weir doctor`.
//
// XDP (driver mode) on ingress and TCX on egress; TCX both ways where XDP is not
// to be had; clsact filters where there is no TCX; nothing of all this, and
// AF_PACKET instead, where the kernel refuses. What others have attached stays
// where it is. NIC settings are not touched.
//
// Everything speaks of the network namespace of the calling thread. Pins are
// in one folder for each network namespace (Folder), which one process at a
// time may hold.
package hook

import (
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
)

// Mode is how an interface is metered, or is wished to be.
type Mode string

const (
	Auto     Mode = "auto" // the best that interface and kernel offer
	XDP      Mode = "xdp"  // ingress by XDP in the driver, egress by TC
	TC       Mode = "tc"   // both ways by TC
	AFPacket Mode = "afpacket"
)

// ParseMode reads what --mode says.
func ParseMode(s string) (Mode, error) {
	switch m := Mode(s); m {
	case Auto, XDP, TC, AFPacket:
		return m, nil
	case "":
		return Auto, nil
	}
	return "", fmt.Errorf("mode %q is none of auto, xdp, tc, afpacket", s)
}

// Point is a place that packets pass on an interface.
type Point string

const (
	AtXDP   Point = "xdp"
	Ingress Point = "ingress" // of TC
	Egress  Point = "egress"  // of TC
)

// How a program is attached to a Point.
type How string

const (
	Link    How = "link"    // XDP by a bpf_link
	TCX     How = "tcx"     // TC by a bpf_link
	Clsact  How = "clsact"  // TC by a filter of the clsact qdisc
	Netlink How = "netlink" // XDP by netlink, without a link
)

// Options force what is otherwise found out. The zero value finds out
// everything.
type Options struct {
	Dir string // where to pin; empty: Dir()

	NoBPF      bool // as if the kernel refused programs
	NoXDP      bool // as if no driver had XDP
	NoFrags    bool // as if XDP could not read frames of several buffers (before 5.18)
	NoLink     bool // as if XDP had no bpf_link (before 5.9)
	NoTCX      bool // as if there were no TCX (before 6.6)
	NoFeatures bool // as if the kernel did not tell what XDP a driver has (before 6.3)

	Generic bool // XDP outside the driver: slow, for tests on interfaces without native XDP
}

// Programs are what Attach attaches; those that a Plan does not need may be
// nil. XDP is the one with fragments where Kernel.Frags says so. The IP ones
// are for interfaces whose frames start with the IP header (Plan.NoLink).
type Programs struct {
	XDP, Ingress, Egress, IngressIP, EgressIP *ebpf.Program
}

// Spot is a point and how to get there.
type Spot struct {
	Point Point
	How   How
}

// Plan is how an interface is, or would be, metered.
type Plan struct {
	Interface string
	Ifindex   uint32
	Driver    string
	Want      Mode
	Mode      Mode     // XDP, TC or AFPacket
	Spots     []Spot   // none for AFPacket
	NoLink    bool     // frames start with the IP header: bpf.PortNoLink
	Why       string   // of Mode, in one sentence: "native, driver veth"
	Notes     []string // what the operator should know besides, a sentence each

	generic bool
	tried   bool // the driver said that it has XDP; else Attach will see
}

// String is the plan in one line: "eth0: xdp (native, driver veth), egress by tcx".
func (p *Plan) String() string {
	var by []string
	for _, s := range p.Spots {
		if s.Point != AtXDP {
			by = append(by, string(s.Point)+" by "+string(s.How))
		}
	}
	s := fmt.Sprintf("%s: %s (%s)", p.Interface, p.Mode, p.Why)
	if len(by) > 0 {
		s += ", " + strings.Join(by, " and ")
	}
	return s
}

// Ingress says whether what comes in is counted by a program: bpf.PortIngress.
func (p *Plan) Ingress() bool {
	for _, s := range p.Spots {
		if s.Point == AtXDP || s.Point == Ingress {
			return true
		}
	}
	return false
}

// Other is a program of somebody else on an interface.
type Other struct {
	Point    Point
	How      How // empty: not a BPF program, Name is the filter's kind
	Program  ebpf.ProgramID
	Name     string
	Pinned   string // a path where it or its link is pinned, if one was found
	Process  string // who holds it, "cilium-agent (pid 812)", if that was found
	Generic  bool   // XDP outside the driver
	Priority uint16 // of a Clsact filter
	First    bool   // runs before ours, or would
}

// String is "XDP program xdp_lb (id 12, pinned at /sys/fs/bpf/lb)".
func (o Other) String() string { return "" }

// Attachment is a program of ours on an interface, as its pin tells.
type Attachment struct {
	Ifindex   uint32
	Interface string // its name; empty if it is not in this network namespace
	Point     Point
	How       How
	Program   ebpf.ProgramID
	Name      string // of the program
	Alive     bool   // false: the interface is gone, or somebody took the program off
	Pin       string
}
