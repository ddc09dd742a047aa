package console

import "time"

// Exporter is what the collector knows of one sender of flow records: one
// address, version and observation domain. Times in the future and unknown
// values are left zero.
type Exporter struct {
	Address string `json:"address"`
	Name    string `json:"name,omitempty"` // by configuration, or as it says itself
	Version string `json:"version"`        // 1, 5, 6, 7, 8, 9, 10, sflow
	Domain  uint32 `json:"domain"`         // observation domain; v9 source ID; v5 engine

	Datagrams    uint64 `json:"datagrams"`
	Records      uint64 `json:"records"`
	SequenceGaps uint64 `json:"sequence_gaps"` // how often the sequence jumped
	SequenceLost uint64 `json:"sequence_lost"` // what the jumps sum to, in SequenceUnit
	SequenceUnit string `json:"sequence_unit"` // records (v5 to v8, IPFIX), datagrams (v9, sFlow)

	LastSeen    time.Time `json:"last_seen"`
	Late        bool      `json:"late"`         // silent for longer than it should be
	Sampling    uint32    `json:"sampling"`     // one packet in so many; 0: unknown
	SkewSeconds float64   `json:"skew_seconds"` // its clock less ours
	Templates   int       `json:"templates"`    // held, options templates included
	Misses      uint64    `json:"misses"`       // data sets that came without a template
}

// Interface is an observation point: one of this machine's (Exporter empty),
// or one that an exporter told of.
type Interface struct {
	Exporter string `json:"exporter,omitempty"`
	Index    uint32 `json:"index"`
	Name     string `json:"name"`
	Alias    string `json:"alias,omitempty"` // its description
	Mode     string `json:"mode,omitempty"`  // afpacket, xdp, tc; empty: not metered here
	Why      string `json:"why,omitempty"`   // this mode and not a better one
	Speed    uint64 `json:"speed,omitempty"` // bit/s; 0: unknown

	PacketsIn  uint64 `json:"packets_in"`
	BytesIn    uint64 `json:"bytes_in"` // from the IP header on
	PacketsOut uint64 `json:"packets_out"`
	BytesOut   uint64 `json:"bytes_out"`
	Dropped    uint64 `json:"dropped"` // packets the kernel could not hand over
	// Ignored counts packets that are in no flow, by reason, zeros left out;
	// missing if they are counted for all interfaces together.
	Ignored []Count `json:"ignored,omitempty"`
	// Of what came in, what the flow cache forwarded, and what it left to the kernel,
	// by reason, zeros left out; missing where it does not forward.
	Forwarded *uint64 `json:"forwarded,omitempty"`
	Slow      []Count `json:"slow,omitempty"`
}

// Destination is where flow records are exported to.
type Destination struct {
	Address   string `json:"address"`
	Version   string `json:"version"`
	Records   uint64 `json:"records"`
	Datagrams uint64 `json:"datagrams"`
	Bytes     uint64 `json:"bytes"` // UDP payload
	Failed    uint64 `json:"failed"`
}

// Cache is the state of the flow cache.
type Cache struct {
	Entries    uint64 `json:"entries"`    // live now
	Peak       uint64 `json:"peak"`       // the most there were
	Capacity   uint64 `json:"capacity"`   // 0: unknown
	Memory     uint64 `json:"memory"`     // octets of the table, when it is full; 0: unknown
	Aggregates uint64 `json:"aggregates"` // overflow aggregates in use
	Refused    uint64 `json:"refused"`    // packets counted in these, for want of an entry
	Sweeps     uint64 `json:"sweeps"`     // passes over the table for what is due
	Created    uint64 `json:"created"`
	Packets    uint64 `json:"packets"` // metered so far
	Bytes      uint64 `json:"bytes"`
	// Expired counts records by why they left, zeros included.
	Expired       []Count `json:"expired"`
	IdleSeconds   float64 `json:"idle_seconds"`
	ActiveSeconds float64 `json:"active_seconds"`
}

// Count is a number with a name.
type Count struct {
	Name  string `json:"name"`
	Count uint64 `json:"count"`
}

// Store is the state of the flow store.
type Store struct {
	Kind     string    `json:"kind"` // parquet, clickhouse
	Path     string    `json:"path"`
	Records  uint64    `json:"records"`
	Bytes    uint64    `json:"bytes"` // on disk
	Segments int       `json:"segments"`
	Oldest   time.Time `json:"oldest"` // Last of the oldest record held; zero: empty
	Newest   time.Time `json:"newest"`
	Free     uint64    `json:"free"`            // octets left on its file system; 0: unknown
	Error    string    `json:"error,omitempty"` // why it cannot take records now
}
