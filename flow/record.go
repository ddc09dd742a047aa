package flow

import (
	"slices"
	"strconv"
)

// EndReason is flowEndReason, IANA element 136.
type EndReason uint8

const (
	EndUnknown  EndReason = 0
	EndIdle     EndReason = 1 // idle timeout
	EndActive   EndReason = 2 // active timeout: the flow goes on in the cache
	EndDetected EndReason = 3 // FIN or RST seen
	EndForced   EndReason = 4 // drained: shutdown, or the end of the capture
	EndResource EndReason = 5 // lack of resources: aggressive ageing, a full set
)

var endNames = [...]string{"unknown", "idle", "active", "end", "forced", "resources"}

func (r EndReason) String() string {
	if int(r) < len(endNames) {
		return endNames[r]
	}
	return "reserved"
}

// Version of the export protocol a record came in.
const (
	VersionMetered = 0 // metered by this process
	VersionV1      = 1
	VersionV5      = 5
	VersionV6      = 6
	VersionV7      = 7
	VersionV8      = 8
	VersionV9      = 9
	VersionIPFIX   = 10
	VersionSFlow   = 105 // printed "sflow"
)

// VersionName is a version as it is printed; "" for VersionMetered.
func VersionName(v uint8) string {
	switch v {
	case VersionMetered:
		return ""
	case VersionSFlow:
		return "sflow"
	}
	return strconv.Itoa(int(v))
}

// Field is a set of Record fields.
type Field uint64

// One bit for each field of Record that may be unknown.
const (
	HasFirst Field = 1 << iota
	HasLast
	HasProto
	HasSrc
	HasSrcPort
	HasDst
	HasDstPort
	HasTOS
	HasTCPFlags
	HasPackets
	HasBytes
	HasInput
	HasOutput
	HasDirection
	HasVLAN
	HasICMP // ICMPType and ICMPCode
	HasNextHop
	HasBGPNextHop
	HasSrcAS
	HasDstAS
	HasSrcMask
	HasDstMask
	HasSampling
	HasEndReason
	HasForwardingStatus
	HasExporter
	HasDomain
	HasReceived
	HasFlowID
	HasDropped // DroppedPackets and DroppedBytes
	HasRule
	HasFlows
)

// Record is one flow record: what the metering process says of a flow when it
// leaves the cache, or what a collector read from an export datagram.
//
// A field means something only if its bit is in Has: unknown is not zero.
// Version is always valid. Records are handed on in batches; Elements (and the
// batch itself) belong to the giver and are valid until the call returns.
type Record struct {
	Src, Dst, NextHop, BGPNextHop Addr
	Exporter                      Addr // source address of the export datagrams

	First, Last int64 // Unix ns of the first and last packet
	Received    int64 // Unix ns: when the collector had the datagram

	Packets, Bytes uint64 // as metered or exported, not multiplied by Sampling
	FlowID         uint64 // IE 148: names this record among all of its exporter's

	DroppedPackets, DroppedBytes uint64 // IE 133, 132: of Packets, what an access list stopped (metered here)
	Flows                        uint64 // IE 3: flows that were merged into this record (aggregated here)

	Has Field

	Input, Output uint32 // ifIndex
	SrcAS, DstAS  uint32
	Sampling      uint32 // one packet in so many was looked at; 1: all
	Domain        uint32 // observation domain; v9 source ID; v5-v8 engine_type*256+engine_id

	SrcPort, DstPort   uint16
	VLAN               uint16 // outermost id
	Rule               uint16 // IE 137: number of the rule that decided of the last packet (metered here)
	TCPFlags           uint16 // OR over the flow
	Proto, TOS         uint8
	ICMPType, ICMPCode uint8
	SrcMask, DstMask   uint8
	Direction          uint8 // IE 61: 0 ingress, 1 egress
	EndReason          EndReason
	ForwardingStatus   uint8 // IE 89
	Version            uint8 // Version…
	IPVersion          uint8 // 4 or 6; 0: by the form of the addresses
	Fragment           bool  // made of later fragments (metered here)

	// More and Reverse, of records metered here, are what keys, collected facts and
	// biflows bring; nil: nothing. They belong to the giver, as Elements does.
	More    *More
	Reverse *Reverse

	// Elements holds what has no column of its own: a JSON object
	// {"ianaName": value, …}, or nil. Who sets HasDropped or HasRule puts into it
	// what AppendVerdict gives; who sets HasFlows, More or Reverse, what AppendMore
	// gives.
	Elements []byte
}

