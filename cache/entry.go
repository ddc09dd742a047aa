package cache

import "weir/flow"

// Entry is one flow in the table: two cache lines. The kernel's table has the
// same layout in the machine's byte order (entry_test.go holds the offsets).
type Entry struct {
	// Line 0: what every packet reads or adds to.
	Packets uint64 // @0 since the last export
	Bytes   uint64 // @8
	Key     flow.Key
	State   uint32 // @60 eight bits of state, then 24 bits of the key's hash

	// Line 1.
	First       int64     // @64 Unix ns, smallest of the packets counted; 0 while Packets is 0
	Last        int64     // @72 Unix ns, largest of the flow's
	Verdict     uint64    // @80 generation 32, rule 24, verdict 8; 0: none
	Route       uint64    // @88 generation 32, next hop 16, …; 0: none
	Rate        [2]uint64 // @96 token bucket; 0: no limit
	TCPFlags    uint8     // @112 OR over the packets counted
	Mark        uint8     // @113 mark… bits
	MinLength   uint16    // @114 IP lengths of the packets counted, 65535 and more as 65535
	MaxLength   uint16    // @116
	MinTTL      uint8     // @118
	MaxTTL      uint8     // @119
	Incarnation uint32    // @120 grows with every record the slot has given
	Until       uint32    // @124 second (of the cache's clock) of the TCP end, else of the active timeout
}

// EntrySize is the size of an Entry.
const EntrySize = 128

// States of an entry. Go enters and retires flows in one step, the kernel also
// knows CLAIMED (1) and DYING (3) in between.
const (
	stateFree = 0
	stateLive = 2
)

const markClosing = 1 // FIN or RST was seen; Until is the second of the end
