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

	"weir/bpf"
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
// nil.
type Programs = bpf.Programs
