// Package bpf is the kernel's side of the flow cache: the programs that meter
// packets where they pass, and the memory they share with Go.
//
// In: frames, at XDP and TC hooks. Out: the flow table and the counters of what
// makes no flow, mapped into this process (Memory). Every packet is passed on.
//
// flow.h says what the memory looks like and who writes what; parse.h reads
// headers as package packet does; flow.bpf.c is read from top to bottom: parse,
// choose, look up, count. The objects are built from it by bpf2go and
// committed.
package bpf

import "weir/flow"

// Constants of flow.h.
const (
	Layout   = 4
	Ways     = 15
	MaxPorts = 256

	Free    = 0
	Claimed = 1
	Live    = 2
	Dying   = 3
	New     = 6 // Live, and has counted one packet

	StateMask = 0xff
	NewBit    = 0x04

	MarkClosing = 1

	PortSlots         = 1024
	PortProbes        = 8
	PortIngress       = 1
	PortForwards      = 2
	PortNoLink        = 4
	PortListIn        = 8      // lists judge what comes in,
	PortListOut       = 0x10   // what leaves
	PortUnruledClosed = 0x20   // what no list judges does not pass
	PortOrphanOpen    = 0x40   // without a daemon all pass,
	PortOrphanClosed  = 0x80   // or none
	PortFullOpen      = 0x100  // what finds no place in the table passes,
	PortFullClosed    = 0x200  // or does not
	PortForward       = 0x400  // what comes in is forwarded by the program
	PortPartial       = 0x800  // frames may come from this machine, with checksums that are yet to be made
	PortURPFStrict    = 0x1000 // sources are reached by the interface that they come in by,
	PortURPFLoose     = 0x2000 // or by any
	PortUpper         = 0x4000 // it is on top of metered ones
	PortVLAN          = 16     // Flags>>PortVLAN: flow.KeyTagged and the id, of a VLAN's interface on top of a metered one

	LeftIPv6 = 1 // of Port.Left: forwarding of IPv6 is off for the whole machine,
	LeftSPI4 = 2 // multipath routes of IPv4 look at ports, and at the SPI like those,
	LeftSPI6 = 4 // of IPv6

	MaxRules = 1 << 16

	// Of Filtered.Out and Entry.Verdict: generation << 32 | rule << 16 | class << 8 | one of these.
	VerdictMask   = 0x03
	VerdictNone   = 0x00 // no list judges it: it passes
	VerdictPermit = 0x01
	VerdictDeny   = 0x02
	VerdictCount  = 0x04 // with the last: it passes all the same
	VerdictReject = 0x08 // with it: the sender is told
	VerdictLog    = 0x10
	VerdictGuard  = 0x20 // of a packet, not of an entry: the guard stops it,
	verdictUnkept = 0x40 // and its flow is not entered

	ListsBank   = 1 // which of the two banks
	ListsOrphan = 2

	EventOctets = 128

	CatchAllSets = (2*MaxPorts + Ways - 1) / Ways
	TouchedSets  = 64 // sets that one word of Memory.Touched stands for
)

// Indexes of Counters; those below are packet.Reason's.
const (
	Filtered = 24 + iota
	NotSampled
	OwnExport
	Refused // found no place: counted in an aggregate, not lost
	Caught  // of those, in a catch-all
	Metered // only where keys have no input interface
	Dropped // by a list: in flows, or under another reason
	Untold  // events that there were too many of
	Reasons = 32
)

// Set is half a page: entries and, in the line behind them, who owns each.
type Set struct {
	Entry [Ways]Entry
	Word  [Ways]uint32 // state, and 24 bits of the key's hash: compare-and-exchange only
	_     uint32
	Note  [Ways]uint32 // the daemon's alone, 0 at rest: what of a record on its way the entry no longer says
	_     uint32
}

// Entry is one flow: two cache lines, as cache.Entry. What the programs write
// is read and changed by sync/atomic only.
type Entry struct {
	Packets, Bytes uint64 // grow while the entry lives
	Key            flow.Key
	Closing        uint32 // second of the kernel's clock, rounded up, of the first FIN or RST
	First          uint64 // ns of the kernel's clock; 0: set by the next packet
	Last           uint64
	Verdict        uint64    // what the lists say
	Route          uint64    // generation << 32 | when << 16 | a Why, or a row of the next hops
	Rate           [2]uint64 // what the guard does with it, see GuardRow, and what it has used of its limits
	Facts          Facts
	Incarnation    uint32 // records the slot has given
	Output         uint32 // ifindex; 0: unknown
}

// Facts are TCP flags, mark, lengths and TTLs in one word, as flow.h has them
// on a little-endian machine.
type Facts uint64

// NoFacts is before the first packet.
const NoFacts Facts = 0xffff<<16 | 0xff<<48

func (f Facts) TCPFlags() uint8   { return uint8(f) }
func (f Facts) Mark() uint8       { return uint8(f >> 8) }
func (f Facts) MinLength() uint16 { return uint16(f >> 16) }
func (f Facts) MaxLength() uint16 { return uint16(f >> 32) }
func (f Facts) MinTTL() uint8     { return uint8(f >> 48) }
func (f Facts) MaxTTL() uint8     { return uint8(f >> 56) }

