// Package acl is the access lists: what people type, what it means for a packet,
// and the classifier that says so at the same cost for sixteen rules and for
// thousands.
//
// In: a file of Cisco's extended access lists or weir's YAML, or a foreign rule
// set. Out: a Policy, which is checked, printed, compiled (Compile) and asked
// (Evaluate, Bank.Classify).
//
// A list is read from top to bottom; the first rule that matches decides; behind
// the last stands an implicit deny (IPv6: behind implicit permits of neighbour
// discovery, as in IOS). A list judges the packets of its family at one
// interface in one direction.
//
// Evaluate reads the rules as they are written, one after the other: it is the
// definition. Bank.Classify, and its twin in the kernel, are held to it by tests.
package acl

import (
	"fmt"
	"math/bits"
	"net/netip"
	"time"

	"weir/flow"
)

// Limits of what can be compiled.
const (
	MaxRules = 1 << 15 // of one list
	MaxIDs   = 1 << 16 // rules of all lists that exist at a time, those that live flows still point to among them
)

// Policy is all that is filtered by: lists, what they refer to, and where they are
// applied.
type Policy struct {
	Lists    []*List // in the order of the file; names are unique within a family
	Groups   []*Group
	Times    []*TimeRange
	Bindings []Binding
}

// Family is a list's address family.
type Family uint8

const (
	IPv4 Family = iota
	IPv6
)

// Direction is the way a list is applied at an interface.
type Direction uint8

const (
	In Direction = iota
	Out
)

// Binding applies a list at an interface (ip access-group NAME in, ipv6
// traffic-filter NAME in).
type Binding struct {
	Interface string
	Direction Direction
	Family    Family
	List      string
	Pos       Pos
}

// List is an access list.
type List struct {
	Name    string // as typed; numbered lists have their number's digits
	Family  Family
	Rules   []*Rule  // by ascending Seq
	Remarks []string // behind the last rule
	Pos     Pos
}

// Action is what a rule does.
type Action uint8

const (
	Deny Action = iota
	Permit
)

// Log is what a rule tells of its matches.
type Log uint8

const (
	NoLog    Log = iota
	LogFlow      // log: the first packet of a flow, then sums
	LogInput     // log-input: also where it came in
)

// AnyProto is a Rule.Proto that all packets have.
const AnyProto = -1

// Rule is one line of a list.
type Rule struct {
	Seq    uint32 // 1 to 2147483647
	Action Action
	Reject bool  // a deny that answers: TCP by RST, the rest by ICMP "administratively prohibited"
	Proto  int16 // IP protocol, or AnyProto

	Src, Dst Addrs
	// SrcPorts and DstPorts: of TCP, UDP, UDP-Lite, SCTP and DCCP only.
	SrcPorts, DstPorts Ports
	ICMP               []ICMP // any of these; none: all. Of protocols 1 and 58 only
	Flags              Flags  // of TCP only

	// Fragments: later fragments only (Cisco's `fragments`). Without it a rule
	// that asks for nothing of layer 4 (ports, ICMP, flags) matches later
	// fragments like other packets; one that does, matches a later fragment if
	// it permits and the rest matches, and not if it denies.
	Fragments bool

	TOS     TOS
	TTL     []Range // 0 to 255, any of these; none: all
	Lengths []Range // octets of the IP packet (IE 1), any of these; none: all. What is longer than 65535 counts as 65535

	Log     Log
	Time    string   // name of a TimeRange outside of which the rule is not there; "": always
	Remarks []string // the remarks before it
	Pos     Pos
}

// Layer4 says whether the rule asks for something that later fragments do not
// have.
func (r *Rule) Layer4() bool {
	return !r.SrcPorts.Any() || !r.DstPorts.Any() || len(r.ICMP) > 0 || !r.Flags.None()
}

// Addrs are addresses: all (the zero value), or those in a group, or in any of
// some networks.
type Addrs struct {
	Group string // of kind GroupNetwork
	Nets  []Net
}

// Any says whether these are all addresses.
func (a *Addrs) Any() bool { return a.Group == "" && len(a.Nets) == 0 }

// Net is the addresses that agree with Addr in the bits set in Care, which need
// not be contiguous: Cisco's wildcard masks, inverted. IPv4 is v4-mapped, with
// the first 96 bits cared for. Addr has no bit that Care has not.
type Net struct {
	Addr, Care flow.Addr
}

// NetFrom is a prefix as a Net.
func NetFrom(p netip.Prefix) Net {
	n := p.Bits()
	if p.Addr().Is4() {
		n += 96
	}
	var care flow.Addr
	for i := range care {
		k := min(max(n-8*i, 0), 8)
		care[i] = ^byte(0xff >> k)
	}
	return NewNet(flow.AddrFrom(p.Addr()), care)
}

