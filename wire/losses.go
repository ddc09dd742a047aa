package wire

import "weir/flow"

// Reason says why something of a message was refused. Reasons are stable: they
// are metric labels.
type Reason uint8

const (
	UnknownVersion Reason = iota
	ShortMessage
	MessageLength
	RecordCount
	SetLength
	ReservedSet
	BadTemplate
	EmptyTemplate
	TemplateFields
	TemplateLimit
	TypeLimit
	WithdrawalOverUDP
	TemplateMissing
	RecordOverrun
	BadOptions
	RecordLimit
	ElementLimit
	ExporterLimit
	reasons
)

var reasonText = [reasons]struct{ name, help string }{
	UnknownVersion:    {"unknown-version", "the datagram is of no NetFlow or IPFIX version (sFlow is not read yet): point only exporters at this port"},
	ShortMessage:      {"short-message", "the datagram ends within a header: look for a broken exporter, or for datagrams cut on the way"},
	MessageLength:     {"message-length", "the IPFIX length differs from the datagram's: what is inside both was read"},
	RecordCount:       {"record-count", "a v1 to v8 header counts more records than the datagram holds: those that are there were read"},
	SetLength:         {"set-length", "a set's length is below 4 or beyond the message: the rest of the message was dropped"},
	ReservedSet:       {"reserved-set", "a set with a reserved number was skipped"},
	BadTemplate:       {"bad-template", "a template record does not fit its set, or its number or scope is not allowed: the rest of the set was dropped"},
	EmptyTemplate:     {"empty-template", "a template without fields, or whose records would have no octets, was refused: update the exporter"},
	TemplateFields:    {"template-fields", "a template has more fields than the limit: its set was dropped"},
	TemplateLimit:     {"template-limit", "the exporter, or all of them, hold as many templates as the limits allow"},
	TypeLimit:         {"type-limit", "the exporter described more elements of its own than the limits allow (RFC 5610): further ones keep their numbers"},
	WithdrawalOverUDP: {"withdrawal-over-udp", "a template withdrawal over UDP was ignored, as RFC 7011 section 8.4 asks"},
	TemplateMissing:   {"template-missing", "data whose template did not come in time, or for which there was no room to wait: octets are counted, records are not known"},
	RecordOverrun:     {"record-overrun", "a variable-length value runs beyond its set: the rest of the set was dropped"},
	BadOptions:        {"bad-options", "an options record's sampling rate, name or time makes no sense and was not used"},
	RecordLimit:       {"record-limit", "one message holds more records than the limit: the rest of the set was dropped"},
	ElementLimit:      {"element-limit", "one message needs more memory for elements without a column than the limit: its further records came without them"},
	ExporterLimit:     {"exporter-limit", "more exporters and domains than the limit: v9 and IPFIX datagrams of new ones were dropped, the sequence of others is not followed"},
}

func (r Reason) String() string {
	if r < reasons {
		return reasonText[r].name
	}
	return "unknown"
}

// Help is one sentence: what happened, what to do.
func (r Reason) Help() string {
	if r < reasons {
		return reasonText[r].help
	}
	return ""
}

// tally counts what one reason refused.
type tally struct{ n, records, octets uint64 }

// Counts is what was refused, by Reason.
type Counts [reasons]tally

// Add adds o to c.
func (c *Counts) Add(o Counts) {
	for i := range c {
		c[i].n += o[i].n
		c[i].records += o[i].records
		c[i].octets += o[i].octets
	}
}

// Losses lists c in the ledger's form, zeros included. Datagrams counts what was
// refused, be it a datagram, a set or a template record.
func (c *Counts) Losses() []flow.Loss {
	all := make([]flow.Loss, reasons)
	for r := range reasons {
		all[r] = flow.Loss{
			Stage: "wire", Reason: r.String(), Help: r.Help(),
			Datagrams: c[r].n, Records: c[r].records, Bytes: c[r].octets,
		}
	}
	return all
}
