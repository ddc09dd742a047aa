package wire

import "weir/ie"

// What IPFIX has beyond v9, to write: enterprise elements, values of variable
// length, withdrawals, lists (RFC 6313), type information (RFC 5610).

// size is how long f's specifier is.
func (f FieldSpec) size() int {
	if f.PEN != 0 {
		return 8
	}
	return 4
}

// appendSpec writes a field specifier; one with an enterprise number is of IPFIX
// only (RFC 7011 section 3.2).
func appendSpec(dst []byte, f FieldSpec) []byte {
	if f.PEN == 0 {
		return be.AppendUint16(be.AppendUint16(dst, f.ID), f.Length)
	}
	dst = be.AppendUint16(be.AppendUint16(dst, f.ID|0x8000), f.Length)
	return be.AppendUint32(dst, f.PEN)
}

// AppendTemplate writes a template record (RFC 3954 section 5.2, RFC 7011
// section 3.4.1).
func AppendTemplate(dst []byte, id uint16, fields []FieldSpec) []byte {
	dst = be.AppendUint16(dst, id)
	dst = be.AppendUint16(dst, uint16(len(fields)))
	for _, f := range fields {
		dst = appendSpec(dst, f)
	}
	return dst
}

// AppendWithdrawals writes a set that withdraws templates, or all of the kind if
// no number is given (RFC 7011 section 8.1). It is for connections and files:
// over UDP it must not be sent. Withdrawals and definitions do not share a set.
func AppendWithdrawals(dst []byte, options bool, ids ...uint16) []byte {
	set := uint16(TemplateSetIPFIX)
	if options {
		set = OptionsSetIPFIX
	}
	if len(ids) == 0 {
		ids = []uint16{set}
	}
	at := len(dst)
	dst = AppendSet(dst, set)
	for _, id := range ids {
		dst = be.AppendUint16(be.AppendUint16(dst, id), 0)
	}
	return EndSet(dst, at)
}

// AppendVariable begins a value of variable length that EndVariable closes, for
// values whose length is not known before: always in the form of three octets,
// as RFC 6313 section 4.5 (figure 1) has it for lists.
func AppendVariable(dst []byte) []byte { return append(dst, 255, 0, 0) }

// EndVariable closes the value that began at dst[at].
func EndVariable(dst []byte, at int) []byte {
	be.PutUint16(dst[at+1:], uint16(len(dst)-at-3))
	return dst
}

// Semantic says how the members of a list relate to the flow (RFC 6313
// section 4.4).
type Semantic uint8

const (
	NoneOf Semantic = iota
	ExactlyOneOf
	OneOrMoreOf
	AllOf
	Ordered
	Undefined Semantic = 255
)

// AppendBasicList begins a basicList; its members, values of the field, follow.
// It stands between AppendVariable and EndVariable, like the other lists.
func AppendBasicList(dst []byte, s Semantic, member FieldSpec) []byte {
	return appendSpec(append(dst, byte(s)), member)
}

// AppendSubTemplateList begins a subTemplateList; records of the template
// follow.
func AppendSubTemplateList(dst []byte, s Semantic, template uint16) []byte {
	return be.AppendUint16(append(dst, byte(s)), template)
}

// AppendSubTemplateMultiList begins a subTemplateMultiList; parts follow, each
// between AppendPart and EndPart.
func AppendSubTemplateMultiList(dst []byte, s Semantic) []byte { return append(dst, byte(s)) }

// AppendPart begins a list's records of one template.
func AppendPart(dst []byte, template uint16) []byte { return AppendSet(dst, template) }

// EndPart closes the part that began at dst[at]; unlike a set it has no padding.
func EndPart(dst []byte, at int) []byte {
	be.PutUint16(dst[at+2:], uint16(len(dst)-at))
	return dst
}

// AppendUint writes v in n octets, 1 to 8, the last ones: an unsigned integer in
// its own length or a shorter one that holds it (RFC 7011 section 6.2), or a
// signed one.
func AppendUint(dst []byte, v uint64, n int) []byte {
	for i := n - 1; i >= 0; i-- {
		dst = append(dst, byte(v>>(8*i)))
	}
	return dst
}

// AppendTime writes a time, Unix ns, as an absolute time of the type: rounded
// down to its unit, in NTP's form for microseconds and nanoseconds. Before 1970
// and, in seconds, after February 2106 there is nothing that it can say (RFC
// 7011 section 6.1.7); NTP's form begins anew in 2036, which readers know.
func AppendTime(dst []byte, t ie.Type, ns int64) []byte {
	switch t {
	case ie.DateTimeSeconds:
		return be.AppendUint32(dst, uint32(ns/1e9))
	case ie.DateTimeMilliseconds:
		return be.AppendUint64(dst, uint64(floorMs(ns)))
	case ie.DateTimeMicroseconds:
		// The low eleven bits are below the unit (section 6.1.9).
		return be.AppendUint64(dst, toNTP(ns/1e3*1e3)&^0x7ff)
	}
	return be.AppendUint64(dst, toNTP(ns))
}

// toNTP is ns in NTP's 64-bit format, rounded up so that cutting the fraction to
// ns, or to µs after AppendTime cut it, gives ns again.
func toNTP(ns int64) uint64 {
	frac := (uint64(ns%1e9)<<32 + 1e9 - 1) / 1e9
	return uint64(ns/1e9+ntpEpoch)<<32 + frac
}

// TypeInformation is the options template by which exporters describe elements
// (RFC 5610 section 3.9): scope enterprise number and element; then data type,
// semantics, units, name, description.
var TypeInformation = []FieldSpec{
	{ID: ie.IDPrivateEnterpriseNumber, Length: 4, Name: "privateEnterpriseNumber"},
	{ID: ie.IDInformationElementId, Length: 2, Name: "informationElementId"},
	{ID: ie.IDInformationElementDataType, Length: 1, Name: "informationElementDataType"},
	{ID: ie.IDInformationElementSemantics, Length: 1, Name: "informationElementSemantics"},
	{ID: ie.IDInformationElementUnits, Length: 2, Name: "informationElementUnits"},
	{ID: ie.IDInformationElementName, Length: VariableLength, Name: "informationElementName"},
	{ID: ie.IDInformationElementDescription, Length: VariableLength, Name: "informationElementDescription"},
}

// AppendTypeInformation writes a record of TypeInformation.
func AppendTypeInformation(dst []byte, e ie.Element, description string) []byte {
	dst = be.AppendUint32(dst, e.PEN)
	dst = be.AppendUint16(dst, e.ID)
	dst = append(dst, byte(e.Type), byte(e.Semantics))
	dst = be.AppendUint16(dst, ie.UnitsNumber(e.Units))
	dst = AppendString(dst, e.Name, VariableLength)
	return AppendString(dst, description, VariableLength)
}
