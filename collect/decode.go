package collect

import (
	"context"

	"weir/flow"
	"weir/wire"
)

// DecodeOptions are the options of Decode; Sink may be nil.
type DecodeOptions struct {
	// Ports carry exports, TCP or UDP; empty: wire.Ports, and wherever the
	// content looks like it.
	Ports []uint16

	Sink       flow.Sink
	OnTemplate func(wire.TemplateEvent)
	OnOptions  func(wire.OptionsRecord)
	// OnMessage is called after each message, with the number of the packet in
	// the capture that completed it, from 1 (message files: the message's).
	OnMessage func(frame int, src wire.Source, m wire.Message, err error)
	OnRecord  func(wire.RawRecord)

	V8DestinationMaskFirst bool
}

// Summary tells what Decode read.
type Summary struct {
	Datagrams uint64                    `json:"datagrams"` // TCP: messages
	Bytes     uint64                    `json:"bytes"`
	Versions  map[string]VersionSummary `json:"versions"` // "5", "9", "10", …
	Records   uint64                    `json:"records"`
	Lost      map[string]uint64         `json:"lost"` // by reason, zeros included
	Sequence  SequenceSummary           `json:"sequence"`
	Ignored   map[string]uint64         `json:"ignored"` // packets that carry no export, by reason
}

// VersionSummary is a Summary's part for one version.
type VersionSummary struct {
	Messages  uint64 `json:"messages"`
	Sets      uint64 `json:"sets"`
	Templates uint64 `json:"templates"`
	Options   uint64 `json:"options"`
	Records   uint64 `json:"records"`
}

// SequenceSummary sums up what sequence numbers say. Records are of v5 to v8
// and IPFIX, datagrams of v9.
type SequenceSummary struct {
	Gaps          uint64 `json:"gaps"`
	LostRecords   uint64 `json:"lost_records"`
	LostDatagrams uint64 `json:"lost_datagrams"`
	Reordered     uint64 `json:"reordered"`
	Duplicates    uint64 `json:"duplicates"`
	Restarts      uint64 `json:"restarts"`
}

// Decode reads captures (pcap, pcapng) of export traffic, or files of raw
// messages, in order, with one decoder for all of them.
func Decode(ctx context.Context, files []string, opt DecodeOptions) (*Summary, error) {
	return &Summary{}, nil
}
