// Package ie names the information elements of NetFlow v9 and IPFIX.
//
// In: an enterprise number (0 for IANA's) and an element's number, or a name.
// Out: Element, with the abstract data type (RFC 7012 section 3.1), semantics
// and units. Source: IANA's registry "IP Flow Information Export (IPFIX)
// Entities" (table.go, made by gen.go), and in vendors.go what Cisco's v9 and
// some vendors number apart. Read only; nothing here allocates except the
// names of reverse elements.
package ie

import (
	"slices"
	"strings"
)

//go:generate go run gen.go ../../shared/reference/iana_ipfix_information_elements.xml

// Private enterprise numbers.
const (
	IANA    = 0
	Cisco   = 9
	Reverse = 29305 // RFC 5103: the same number, counted in the other direction
	CERT    = 6871  // YAF
	VMware  = 6876
)

// Type is an abstract data type, numbered as in IANA's sub-registry
// (RFC 5610 section 3.1).
type Type uint8

const (
	OctetArray Type = iota
	Unsigned8
	Unsigned16
	Unsigned32
	Unsigned64
	Signed8
	Signed16
	Signed32
	Signed64
	Float32
	Float64
	Boolean // 1 is true, 2 is false (RFC 7011 section 6.1.5)
	MACAddress
	String
	DateTimeSeconds
	DateTimeMilliseconds
	DateTimeMicroseconds // NTP's 64-bit format
	DateTimeNanoseconds  // NTP's 64-bit format
	IPv4Address
	IPv6Address
	BasicList
	SubTemplateList
	SubTemplateMultiList
	Unsigned256
)

var typeNames = [...]string{
	"octetArray", "unsigned8", "unsigned16", "unsigned32", "unsigned64",
	"signed8", "signed16", "signed32", "signed64", "float32", "float64", "boolean", "macAddress",
	"string", "dateTimeSeconds", "dateTimeMilliseconds", "dateTimeMicroseconds", "dateTimeNanoseconds",
	"ipv4Address", "ipv6Address", "basicList", "subTemplateList", "subTemplateMultiList", "unsigned256",
}

func (t Type) String() string {
	if int(t) < len(typeNames) {
		return typeNames[t]
	}
	return "reserved"
}

// Len is the native length in octets; 0 if the type has none (strings, octet
// arrays, lists).
func (t Type) Len() int {
	switch t {
	case Unsigned8, Signed8, Boolean:
		return 1
	case Unsigned16, Signed16:
		return 2
	case Unsigned32, Signed32, Float32, DateTimeSeconds, IPv4Address:
		return 4
	case MACAddress:
		return 6
	case Unsigned64, Signed64, Float64, DateTimeMilliseconds, DateTimeMicroseconds, DateTimeNanoseconds:
		return 8
	case IPv6Address:
		return 16
	case Unsigned256:
		return 32
	}
	return 0
}

// Integer says whether values are integers, which may be sent in fewer octets
// (reduced-size encoding, RFC 7011 section 6.2).
func (t Type) Integer() bool { return t >= Unsigned8 && t <= Signed64 || t == Unsigned256 }

// Signed says whether values are two's complement integers.
func (t Type) Signed() bool { return t >= Signed8 && t <= Signed64 }

// List says whether values are structured (RFC 6313).
func (t Type) List() bool { return t >= BasicList && t <= SubTemplateMultiList }

// Semantics is what an element's value means, numbered as in IANA's
// sub-registry (RFC 5610 section 3.6).
type Semantics uint8

const (
	DefaultSemantics Semantics = iota
	Quantity
	TotalCounter
	DeltaCounter
	Identifier
	Flags
	ListSemantics
	SNMPCounter
	SNMPGauge
)

var semanticsNames = [...]string{
	"default", "quantity", "totalCounter", "deltaCounter", "identifier",
	"flags", "list", "snmpCounter", "snmpGauge",
}

func (s Semantics) String() string {
	if int(s) < len(semanticsNames) {
		return semanticsNames[s]
	}
	return "reserved"
}

// UnitsNumber is the number of a unit in IANA's sub-registry (RFC 5610 section
// 3.7), 0 for none.
func UnitsNumber(units string) uint16 { return uint16(max(0, slices.Index(unitNames[:], units))) }

// UnitsName is the unit of that number; empty if there is none.
func UnitsName(n uint16) string {
	if int(n) < len(unitNames) {
		return unitNames[n]
	}
	return ""
}

