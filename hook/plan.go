package hook

import (
	"fmt"
	"strings"

	"github.com/vishvananda/netlink"

	"weir/host"
)

// Plan is how an interface is, or would be, metered.
type Plan struct {
	Interface string
	Ifindex   uint32
	Driver    string
	Want      Mode
	Mode      Mode     // XDP, TC or AFPacket
	Spots     []Spot   // in the order of attaching; none for AFPacket
	NoLink    bool     // frames start with the IP header: bpf.PortNoLink
	Why       string   // of Mode: "native, driver veth"
	Notes     []string // what the operator should know besides, a clause each

	kernel *Features
	facts  facts
}

// Spot is a point and how a program gets there.
type Spot struct {
	Point Point
	How   How
}

// String is the plan in one line: "eth0: xdp (native, driver veth), egress by tcx".
func (p *Plan) String() string {
	s := fmt.Sprintf("%s: %s (%s)", p.Interface, p.Mode, p.Why)
	var by []string
	for _, at := range p.Spots {
		if at.Point != AtXDP {
			by = append(by, fmt.Sprintf("%s by %s", at.Point, at.How))
		}
	}
	if len(by) > 0 {
		s += ", " + strings.Join(by, ", ")
	}
	return strings.Join(append([]string{s}, p.Notes...), "; ")
}

// Ingress says whether a program counts what comes in: bpf.PortIngress.
func (p *Plan) Ingress() bool { return p.has(AtXDP) || p.has(Ingress) }

func (p *Plan) has(point Point) bool {
	for _, s := range p.Spots {
		if s.Point == point {
			return true
		}
	}
	return false
}

// facts are what decides about an interface.
type facts struct {
	name     string
	index    uint32
	kind     string // netlink's
	driver   string
	mtu      int
	loopback bool
	link     LinkType
	arphrd   uint16
	features xdpFeatures
	told     bool     // the kernel told of features
	members  []string // of a bond: interfaces whose driver would run the program
	on       []attached
	own      []Attachment // ours, alive, on this interface
}

// tentative is a note of plans that Attach has not seen through yet.
const tentative = "this kernel does not tell what a driver has: if not XDP, it will be tc"

// maxOneBuffer is the MTU up to which a frame is sure to fit a page with what
// XDP needs around it, in about every driver (veth 3506, ixgbe 3050).
const maxOneBuffer = 3000

// Plan says how an interface would be metered; own are our programs that are
// there already (List), nil if none. Nothing is attached for it: a kernel
// before 6.3 does not tell what a driver can, and Attach will see. An explicit
// mode that cannot be had is an error that says why and what to do.
func (k *Features) Plan(i host.Interface, want Mode, own []Attachment) (*Plan, error) {
	p := &Plan{Interface: i.Name, Ifindex: i.Index, Want: want, kernel: k}
	for _, a := range own {
		if a.Ifindex == i.Index && a.Alive {
			p.facts.own = append(p.facts.own, a)
		}
	}
	if want == AFPacket {
		return p.sockets("as asked"), nil
	}
	if k.Refused != nil {
		return p.without(k.Refused.Error())
	}
	f, err := look(k, i)
	if err != nil {
		return nil, err
	}
	f.own = p.facts.own
	p.facts, p.Driver, p.NoLink = f, f.driver, f.link == RawIP
	if f.link == Unknown {
		return p.without(fmt.Sprintf("the link type of %s frames (ARPHRD %d) is not one that programs in the kernel read", f.kind, f.arphrd))
	}
	if want != TC {
		why, not := f.xdp(k)
		if not == "" {
			p.Mode, p.Why = XDP, why
			if !f.told && !f.holds(AtXDP) {
				p.Notes = append(p.Notes, tentative)
			}
			p.Spots = []Spot{{AtXDP, k.xdpHow()}, {Egress, k.tcHow()}}
			return p.placed()
		}
		if want == XDP {
			return nil, fmt.Errorf("%s: XDP is not to be had: %s; use --mode tc, or auto", i.Name, not)
		}
		p.Why = not
	} else {
		p.Why = "as asked"
	}
	p.tc()
	return p.placed()
}

// tc makes it a plan for TC alone.
func (p *Plan) tc() {
	p.Mode = TC
	p.Spots = []Spot{{Ingress, p.kernel.tcHow()}}
	if p.facts.loopback {
		p.Notes = append(p.Notes, "what lo sends it also receives: ingress only")
		return
	}
	p.Spots = append(p.Spots, Spot{Egress, p.kernel.tcHow()})
}

// without is what is left when no program can be had.
func (p *Plan) without(why string) (*Plan, error) {
	if p.Want != Auto {
		return nil, fmt.Errorf("%s: mode %s is not to be had: %s; use --mode afpacket, or auto", p.Interface, p.Want, why)
	}
	return p.sockets(why), nil
}

