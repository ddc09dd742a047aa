package console

import (
	"context"
	"net/http"
	"os"
	"testing"
	"time"

	"weir/flow"
)

// hostile is a name that tries to be markup.
const hostile = `<img src=x onerror="document.title='owned'">`

// parts are the snapshots of a whole weir. name is that of an exporter, of an
// interface and of another's description.
func parts(opt Options, started time.Time, name string) Options {
	grow := func(n uint64) uint64 { return n * uint64(time.Since(started)/time.Second) }
	opt.Version = "0.1.0"
	opt.Started = started
	opt.Losses = func() []flow.Loss {
		return []flow.Loss{
			{Stage: "capture", Reason: "kernel-drops", Help: "The kernel had no room for the packet; raise the ring."},
			{Stage: "capture", Reason: "ring-frozen", Help: "The ring was full for a while."},
			{Stage: "packet", Reason: "not-ip", Packets: 1874, Bytes: 112440, Help: "ARP, LLDP and the like are not flows."},
			{Stage: "packet", Reason: "truncated-header", Help: "The capture ends within the header."},
			{Stage: "packet", Reason: "bad-length", Help: "The IP header's length is more than the frame."},
			{Stage: "packet", Reason: "unknown-link-type", Help: "A link type weir cannot read."},
			{Stage: "cache", Reason: "set-full", Help: "Both sets were full; the packet is in an aggregate."},
			{Stage: "cache", Reason: "time-backwards", Help: "The clock of the capture went back."},
			{Stage: "export", Reason: "send-failed", Help: "The system refused a datagram."},
			{Stage: "export", Reason: "no-destination", Help: "Nobody was there."},
			{Stage: "wire", Reason: "bad-version", Help: "A datagram of no version that weir knows."},
			{Stage: "wire", Reason: "bad-set-length", Datagrams: 3, Help: "A set says it is longer than its message."},
			{Stage: "wire", Reason: "template-missing", Help: "Data before its template, which never came."},
			{Stage: "collect", Reason: "socket-drops", Help: "The socket's buffer was full; raise net.core.rmem_max."},
			{Stage: "collect", Reason: "sequence-gap", Records: 40 + grow(1), Help: "Records that an exporter sent and nobody received."},
			{Stage: "collect", Reason: "not-allowed", Help: "A sender that is not on the list."},
			{Stage: "store", Reason: "no-room", Help: "The store could not take the record in time."},
			{Stage: "store", Reason: "disk-full", Help: "The disk is full."},
		}
	}
	opt.Exporters = func() []Exporter {
		return []Exporter{
			{Address: "192.0.2.1", Name: "edge-1", Version: "10", Domain: 1, Datagrams: 4211, Records: 98110, LastSeen: time.Now(), Sampling: 1, Templates: 4, SequenceUnit: "records"},
			{Address: "192.0.2.77", Name: name, Version: "5", Datagrams: 900, Records: 23000, LastSeen: time.Now().Add(-6 * time.Minute), Late: true, SequenceUnit: "flows"},
			{Address: "2001:db8:ff::9", Name: "core", Version: "9", Domain: 256, Datagrams: 1800, Records: 41000, LastSeen: time.Now(), Sampling: 1, Templates: 2, SequenceUnit: "datagrams", SequenceGaps: 2, SequenceLost: 40},
		}
	}
	opt.Interfaces = func() []Interface {
		return []Interface{
			{Index: 1, Name: "lo"},
			{Index: 2, Name: "eth0", Alias: name, Mode: "afpacket", Speed: 1e9, PacketsIn: 18_400_212 + grow(900), BytesIn: 19_223_101_993 + grow(800000), PacketsOut: 9_100_310 + grow(400), BytesOut: 1_204_113_771 + grow(50000)},
			{Index: 3, Name: name, Mode: "afpacket", PacketsIn: 9_014_188 + grow(400), BytesIn: 1_190_004_117 + grow(50000), PacketsOut: 18_390_902 + grow(900), BytesOut: 19_200_311_090 + grow(800000), Dropped: 7},
			{Exporter: "192.0.2.77", Index: 1, Name: "FastEthernet0/1"},
		}
	}
	opt.Exports = func() []Destination {
		return []Destination{{Address: "127.0.0.1:2055", Version: "10", Records: 98110, Datagrams: 4211, Bytes: 6_113_000}}
	}
	opt.Cache = func() Cache {
		return Cache{
			Entries: 18_220, Capacity: 1 << 20, Created: 1_204_551, Packets: 27_500_000, Bytes: 20_400_000_000, IdleSeconds: 15, ActiveSeconds: 1800,
			Expired: []Count{{"idle", 800_123}, {"active", 1204}, {"end", 384_004}, {"forced", 0}, {"resources", 0}},
		}
	}
	return opt
}

// TestServe serves the console with made-up traffic on the address in
// WEIR_CONSOLE_SERVE until it is stopped: for work on the screens.
func TestServe(t *testing.T) {
	address := os.Getenv("WEIR_CONSOLE_SERVE")
	if address == "" {
		t.Skip("WEIR_CONSOLE_SERVE is not set: serving is for work on the screens")
	}
	start := time.Now().Add(-40 * time.Minute)
	all := traffic(1, start, start.Add(3*time.Hour), 60_000)
	engine := &memory{records: func() []flow.Record {
		now := time.Now().Add(-18 * time.Second).UnixNano()
		var past []flow.Record
		for _, r := range all {
			if r.Last < now {
				past = append(past, r)
			}
		}
		return past
	}}
	opt := parts(Options{Listen: address, Engine: engine}, time.Now(), hostile)
	opt.Store = func() Store {
		return Store{Kind: "parquet", Path: "/var/lib/weir", Records: uint64(len(engine.records())), Bytes: 2_410_000, Segments: 31, Oldest: start, Newest: time.Now(), Free: 40e9}
	}
	opt.Metrics = http.NotFoundHandler()
	if err := New(opt).Run(context.Background()); err != nil {
		t.Fatal(err)
	}
}
