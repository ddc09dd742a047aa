// Package collect receives export datagrams and hands on flow records.
//
// In: NetFlow v1 to v9 and IPFIX on UDP sockets, IPFIX on TCP connections, or
// captures and message files (Decode). Out: flow.Record in batches to a
// flow.Sink, called from one goroutine at a time. Every datagram that the kernel
// delivered is read, decoded and handed on, or is counted in the loss ledger
// (Losses). Units are those of package flow.
package collect

import (
	"context"
	"log/slog"
	"net"
	"time"

	"weir/flow"
	"weir/wire"
)

// Options of a Collector.
type Options struct {
	// Listen are the places to receive at: "udp://:2055", "udp://[::1]:4739",
	// "tcp://:4739" (IPFIX). One port takes every version.
	Listen []string

	// Sink takes the records. Calls never overlap.
	Sink flow.Sink

	// State is the file that keeps templates, sampling and sequence numbers
	// over a restart; empty: none.
	State string
	// StateEvery is how often changed state is saved while running; 0: 1 min.
	StateEvery time.Duration

	Loops       int // receive loops per UDP address; 0: one per core
	SocketBytes int // receive buffer of each socket; 0: 64 MiB, less where the kernel refuses
	Queue       int // batches between receiving and the sink; 0: 8

	// MaxSkew > 0 moves the flow times of exporters whose clock is off by more.
	MaxSkew time.Duration
	// Limits bound what exporters can make the collector hold, all loops together.
	Limits wire.Limits

	// OnOptions, if set, is called with every options record (interface and
	// application names, samplers, …), from the goroutine that calls Sink.
	OnOptions func([]wire.OptionsRecord)

	Log *slog.Logger // nil: slog.Default()
}

// Collector receives, decodes and hands on.
type Collector struct {
	opt Options
}

// New makes a Collector and checks the options. It opens nothing.
func New(opt Options) (*Collector, error) { return &Collector{opt: opt}, nil }

// Listen opens the sockets, so that a port in use is known before other parts
// start. Run calls it if nobody did.
func (c *Collector) Listen() error { return nil }

// Addrs are the addresses that are listened at, after Listen.
func (c *Collector) Addrs() []net.Addr { return nil }

// Run receives until ctx ends; then it reads what the kernel still holds, hands
// it on, saves the state and returns nil. It returns early with the reason if
// a socket, or the sink, fails.
func (c *Collector) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// The methods below may be called from any goroutine, also while Run works.

// Exporters lists the exporters by address, domain, version and port.
func (c *Collector) Exporters() []wire.ExporterInfo { return nil }

// Templates lists the templates now known.
func (c *Collector) Templates() []wire.TemplateInfo { return nil }

// Interfaces lists the interface names that exporters sent.
func (c *Collector) Interfaces() []wire.InterfaceName { return nil }

// Losses is the ledger: all reasons, zeros included, always in the same order.
func (c *Collector) Losses() []flow.Loss { return nil }

// Listeners tells of the sockets.
func (c *Collector) Listeners() []ListenerInfo { return nil }

// Stats sums up since the start.
func (c *Collector) Stats() Stats { return Stats{} }

// ListenerInfo is one address listened at.
type ListenerInfo struct {
	Network     string `json:"network"` // udp, tcp
	Address     string `json:"address"`
	Loops       int    `json:"loops"`
	SocketBytes int    `json:"socket_bytes"` // receive buffer of each loop as granted
	Datagrams   uint64 `json:"datagrams"`
	Bytes       uint64 `json:"bytes"`
	KernelDrops uint64 `json:"kernel_drops"`
	Connections int    `json:"connections"` // tcp: now
}

// Stats are sums over all listeners.
type Stats struct {
	Datagrams uint64 `json:"datagrams"` // TCP: messages
	Bytes     uint64 `json:"bytes"`
	Records   uint64 `json:"records"` // handed to the sink
	Queued    int    `json:"queued"`  // batches that wait for the sink now
	QueueSize int    `json:"queue_size"`
}
