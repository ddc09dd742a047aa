package capture

import "weir/packet"

// Packet is one captured frame.
type Packet struct {
	Data      []byte // what was captured; valid until the next Read
	Time      int64  // Unix ns
	Wire      uint32 // length of the frame on the wire
	Link      packet.LinkType
	Interface uint32 // ifIndex of the interface; 0 for files
	VLAN      uint16 // tag the NIC took off the frame (flow.KeyTagged | id), else 0
	Egress    bool   // sent by this host (live only)
}

// Batch is filled by Source.Read; its memory is used again.
type Batch struct {
	Packets []Packet
}

// Source gives packets in batches. Read fills b (up to its capacity, at least
// one packet, blocking at most about a second on a live source, where an empty
// batch with a nil error is the tick of a quiet line). io.EOF is the clean end.
// An error may come with packets before it: they count.
type Source interface {
	Read(b *Batch) error
	Close() error
}