// Side is the daemon's alone: what of an entry has been handed on. Bank
// [Incarnation&1] is what was; the other is what it will be once the record on
// its way is handed on, which there is if that bank counts more packets.
type Side struct {
	Bank [2]struct{ Packets, Bytes uint64 }
}

// Judged stands beside an entry, if there are lists: written anew when the entry
// is, then changed by the programs.
type Judged struct {
	CreditedPackets, CreditedBytes uint64 // of the entry's: in Hits already, of rules that the verdict is no longer from
	DroppedPackets, DroppedBytes   uint64 // and not yet in a record
	Out                            uint64 // as Entry.Verdict: at the interface where it leaves, if it came in by another
	OutPackets, OutBytes           uint64 // judged by that, since it is from this rule
	HeldUntil                      uint64 // the guard's penalty
}

// Hits are what a rule has decided of, by its number. Beside this, entries with a
// verdict from it have what is not credited of them.
type Hits struct {
	DirectPackets, DirectBytes   uint64 // the programs add
	RetiredPackets, RetiredBytes uint64 // of entries that have left: the daemon's alone
	Last                         uint64 // ns of the kernel's clock: the daemon's alone
	_                            [3]uint64
}

// Event is what stands in front of a packet's first octets, which a rule wants
// logged or answered.
type Event struct {
	Now      uint64 // ns of the kernel's clock
	Word     uint64 // as Entry.Verdict
	Port     uint32
	Network  uint32 // where in the octets the IP header begins
	Octets   uint32
	Rejected uint32 // 1: it was dropped, and its sender is to be told
}

// Count is packets and octets.
type Count struct{ Packets, Bytes uint64 }

// Counters are of one port and direction.
type Counters [Reasons]Count

// Port is a metered interface, or one on top of some.
type Port struct {
	Ifindex, Number, Flags uint32
	Lower                  uint32 // the metered interface below, which keys have; 0: none, or not the only one
	MAC                    uint64 // its six octets in memory, then 0
	Left                   uint32 // what the kernel alone forwards
	_                      uint32
}

// Control is what the daemon tells the programs while they run.
type Control struct {
	Pressure   uint32
	Sample     uint32 // a packet is looked at if a random uint32 is below this; 0: every packet
	_          uint32
	SampleRest uint32 // 32 more bits of Sample, behind the point
	TestClock  uint64
	JiffiesNs  uint64 // written by tell_time: the entries' clock, and
	MonoNs     uint64 // CLOCK_MONOTONIC at the same moment

	CorrectUntil uint64 // the programs': until then, what is forwarded is looked up where it leaves
	Correct      uint64 // not 0: at all times
	Guard        uint64 // generation << 32 | GuardKept | rows of the guard's rules that are looked at
	OwnNear      uint64 // a bit each for where own exports go to, mixed

	// Which lists are in force: generation << 32 | ListsBank | ListsOrphan; 0: none.
	Lists      uint64
	Trial      uint64 // until TrialUntil: these instead; 0: no change is on trial
	TrialUntil uint64
	Orphan     uint64 // from AliveUntil on: these instead; 0: lists stay as they are without a daemon
	AliveUntil uint64
	Generation uint64 // the last that was given

	ForwardUntil uint64 // from then on, which the daemon puts off, the kernel forwards; 0: it need not be put off

	Routes   uint32 // of a route's generation, the part that all destinations have,
	GuardOff uint32 // not 0: the guard stops nothing
	Port     [PortSlots]Port
	RoutesTo [2 * RouteBuckets]uint32 // and that of those near each other
}

// Meta is what one daemon leaves for the next.
type Meta struct {
	Layout, Sets, AggregateSets, KeyMode uint32
	Secret                               [8]uint64
	Netns                                uint64 // cookie of the network namespace
	Born                                 uint64 // Unix ns: the zero of export's sysUptime
	Boot                                 uint32 // 12 bits of every flow id
	Sample                               uint32 // 1:N
	TickNs                               uint64
	Leaving                              [3]uint64    // a sum of Retired before the change under way: whose it is, packets, octets
	TestClock                            uint64       // 1: the clock is Control's
	LeavingHits                          [2][3]uint64 // two rules' sums of Hits before that change: rule+1 or 0, packets, octets
	_                                    [7]uint64
	Retired                              [2 * MaxPorts]Count // what left the table, by port number*2 + egress
	Told                                 Counters            // of all ports' counters: what is in a daemon's account already
	Sequence                             [256]uint64         // the exporter's
}

// Flag is an element of Memory.Touched: the kernel's arrays give each element a
// multiple of eight octets.
type Flag struct{ Word, _ uint32 }

// Memory is the table as the kernel and this process share it.
type Memory struct {
	Sets       []Set // the flows, then the aggregates, then the catch-alls
	Flows      int   // sets of flows
	Aggregates int   // sets of overflow aggregates
	Sides      []Side
	Touched    []Flag // set to 1 by the programs when they enter something in those TouchedSets sets
	Control    *Control
	Meta       *Meta
}