// A FlowID given here is, from the top: 12 bits of the start, 6 of the cache, IDSlotBits of
// the cache's slot, IDRecordBits of how many records that slot has given. A record that a
// live cache shows has the id with which it will leave.
const (
	IDSlotBits   = 27
	IDRecordBits = 19
)

// Total is what r counts: of both directions, if it is a biflow's.
func (r *Record) Total() (packets, bytes uint64) {
	if r.Reverse == nil {
		return r.Packets, r.Bytes
	}
	return r.Packets + r.Reverse.Packets, r.Bytes + r.Reverse.Bytes
}

// EventDenied is firewallEvent (IE 233) of a flow some of whose packets were
// stopped. Its other values are of the moments when a flow is created or deleted:
// no record is of a moment.
const EventDenied = 3

// MaxVerdict is the most that AppendVerdict appends.
const MaxVerdict = 160

// AppendVerdict appends what access lists made of r's packets, as Elements has it
// when an export of r is read: nothing where neither HasDropped nor HasRule is set.
func (r *Record) AppendVerdict(dst []byte) []byte {
	if r.Has&(HasDropped|HasRule) == 0 {
		return dst
	}
	dst = append(dst, '{')
	if r.Has&HasDropped != 0 {
		dst = strconv.AppendUint(append(dst, `"droppedPacketDeltaCount":`...), r.DroppedPackets, 10)
		dst = strconv.AppendUint(append(dst, `,"droppedOctetDeltaCount":`...), r.DroppedBytes, 10)
		dst = strconv.AppendUint(append(dst, `,"firewallEvent":`...), EventDenied, 10)
		if r.Has&HasRule != 0 {
			dst = append(dst, ',')
		}
	}
	if r.Has&HasRule != 0 {
		dst = strconv.AppendUint(append(dst, `"commonPropertiesId":`...), uint64(r.Rule), 10)
	}
	return append(dst, '}')
}

// AppendCopies appends records that outlive the batch they are from.
func AppendCopies(dst, batch []Record) []Record {
	for i := range batch {
		dst = append(dst, batch[i])
		dst[len(dst)-1].own()
	}
	return dst
}

// AppendCopy is AppendCopies for one.
func AppendCopy(dst []Record, r *Record) []Record {
	dst = append(dst, *r)
	dst[len(dst)-1].own()
	return dst
}

// own makes copies of what belongs to the giver.
func (r *Record) own() {
	r.Elements = slices.Clone(r.Elements)
	if r.More != nil {
		m := *r.More
		r.More = &m
	}
	if r.Reverse != nil {
		v := *r.Reverse
		r.Reverse = &v
	}
}

// Sink takes records in batches. It returns when it has taken them (and may
// block); a record it could not keep is counted by it, not returned. The batch
// is the caller's again on return. An error ends the giver's work.
type Sink interface {
	WriteRecords(batch []Record) error
}

// Syncer is a Sink that can say when what it took is safe from the end of this
// process: sent, or written to a file.
type Syncer interface {
	Sink
	// Sync returns when all that was given is out of the process's memory, or
	// counted as lost. It may block; it is not called at the same time as
	// WriteRecords.
	Sync() error
}

// SinkFunc is a function as a Sink.
type SinkFunc func([]Record) error

func (f SinkFunc) WriteRecords(b []Record) error { return f(b) }

// Tee gives every batch to each sink in turn and returns the first error. It
// is a Syncer: Sync asks those sinks that are, all of them whatever one says.
func Tee(sinks ...Sink) Sink { return tee(sinks) }

type tee []Sink

func (t tee) WriteRecords(b []Record) error {
	for _, s := range t {
		if err := s.WriteRecords(b); err != nil {
			return err
		}
	}
	return nil
}

func (t tee) Sync() (first error) {
	for _, s := range t {
		if y, ok := s.(Syncer); ok {
			if err := y.Sync(); first == nil {
				first = err
			}
		}
	}
	return first
}

// Loss is one line of the ledger: what a stage gave up, and why. Stages list
// all their reasons, also those at zero, always in the same order.
type Loss struct {
	Stage  string `json:"stage"`  // a folder: capture, packet, acl, cache, aggregate, export, collect, wire, store
	Reason string `json:"reason"` // lower-kebab, stable: it is a metric label
	// What is known of the lost: records for stages that hold records,
	// packets and octets for those that hold packets. Datagrams count
	// export datagrams of unknown content.
	Records   uint64 `json:"records"`
	Packets   uint64 `json:"packets"`
	Bytes     uint64 `json:"bytes"`
	Datagrams uint64 `json:"datagrams"`
	Help      string `json:"help"` // one sentence: what happened, what to do
}
