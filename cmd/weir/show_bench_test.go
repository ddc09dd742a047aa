package main

import (
	"context"
	"encoding/binary"
	"io"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"weir/cache"
	"weir/capture"
	"weir/flow"
	"weir/meter"
	"weir/packet"
)

// manyFlows is a live source of n UDP packets of n flows, as fast as they are
// read; after that the line is quiet.
type manyFlows struct {
	n, at   int
	packets []capture.Packet
	done    atomic.Bool
}

func newManyFlows(n int) *manyFlows {
	s := &manyFlows{n: n, packets: make([]capture.Packet, 256)}
	for i := range s.packets {
		ip := make([]byte, 48)
		copy(ip, []byte{0x45, 0, 0, 48, 0, 1, 0, 0, 64, 17, 0, 0, 10, 9, 0, 2})
		binary.BigEndian.PutUint16(ip[22:], 53)
		binary.BigEndian.PutUint16(ip[24:], 28)
		s.packets[i] = capture.Packet{Data: ip, Wire: 48, Link: packet.LinkRaw, Interface: 2}
	}
	return s
}

func (s *manyFlows) Read(b *capture.Batch) error {
	b.Packets = b.Packets[:0]
	if s.at >= s.n {
		s.done.Store(true)
		time.Sleep(20 * time.Millisecond)
		return nil
	}
	now := time.Now().UnixNano()
	for i := range s.packets[:min(len(s.packets), s.n-s.at)] {
		p := &s.packets[i]
		p.Time = now
		binary.BigEndian.PutUint32(p.Data[16:], 0x0a000000+uint32(s.at))
		binary.BigEndian.PutUint16(p.Data[20:], uint16(1024+s.at%60000))
		b.Packets = append(b.Packets, *p)
		s.at++
	}
	return nil
}

func (s *manyFlows) Close() error { return nil }

// A million flows in the cache, asked for over the socket: the time for all of
// both ends, and the memory that the asked one has at most beyond the cache.
func BenchmarkShowMillionFlows(b *testing.B) {
	const n = 1 << 20
	m, err := meter.New(meter.Config{Cache: cache.Config{Entries: 2 * n}}, flow.SinkFunc(func([]flow.Record) error { return nil }))
	if err != nil {
		b.Fatal(err)
	}
	source := newManyFlows(n)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- m.RunLive(ctx, source) }()
	defer func() { cancel(); <-ended }()
	for !source.done.Load() || m.Snapshot().Cache.Entries < n {
		time.Sleep(10 * time.Millisecond)
	}
	socket, _ := running(b, m)
	for _, c := range []string{
		"flows -o csv", "flows -o csv port 1025", "flows -n 100 -O bytes", "flows -n 100000 -O packets -o csv", "cache --cisco", "flows --cisco -n 50",
		"top-talkers", "top-talkers -s dstip", "top-talkers -s srcip", "top-talkers -s srcport:p", "balance",
	} {
		b.Run(strings.ReplaceAll(c, " ", "_"), func(b *testing.B) {
			runtime.GC()
			var before runtime.MemStats
			runtime.ReadMemStats(&before)
			var most atomic.Uint64
			stop, stopped := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(stopped)
				for {
					var now runtime.MemStats
					runtime.ReadMemStats(&now)
					most.Store(max(most.Load(), now.HeapAlloc))
					select {
					case <-stop:
						return
					case <-time.After(20 * time.Millisecond):
					}
				}
			}()
			for b.Loop() {
				if status := run(context.Background(), append([]string{"--control", socket, "show"}, strings.Fields(c)...), strings.NewReader(""), io.Discard, io.Discard); status != 0 {
					b.Fatalf("exit status %d", status)
				}
			}
			close(stop)
			<-stopped
			b.ReportMetric(float64(max(most.Load(), before.HeapAlloc)-before.HeapAlloc)/(1<<20), "MiB-heap")
			b.ReportMetric(b.Elapsed().Seconds()*1e9/float64(b.N*n), "ns/flow")
		})
	}
}
