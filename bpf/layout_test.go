package bpf

import (
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf/btf"

	"weir/flow"
	"weir/packet"
)

// TestLayout holds layout.go to flow.h: every member of every struct, its place
// and its size, by what the compiler wrote down of them.
func TestLayout(t *testing.T) {
	spec, err := loadFlow()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		of   any
		size uintptr
	}{
		{"entry", Entry{}, 128},
		{"set", Set{}, 2048},
		{"side", Side{}, 32},
		{"counters", Counters{}, 16 * Reasons},
		{"port", Port{}, 32},
		{"control", Control{}, 136 + 32*PortSlots + 4*2*RouteBuckets},
		{"hop", Hop{}, 64},
		{"hop_key", HopKey{}, 20},
		{"upper_key", upperKey{}, 8},
		{"judged", Judged{}, 64},
		{"hits", Hits{}, 64},
		{"meta", Meta{}, unsafe.Sizeof(Meta{})},
		{"guard_rule", GuardRule{}, 192},
		{"guard_limit", GuardLimit{}, 192},
		{"guard_tally", GuardTally{}, 64},
		{"guard_gates", GuardGates{}, 64},
		{"guard_gate_cpu", guardGateCPU{}, 64},
		{"own", Own{}, 36},
		{"prefix", prefixKey{}, 20},
	} {
		var s *btf.Struct
		if err := spec.Types.TypeByName(c.name, &s); err != nil {
			t.Errorf("struct %s: %v", c.name, err)
			continue
		}
		typ := reflect.TypeOf(c.of)
		if uintptr(s.Size) != typ.Size() || typ.Size() != c.size {
			t.Errorf("struct %s has %d octets, %v %d; %d wanted", c.name, s.Size, typ, typ.Size(), c.size)
		}
		if typ.Kind() == reflect.Struct {
			sameMembers(t, c.name, s, typ)
		}
	}
}

// sameMembers compares all members but those that are spare on either side.
func sameMembers(t *testing.T, name string, s *btf.Struct, typ reflect.Type) {
	fields := make(map[string]reflect.StructField)
	for f := range typ.Fields() {
		if f.Name != "_" {
			fields[strings.ToLower(f.Name)] = f
		}
	}
	for _, m := range s.Members {
		if strings.HasPrefix(m.Name, "spare") {
			continue
		}
		if m.Name == "" { // the union of facts
			m.Name = "facts"
		}
		key := strings.ReplaceAll(m.Name, "_", "")
		f, ok := fields[key]
		if !ok {
			t.Errorf("%s.%s has no field in %v", name, m.Name, typ)
			continue
		}
		delete(fields, key)
		size, err := btf.Sizeof(m.Type)
		if err != nil {
			t.Fatal(err)
		}
		if m.Offset.Bytes() != uint32(f.Offset) || size != int(f.Type.Size()) {
			t.Errorf("%s.%s is at %d with %d octets, %v.%s at %d with %d", name, m.Name, m.Offset.Bytes(), size, typ, f.Name, f.Offset, f.Type.Size())
		}
	}
	for _, f := range fields {
		t.Errorf("%v.%s has no member in struct %s", typ, f.Name, name)
	}
}

