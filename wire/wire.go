// Package wire reads and writes the export formats: NetFlow v1, v5, v6, v7, v8,
// v9 (RFC 3954) and IPFIX (RFC 7011).
//
// Decoding. In: datagrams (or the messages of a TCP connection) with their
// sender and time of arrival. Out: flow.Record in a Batch that is used again,
// template events, options records, and a Message that sums up. A Decoder keeps
// what datagrams say of later ones, for many exporters: templates, sampling,
// names, sequence numbers, and data that came before its template. It belongs
// to one goroutine. Nothing an exporter sends is believed: lengths and counts
// are checked against the octets that are there, every loop ends, every
// allocation has a bound (Limits), and what is refused is counted by Reason
// while the rest of the message, and the next one, are still read.
//
// Units: times are Unix ns, UTC; octets count from the IP header; counters are
// as sent, not multiplied by a sampling rate. sFlow is not read yet: its
// datagrams count as of unknown version.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"

	"weir/flow"
)

// Ports that exports are sent to by custom. Only 4739 is registered, for IPFIX.
var Ports = []uint16{2055, 4739, 6343, 9995, 9996}

var be = binary.BigEndian

// Source is who sent a datagram.
type Source struct {
	Addr flow.Addr
	Port uint16
	// Reliable: it came over TCP, so that nothing is lost or reordered, and
	// templates may be withdrawn (RFC 7011 section 8.1).
	Reliable bool
}

// SyntaxError says where a message stopped making sense.
type SyntaxError struct {
	Offset int    // octets from the start of the message
	Field  string // what was being read, in the RFC's words
	Err    error
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("octet %d: %s: %v", e.Offset, e.Field, e.Err)
}

func (e *SyntaxError) Unwrap() error { return e.Err }

// What a SyntaxError wraps.
var (
	ErrVersion  = errors.New("version is not read")
	ErrShort    = errors.New("message ends early")
	ErrLength   = errors.New("length is not possible")
	ErrCount    = errors.New("count is more than is there")
	ErrReserved = errors.New("number is reserved")
	ErrEmpty    = errors.New("template has no octets to count")
	ErrLimit    = errors.New("limit reached")
)

// Message sums up one export message.
type Message struct {
	Version  uint8 // flow.Version…
	Domain   uint32
	Sequence uint32
	Count    uint16 // v1 to v9: header count; IPFIX: length of the message
	Uptime   uint32 // sysUptime, ms; v1 to v9
	Exported int64  // Unix ns, by the exporter's clock

	Sets      int // flowsets or sets read; v1 to v8: 1
	Templates int // template and options template records
	Options   int // options data records
	Records   int // flow records
	Waiting   int // data sets whose template is not known (yet)
	Reversed  int // flow records of the other direction, where biflows are split
	Released  int // flow records that had waited for this message's templates
	Refused   int // things refused, each counted by its Reason
}

// Batch is what decoding fills. Its memory is used again after Reset: records,
// their Elements and the options are valid until then.
type Batch struct {
	Records   []flow.Record
	Templates []TemplateEvent
	Options   []OptionsRecord

	arena []byte // Elements, Scope and Fields point into it
}

// Reset empties b and keeps its memory.
func (b *Batch) Reset() {
	clear(b.Templates)
	b.Records, b.Templates, b.Options, b.arena = b.Records[:0], b.Templates[:0], b.Options[:0], b.arena[:0]
}

// FieldSpec is one field of a template. Length 65535 (VariableLength) means
// that each value brings its own.
type FieldSpec struct {
	PEN    uint32 `json:"pen,omitempty"`
	ID     uint16 `json:"id"` // v9 scope fields: the scope type
	Length uint16 `json:"length"`
	Name   string `json:"name"` // IANA's, else "ie<id>", "pen<pen>.<id>"; never empty
}

// VariableLength in a field specifier (RFC 7011 section 7).
const VariableLength = 65535

// Template is a template as an exporter sent it. It does not change.
type Template struct {
	ID     uint16
	Scope  int // so many fields in front are scope fields; 0: a data template
	Fields []FieldSpec

	raw  []byte // the record as sent, to tell a repetition from a change
	opts bool   // options template
	v9   bool
	plan *plan

	reverse *Template // the other direction's fields, where biflows are split; nil: none
	types   *session  // whose types name fields, until the plan is made
}

// Options says whether t describes options data.
func (t *Template) Options() bool { return t.opts }

// TemplateEvent is a template record, as it comes.
type TemplateEvent struct {
	Source   Source
	Version  uint8
	Domain   uint32
	Action   Action
	Template *Template
}

// Action is what a template record did.
type Action uint8

const (
	Added Action = iota
	Refreshed
	Redefined // the number now means something else
	Withdrawn // Template is the old one
)

var actionNames = [...]string{"added", "refreshed", "redefined", "withdrawn"}

func (a Action) String() string { return actionNames[a] }

// OptionsRecord is one options data record.
type OptionsRecord struct {
	Source   Source
	Version  uint8
	Domain   uint32
	Template uint16
	Received int64
	Scope    []byte // JSON object {"name": value}
	Fields   []byte // JSON object
}
