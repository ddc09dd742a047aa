package wire

import (
	"net/netip"
	"time"

	"weir/flow"
)

// Limits bound what exporters can make a Decoder hold. Zero fields take the
// defaults of DefaultLimits.
type Limits struct {
	Sessions        int           // exporters times domains and source ports
	Templates       int           // for one session
	Fields          int           // of one template
	TemplateOctets  int           // of all templates together, about
	WaitingOctets   int           // data that waits for its template, all sessions
	WaitingTime     time.Duration // how long it may; negative: for ever
	MessageRecords  int           // flow records of one message
	MessageElements int           // octets of Elements of one message
	Interfaces      int           // named interfaces of one session
	Samplers        int           // of one session
}

// DefaultLimits are what reliability asks for and memory allows.
var DefaultLimits = Limits{
	Sessions:        4096,
	Templates:       1024,
	Fields:          512,
	TemplateOctets:  64 << 20,
	WaitingOctets:   64 << 20,
	WaitingTime:     30 * time.Minute,
	MessageRecords:  16384,
	MessageElements: 4 << 20,
	Interfaces:      4096,
	Samplers:        1024,
}

// Options of a Decoder; the zero value is ready for use.
type Options struct {
	Limits Limits

	// V8DestinationMaskFirst reads v8's prefix schemes (5, 13, 14) as
	// flow-tools writes them; Cisco's order is the source mask first.
	V8DestinationMaskFirst bool

	// MaxSkew > 0 moves the flow times of an exporter whose clock is off by
	// more than this to the receiver's clock. The skew is measured anyway.
	MaxSkew time.Duration

	// OnRecord, if set, is called with the octets of every v9 and IPFIX data
	// and options record, before it is decoded.
	OnRecord func(RawRecord)
}

// RawRecord is a data record as it stands in the message.
type RawRecord struct {
	Source   Source
	Version  uint8
	Domain   uint32
	Template *Template
	Data     []byte // valid until the call returns
}

// Decoder reads messages of any version and keeps the state of their
// exporters. It belongs to one goroutine.
type Decoder struct {
	opt Options
}

// NewDecoder makes a Decoder.
func NewDecoder(opt Options) *Decoder { return &Decoder{opt: opt} }

// Decode reads one message and appends to b what it says. The Message counts
// what was read also when there is an error, which tells of the first thing
// that was refused; what follows that in the message was read where its place
// is certain. received is Unix ns.
func (d *Decoder) Decode(b *Batch, src Source, received int64, msg []byte) (Message, error) {
	return Message{}, ErrVersion
}

// ExporterInfo is what is known of one exporter's observation domain.
type ExporterInfo struct {
	Addr    netip.Addr `json:"addr"`
	Port    uint16     `json:"port"` // source port of the latest datagram
	Version uint8      `json:"version"`
	Domain  uint32     `json:"domain"`

	First time.Time `json:"first"` // first and latest datagram, when received
	Last  time.Time `json:"last"`

	Datagrams     uint64 `json:"datagrams"`
	Bytes         uint64 `json:"bytes"` // of datagrams
	Sets          uint64 `json:"sets"`
	Records       uint64 `json:"records"` // flow records
	OptionRecords uint64 `json:"option_records"`
	TemplateSets  uint64 `json:"template_records"`
	Templates     int    `json:"templates"`      // known now
	WaitingSets   int    `json:"waiting_sets"`   // data without a template
	WaitingOctets int    `json:"waiting_octets"` // the same
	Redefined     uint64 `json:"redefined"`      // templates that changed under their number
	Clamped       uint64 `json:"clamped"`        // records whose last was before first

	Sequence SequenceInfo  `json:"sequence"`
	Skew     time.Duration `json:"skew_ns"` // exporter's clock minus ours, latest
	Started  time.Time     `json:"started"` // when the exporter started, by its uptime; zero: unknown

	Sampling   []SamplingInfo    `json:"sampling"`
	Statistics map[string]uint64 `json:"statistics"` // what the exporter says of itself: notSentFlowTotalCount, …
	Losses     []flow.Loss       `json:"losses"`
}

// SequenceInfo is what sequence numbers say of one exporter's domain. The unit
// is records for v5 to v8 and IPFIX, datagrams for v9, none for v1.
type SequenceInfo struct {
	Unit       string `json:"unit"`
	Lost       uint64 `json:"lost"`       // never came
	Missing    uint64 `json:"missing"`    // did not come yet, may be reordered
	Gaps       uint64 `json:"gaps"`       // holes that were seen, filled later or not
	Reordered  uint64 `json:"reordered"`  // datagrams that came late and filled a hole
	Duplicates uint64 `json:"duplicates"` // datagrams that came again (they are decoded: only the store knows flows)
	Restarts   uint64 `json:"restarts"`   // the exporter began anew; nothing is claimed lost
}

// SamplingInfo is one sampling rate an exporter announced.
type SamplingInfo struct {
	Sampler   uint32 `json:"sampler"`   // IE 48 or 302; 0: none named
	Interface uint32 `json:"interface"` // ifIndex it is for; 0: all
	Rate      uint32 `json:"rate"`      // one packet in so many
}

// TemplateInfo is one template now known.
type TemplateInfo struct {
	Addr    netip.Addr  `json:"addr"`
	Port    uint16      `json:"port"`
	Version uint8       `json:"version"`
	Domain  uint32      `json:"domain"`
	ID      uint16      `json:"id"`
	Kind    string      `json:"kind"`  // data, options
	Scope   int         `json:"scope"` // so many fields in front are the scope
	Fields  []FieldSpec `json:"fields"`
	Seen    time.Time   `json:"seen"` // when it was last sent
}

// InterfaceName is what an exporter calls one of its interfaces.
type InterfaceName struct {
	Addr        netip.Addr `json:"addr"`
	Domain      uint32     `json:"domain"`
	Index       uint32     `json:"index"` // ifIndex
	Name        string     `json:"name"`
	Description string     `json:"description"`
}