// Element is one information element.
type Element struct {
	PEN       uint32 // 0: IANA
	ID        uint16
	Type      Type
	Semantics Semantics
	Name      string // as in the registry: octetDeltaCount
	Units     string // octets, packets, milliseconds, …; empty: none
}

// Lookup gives the element that an IPFIX field specifier names.
func Lookup(pen uint32, id uint16) (Element, bool) {
	switch pen {
	case IANA:
		if int(id) < len(table) && table[id].Name != "" {
			return table[id], true
		}
		return Element{}, false
	case Reverse:
		e, ok := Lookup(IANA, id)
		if !ok {
			return Element{}, false
		}
		e.PEN, e.Name = Reverse, reverseName(e.Name)
		return e, true
	case CERT:
		if id&certReverse != 0 {
			e, ok := vendors[vendorKey{CERT, id &^ certReverse}]
			if !ok {
				return Element{}, false
			}
			e.ID, e.Name = id, reverseName(e.Name)
			return e, true
		}
	}
	e, ok := vendors[vendorKey{pen, id}]
	return e, ok
}

// LookupV9 gives the element of a v9 field type: IANA's number as far as the
// registry goes (v9 came first: the first 127 are the same), then those that
// vendors took above.
func LookupV9(id uint16) (Element, bool) {
	if e, ok := Lookup(IANA, id); ok {
		return e, true
	}
	e, ok := v9Types[id]
	return e, ok
}

// Reversible says whether IANA's element may be counted of the other direction,
// as element of Reverse (RFC 5103 section 6.1). What names the observation, or
// tells of the exporter and not of the flow, may not.
func Reversible(id uint16) bool {
	switch id {
	case IDExportedOctetTotalCount, IDExportedMessageTotalCount, IDExportedFlowRecordTotalCount,
		IDObservedFlowTotalCount, IDIgnoredPacketTotalCount, IDIgnoredOctetTotalCount,
		IDNotSentFlowTotalCount, IDNotSentPacketTotalCount, IDNotSentOctetTotalCount,
		IDExporterIPv4Address, IDExporterIPv6Address, IDCommonPropertiesId, IDTemplateId, IDFlowId, IDObservationDomainId,
		IDFlowKeyIndicator, IDPaddingOctets, IDCollectorIPv4Address, IDCollectorIPv6Address, IDExportInterface,
		IDExportProtocolVersion, IDExportTransportProtocol, IDCollectorTransportPort, IDExporterTransportPort,
		IDBiflowDirection:
		return false
	}
	_, ok := Lookup(IANA, id)
	return ok
}

var scopeNames = [...]string{1: "system", "interface", "lineCard", "cache", "template"}

// ScopeV9 names a scope field type of a v9 options template (RFC 3954
// section 6.1); empty if it has none.
func ScopeV9(scope uint16) string {
	if int(scope) < len(scopeNames) {
		return scopeNames[scope]
	}
	return ""
}

// ByName gives the element with that name: IANA's, "reverse" before one of
// IANA's, or one of the vendors'.
func ByName(name string) (Element, bool) {
	if e, ok := byName[name]; ok {
		return e, true
	}
	if rest, ok := strings.CutPrefix(name, "reverse"); ok && rest != "" {
		if e, ok := byName[strings.ToLower(rest[:1])+rest[1:]]; ok {
			switch e.PEN {
			case IANA:
				return Lookup(Reverse, e.ID)
			case CERT:
				return Lookup(CERT, e.ID|certReverse)
			}
		}
	}
	return Element{}, false
}

// All calls yield with every element of IANA's registry, by number.
func All(yield func(Element) bool) {
	for _, e := range table {
		if e.Name != "" && !yield(e) {
			return
		}
	}
}

func reverseName(name string) string {
	return "reverse" + strings.ToUpper(name[:1]) + name[1:]
}

// byName is a name's element; where a vendor repeats a name, IANA's is meant.
var byName = func() map[string]Element {
	m := make(map[string]Element, len(table)+len(vendors)+len(v9Types))
	for _, e := range v9Types {
		m[e.Name] = e
	}
	for _, e := range vendors {
		m[e.Name] = e
	}
	for _, e := range table {
		if e.Name != "" {
			m[e.Name] = e
		}
	}
	return m
}()