// sockets makes it a plan for AF_PACKET.
func (p *Plan) sockets(why string) *Plan {
	p.Mode, p.Why, p.Spots, p.Notes = AFPacket, why, nil, nil
	if len(p.facts.own) > 0 {
		p.Notes = []string{"programs of an earlier weir still count here, unless they are taken off: weir meter --detach -i " + p.Interface}
	}
	return p
}

// placed looks at who else is where the plan goes.
func (p *Plan) placed() (*Plan, error) {
	for _, s := range p.Spots {
		if s.How != Clsact {
			continue
		}
		if not, err := clsactRefused(p.Ifindex, s.Point); err != nil {
			return nil, err
		} else if not != "" {
			return p.without(not)
		}
	}
	p.Notes = append(p.Notes, p.facts.company(p)...)
	return p, nil
}

func (k *Features) xdpHow() How {
	if k.Link {
		return Link
	}
	return Netlink
}

func (k *Features) tcHow() How {
	if k.TCX {
		return TCX
	}
	return Clsact
}

// look gathers what decides about an interface.
func look(k *Features, i host.Interface) (facts, error) {
	f := facts{name: i.Name, index: i.Index, kind: i.Kind, driver: driver(i.Name), mtu: i.MTU}
	if f.driver == "" {
		f.driver = i.Driver
	}
	var err error
	if f.arphrd, err = hardwareType(i.Name); err != nil {
		return f, err
	}
	f.link = linkType(f.arphrd)
	f.loopback = i.Index == loopback
	if !k.options.NoFeatures {
		f.features, f.told = driverFeatures(i.Index)
	}
	if i.Kind == "bond" || i.Kind == "team" {
		all, err := host.Links()
		if err != nil {
			return f, err
		}
		for _, m := range all {
			if m.Master == i.Name {
				f.members = append(f.members, m.Name)
			}
		}
	}
	if f.on, err = onInterface(i.Index); err != nil {
		return f, fmt.Errorf("%s: %w", i.Name, err)
	}
	return f, nil
}

// xdp says why XDP it is, or why not.
func (f *facts) xdp(k *Features) (why, not string) {
	name, device := f.kind, f.kind
	if f.driver != "" {
		name, device = "driver "+f.driver, f.driver
	}
	if k.options.Generic {
		why = "generic, on demand: slow"
	} else {
		why = "native, " + name
	}
	// Those first that are true whoever is there.
	switch {
	case k.options.NoXDP:
		return "", "XDP is switched off by option"
	case f.loopback && !k.options.Generic:
		return "", "lo has no XDP"
	case f.link == RawIP:
		return "", device + " has no Ethernet header, XDP is not to be had"
	case len(f.members) > 0:
		return "", fmt.Sprintf("the XDP program of a %s runs in its members (%s) and sees their names", f.kind, strings.Join(f.members, ", "))
	case f.told && f.features&xdpBasic == 0 && !k.options.Generic:
		return "", name + " has no XDP here"
	case f.mtu > maxOneBuffer && !k.Fragments:
		return "", fmt.Sprintf("MTU %d is too large for XDP on kernel %s, which has no XDP fragments", f.mtu, k.Release)
	case f.mtu > maxOneBuffer && f.told && f.features&xdpFrags == 0 && !k.options.Generic:
		return "", fmt.Sprintf("MTU %d is too large for XDP: %s has no XDP fragments", f.mtu, name)
	}
	for i := range f.on {
		if a := f.on[i]; a.Point == AtXDP && !a.ours(f.own) {
			a.Describe()
			return "", a.Other.String() + " is there already"
		}
	}
	return why, ""
}

// holds says whether a program of ours is alive at a point.
func (f *facts) holds(point Point) bool {
	for _, a := range f.own {
		if a.Point == point {
			return true
		}
	}
	return false
}

// company says of others what concerns a plan: those that run before our
// program may keep packets from it.
func (f *facts) company(p *Plan) (notes []string) {
	for _, a := range f.on {
		if a.Point == AtXDP && !p.has(AtXDP) && !a.ours(f.own) {
			notes = append(notes, fmt.Sprintf("what %s (id %d) drops or redirects is not counted", a.Name, a.Program))
		}
	}
	for _, s := range p.Spots {
		if s.Point == AtXDP {
			continue
		}
		mine := -1 // where ours is
		var there []attached
		for _, a := range f.on {
			if a.Point == s.Point {
				if a.ours(f.own) {
					mine = len(there)
				}
				there = append(there, a)
			}
		}
		for i, a := range there {
			if i == mine {
				continue
			}
			before := mine >= 0 && i < mine
			if mine < 0 { // new ones go first, where that is possible
				before = s.How == Clsact && (a.How == TCX || a.Priority < clsactPriority(there))
			}
			if before {
				a.Describe()
				notes = append(notes, a.Other.String()+" runs before ours and may keep packets from it")
			} else {
				notes = append(notes, a.Other.String()+" stays, after ours")
			}
		}
	}
	return notes
}

// device is what netlink's calls about an interface want to be given.
func device(ifindex uint32) netlink.Link {
	return &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: int(ifindex)}}
}
