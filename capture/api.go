package capture

import (
	"errors"
	"io"

	"weir/packet"
)

// Decode fills in from p: what packet.Decode says of the frame, and what only
// the capture knows: the time, the interface and a tag the NIC took off.
func (p *Packet) Decode(in *packet.Info) packet.Reason { return packet.UnknownLink }

// Progress is offered by sources that read files.
type Progress interface {
	// Progress is how many octets of the file were read, and how many there
	// are (0: unknown, as for a pipe). It may be called from any goroutine.
	Progress() (done, total int64)
}

// Stats is offered by live sources.
type Stats interface {
	// Stats is how many packets the kernel gave to the socket and how many of
	// them it dropped since the source was opened. It may be called from any
	// goroutine.
	Stats() (packets, drops uint64)
}

// Errors to branch on with errors.Is.
var (
	ErrTruncated  = errors.New("the capture ends within a packet") // all packets before it were given
	ErrNotCapture = errors.New("not a capture file")
	ErrDown       = errors.New("interface is down") // Read may be called again
	ErrGone       = errors.New("interface is gone") // for good
)

// Open opens the capture file at path; "-" is standard input.
func Open(path string) (Source, error) { return nil, errors.New("not yet") }

// OpenReader reads a capture from r; name stands for it in errors.
func OpenReader(r io.Reader, name string) (Source, error) { return nil, errors.New("not yet") }

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
