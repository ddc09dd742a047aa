package capture

import (
	"errors"

	"weir/packet"
)

// Stats is offered by live sources.
type Stats interface {
	// Stats is how many packets the kernel gave to the socket and how many of
	// them it dropped since the source was opened. It may be called from any
	// goroutine.
	Stats() (packets, drops uint64)
}

// LiveOptions are the options of OpenLive; the zero value is ready for use.
type LiveOptions struct {
	Promiscuous bool    // take frames for other stations too
	SnapLen     int     // octets kept of each frame; 0: 256, enough for the headers
	RingBytes   int     // memory of the ring the kernel writes into; 0: 32 MiB
	Filter      *Filter // nil: everything
}

// OpenLive opens an interface.
func OpenLive(ifname string, opt LiveOptions) (Source, error) { return nil, errors.New("not yet") }

// OpenLiveGroup opens n sources that share one interface's packets by flow.
func OpenLiveGroup(ifname string, n int, opt LiveOptions) ([]Source, error) {
	return nil, errors.New("not yet")
}

// Filter is a compiled filter expression.
type Filter struct{}

// CompileFilter compiles a pcap-filter expression for frames of a link type.
func CompileFilter(expr string, link packet.LinkType) (*Filter, error) {
	return nil, errors.New("not yet")
}

// Match says whether the frame passes.
func (f *Filter) Match(data []byte, wire uint32) bool { return false }