// TestConstants holds layout.go's constants to flow.h's, and reasons to
// packet's.
func TestConstants(t *testing.T) {
	have := constants(t, "flow.h")
	want := map[string]uint64{
		"LAYOUT": Layout, "WAYS": Ways, "MAX_PORTS": MaxPorts, "STATE_MASK": StateMask, "NEW_BIT": NewBit, "MARK_CLOSING": MarkClosing,
		"FREE": Free, "CLAIMED": Claimed, "LIVE": Live, "DYING": Dying, "NEW": New,
		"PORT_SLOTS": PortSlots, "PORT_PROBES": PortProbes, "PORT_INGRESS": PortIngress, "PORT_FORWARDS": PortForwards, "PORT_NO_LINK": PortNoLink, "PORT_VLAN": PortVLAN,
		"PORT_LIST_IN": PortListIn, "PORT_LIST_OUT": PortListOut, "PORT_UNRULED_CLOSED": PortUnruledClosed, "PORT_ORPHAN_OPEN": PortOrphanOpen, "PORT_ORPHAN_CLOSED": PortOrphanClosed, "PORT_FULL_OPEN": PortFullOpen, "PORT_FULL_CLOSED": PortFullClosed,
		"PORT_FORWARD": PortForward, "PORT_PARTIAL": PortPartial, "PORT_URPF_STRICT": PortURPFStrict, "PORT_URPF_LOOSE": PortURPFLoose, "PORT_UPPER": PortUpper,
		"LEFT_IPV6": LeftIPv6, "LEFT_SPI4": LeftSPI4, "LEFT_SPI6": LeftSPI6,
		"WHYS": Whys, "MAX_HOPS": MaxHops, "ROUTE_BUCKETS": RouteBuckets, "ROUTE_UNIT": RouteUnit, "ROUTE_HOLDS": RouteHolds, "ROUTE_HOLDS_BRIEFLY": RouteHoldsBriefly, "WHY_OFF": WhyOff, "HOP_ALIVE": HopAlive, "HOP_FRAGS": HopFrags, "HOP_USED_UNIT": HopUsedUnit,
		"FORWARDED": uint64(Forwarded), "WHY_ADDRESSEE": uint64(WhyAddressee), "WHY_ENCAPSULATION": uint64(WhyEncapsulation), "WHY_OPTIONS": uint64(WhyOptions), "WHY_FRAGMENT": uint64(WhyFragment),
		"WHY_TTL": uint64(WhyTTL), "WHY_MTU": uint64(WhyMTU), "WHY_OFFLOAD": uint64(WhyOffload), "WHY_ORPHAN": uint64(WhyOrphan), "WHY_MARTIAN": uint64(WhyMartian), "WHY_CHECKSUM": uint64(WhyChecksum), "WHY_LOCAL": uint64(WhyLocal),
		"WHY_UNREACHABLE": uint64(WhyUnreachable), "WHY_DISABLED": uint64(WhyDisabled), "WHY_LWT": uint64(WhyLWT), "WHY_NEIGHBOUR": uint64(WhyNeighbour), "WHY_OUTPUT": uint64(WhyOutput),
		"WHY_ROUTE_MTU": uint64(WhyRouteMTU), "WHY_HAIRPIN": uint64(WhyHairpin), "WHY_URPF": uint64(WhyURPF), "WHY_ERROR": uint64(WhyError), "WHY_SPI": uint64(WhySPI), "WHY_LOST": uint64(WhyLost),
		"VERDICT_MASK": VerdictMask, "VERDICT_NONE": VerdictNone, "VERDICT_PERMIT": VerdictPermit, "VERDICT_DENY": VerdictDeny, "VERDICT_COUNT": VerdictCount, "VERDICT_REJECT": VerdictReject, "VERDICT_LOG": VerdictLog, "VERDICT_GUARD": VerdictGuard, "VERDICT_UNKEPT": verdictUnkept,
		"GUARD_RULES": GuardRules, "GUARD_PORTS": GuardPorts, "GUARD_LOOKS": guardLooks, "GUARD_COUNT": GuardCount, "GUARD_POLICE": GuardPolice, "GUARD_DROP": GuardDrop, "GUARD_FROM_PORTS": GuardFromPorts, "GUARD_SYN": GuardSYN, "GUARD_BYTE_SHIFT": GuardByteShift, "GUARD_KEPT": GuardKept,
		"GUARD_NEW": GuardNew, "GUARD_FLOOD": GuardFlood, "GUARD_MARKS": GuardMarks, "GUARD_BANK": GuardBank, "GUARD_TAG_WORDS": GuardTagWords, "GUARD_NEAR_WORDS": GuardNearWords, "NEAR_WIDE4": nearWide4, "NEAR_CLOSE4": nearClose4, "NEAR_EXACT4": nearExact4, "NEAR_EXACT6": nearExact6, "NEAR_WIDE6": nearWide6, "NEAR_CLOSE6": nearClose6, "GUARD_HELD": guardHeld, "GUARD_LIMITS": GuardLimits, "GUARD_SLOT": GuardSlot, "GUARD_COST_SHIFT": GuardCostShift, "GUARD_BUCKETS": guardBuckets,
		"GATE_CPU": uint64(GateCPU), "GATE_SOURCE": uint64(GateSource), "GATE_DESTINATION": uint64(GateDestination), "GATES": uint64(Gates),
		"LISTS_BANK": ListsBank, "LISTS_ORPHAN": ListsOrphan, "EVENT_OCTETS": EventOctets,
		"VLAN_ID": flow.VLANMask, "KEY_IPV6": flow.KeyIPv6, "KEY_FRAGMENT": flow.KeyFragment, "KEY_INNER": flow.KeyInner, "KEY_TAGGED": flow.KeyTagged, "KEY_EGRESS": flow.KeyEgress,
		"DECODED": uint64(packet.Decoded), "FILTERED": Filtered, "NOT_SAMPLED": NotSampled, "OWN_EXPORT": OwnExport, "REFUSED": Refused, "CAUGHT": Caught, "METERED": Metered, "DROPPED": Dropped, "UNTOLD": Untold, "REASONS": Reasons,
	}
	for _, r := range packet.Reasons() {
		if uint64(r) >= Filtered {
			t.Errorf("reason %v is %d, where the programs' own begin", r, r)
		}
		name := strings.ToUpper(strings.ReplaceAll(r.String(), "-", "_"))
		want[strings.NewReplacer("ADDRESS_FAMILY", "FAMILY", "BAD_IP_VERSION", "BAD_VERSION").Replace(name)] = uint64(r)
	}
	for name, v := range want {
		if got, ok := have[name]; !ok || got != v {
			t.Errorf("%s is %d in flow.h (there: %v), %d in Go", name, got, ok, v)
		}
		delete(have, name)
	}
	for name := range have {
		t.Errorf("%s is in flow.h only", name)
	}
	if got := constants(t, "maps.h")["TOUCHED_SETS"]; got != TouchedSets {
		t.Errorf("TOUCHED_SETS is %d in maps.h, %d in Go", got, TouchedSets)
	}
	if New&^NewBit != Live {
		t.Error("a look-up that masks NewBit does not take New for Live")
	}
}

var (
	comments = regexp.MustCompile(`(?s)/\*.*?\*/`)
	defines  = regexp.MustCompile(`(?m)^#define\s+(\w+)\s+(0[xX][0-9a-fA-F]+|[0-9]+)u?\s*$`)
	enums    = regexp.MustCompile(`(?s)enum\s+\w*\s*\{(.*?)\}`)
)

// constants are the numbers that a header defines, and its enumerators.
func constants(t *testing.T, path string) map[string]uint64 {
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]uint64)
	number := func(s string) uint64 {
		n, err := strconv.ParseUint(s, 0, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	text := comments.ReplaceAllString(string(b), "")
	for _, m := range defines.FindAllStringSubmatch(text, -1) {
		all[m[1]] = number(m[2])
	}
	for _, m := range enums.FindAllStringSubmatch(text, -1) {
		next := uint64(0)
		for name := range strings.SplitSeq(m[1], ",") {
			name, value, given := strings.Cut(strings.TrimSpace(name), "=")
			if name = strings.TrimSpace(name); name == "" {
				continue
			}
			if given {
				next = number(strings.TrimSpace(value))
			}
			all[name] = next
			next++
		}
	}
	return all
}