// NewNet is a Net of addresses that agree with addr in care.
func NewNet(addr, care flow.Addr) Net {
	for i := range addr {
		addr[i] &= care[i]
	}
	return Net{addr, care}
}

// Contains says whether a is one of them.
func (n *Net) Contains(a flow.Addr) bool {
	for i := range a {
		if a[i]&n.Care[i] != n.Addr[i] {
			return false
		}
	}
	return true
}

// Prefix is n as a prefix, if its wildcard is one; IPv4 unmapped.
func (n *Net) Prefix() (netip.Prefix, bool) {
	length, ended := 0, false
	for _, b := range n.Care {
		ones := bits.LeadingZeros8(^b)
		if ended && b != 0 || b<<ones != 0 {
			return netip.Prefix{}, false
		}
		length += ones
		ended = ended || ones < 8
	}
	if n.Addr.Is4() && length >= 96 {
		return netip.PrefixFrom(n.Addr.Netip(), length-96), true
	}
	return netip.PrefixFrom(netip.AddrFrom16(n.Addr), length), true
}

// Family is the one whose addresses n has. The IPv6 addresses that v4-mapped
// ones are among are IPv6.
func (n *Net) Family() Family {
	for _, b := range n.Care[:12] {
		if b != 0xff {
			return IPv6
		}
	}
	if !n.Addr.Is4() {
		return IPv6
	}
	return IPv4
}

// Range is the numbers from From to To, both included.
type Range struct{ From, To uint16 }

// Ports are port numbers: all (the zero value), or those in a group, or in any
// of some ranges.
type Ports struct {
	Group  string // of kind GroupService
	Ranges []Range
}

// Any says whether these are all ports.
func (p *Ports) Any() bool { return p.Group == "" && len(p.Ranges) == 0 }

// ICMP is a type, and a code or -1 for all.
type ICMP struct {
	Type uint8
	Code int16
}

// Flags are a condition on the TCP flags octet. The zero value is none.
// Established is {MatchAny, ACK|RST, 0}.
type Flags struct {
	MatchAny   bool // one of them is enough; else all
	Set, Clear uint8
}

// None says whether there is no condition.
func (f Flags) None() bool { return f.Set == 0 && f.Clear == 0 }

// Match says whether an octet of flags meets the condition.
func (f Flags) Match(v uint8) bool {
	switch {
	case f.None():
		return true
	case f.MatchAny:
		return v&f.Set != 0 || ^v&f.Clear != 0
	}
	return v&f.Set == f.Set && v&f.Clear == 0
}

// Established is what Cisco's keyword asks for: the packet is not a
// connection's first.
var Established = Flags{MatchAny: true, Set: flow.ACK | flow.RST}

// TOS is a condition on the TOS octet or traffic class: dscp has mask 0xfc,
// precedence 0xe0, tos 0x1e. The zero value is none.
type TOS struct{ Mask, Value uint8 }

// Match says whether an octet meets the condition.
func (t TOS) Match(v uint8) bool { return v&t.Mask == t.Value }

// GroupKind says what is in a group.
type GroupKind uint8

const (
	GroupNetwork GroupKind = iota // object-group network
	GroupService                  // object-group service: ports
)

// Group is a named set that rules refer to.
type Group struct {
	Name   string
	Kind   GroupKind
	Nets   []Net    // of either family; a list takes those of its own
	Ports  []Range  // of GroupService
	Groups []string // groups in this one; of its kind, and without circles
	Remark string
	Pos    Pos
}

// TimeRange is when rules are there: between Start and End, where given, and, if
// there are Periods, within one of them. Times of day are local.
type TimeRange struct {
	Name       string
	Start, End time.Time // zero: unbounded
	Periods    []Period
	Pos        Pos
}

// Period recurs every week.
type Period struct {
	Days     uint8 // 1<<time.Sunday | …; the days on which it begins
	From, To int   // minutes of the day, 0 to 1440; To <= From: the day after
	// ToDay of a Cisco `periodic Monday 9:00 to Friday 17:00`, if Span; Days
	// then has one bit.
	Span  bool
	ToDay time.Weekday
}

// Pos is a place in what was read.
type Pos struct {
	File      string
	Line, Col int // from 1; 0: not from a file
}

func (p Pos) String() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Col)
}

func (f Family) String() string    { return [...]string{"ipv4", "ipv6"}[f&1] }
func (d Direction) String() string { return [...]string{"in", "out"}[d&1] }
func (a Action) String() string    { return [...]string{"deny", "permit"}[a&1] }

// List is the list of a name and family, or nil.
func (p *Policy) List(name string, f Family) *List {
	for _, l := range p.Lists {
		if l.Name == name && l.Family == f {
			return l
		}
	}
	return nil
}

// Group is the group of a name, or nil.
func (p *Policy) Group(name string) *Group {
	for _, g := range p.Groups {
		if g.Name == name {
			return g
		}
	}
	return nil
}
