package datapath

import (
	"errors"
	"sync/atomic"

	"weir/bpf"
	"weir/cache"
	"weir/flow"
)

var errEnough = errors.New("enough")

// Walk shows what is in the table and has not been handed on, in batches that
// are valid during the call; each is of one moment. What has counted nothing
// since its last record is left out. An error of yield ends it.
func (s *Sweeper) Walk(yield func([]flow.Record) error) error {
	records := make([]flow.Record, 0, pageSets*bpf.Ways)
	var text []byte
	tables, all := s.mem.Flows+s.mem.Aggregates, len(s.mem.Sets)
	for at := 0; at < all; at += pageSets {
		records, text = records[:0], text[:0]
		s.mu.Lock() // no entry is freed, so none changes its flow
		for i := at; i < min(at+pageSets, all); i++ {
			set := &s.mem.Sets[i]
			s.fetchSet(i + 1)
			for way := range set.Word {
				slot := uint32(i*bpf.Ways + way)
				if i < tables {
					switch atomic.LoadUint32(&set.Word[way]) & bpf.StateMask {
					case bpf.Free, bpf.Claimed:
						continue
					}
				} else if slot >= s.slots() {
					break
				}
				records, text = s.show(slot, &set.Entry[way], records, text)
			}
		}
		s.mu.Unlock()
		if len(records) > 0 {
			if err := yield(records); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Sweeper) show(slot uint32, e *bpf.Entry, into []flow.Record, text []byte) ([]flow.Record, []byte) {
	done, _ := s.banks(slot, e)
	now, was := read(e), load(done)
	if now.Packets <= was.Packets {
		return into, text
	}
	r := record{
		atomic.LoadUint64(&e.First), atomic.LoadUint64(&e.Last), loadFacts(e), now, was,
		atomic.LoadUint32(&e.Incarnation) + 1, flow.EndUnknown, s.dropped(slot),
	}
	into = into[:len(into)+1]
	out := &into[len(into)-1]
	text = s.fill(slot, &e.Key, &r, out, text)
	out.Has &^= flow.HasEndReason
	return into, text
}

// Entries is Walk, record by record.
func (s *Sweeper) Entries(yield func(*flow.Record) bool) {
	_ = s.Walk(func(batch []flow.Record) error {
		for i := range batch {
			if !yield(&batch[i]) {
				return errEnough
			}
		}
		return nil
	})
}

// Ports sums up what has been counted since the table was made, by port number
// * 2 + egress: what left the table, and what is in it now. Number 0 stands for
// what is of no port.
func (s *Sweeper) Ports(into *[2 * bpf.MaxPorts]bpf.Count) {
	s.mu.Lock() // nothing leaves meanwhile
	defer s.mu.Unlock()
	for i := range into {
		sum := &s.mem.Meta.Retired[i]
		into[i] = load(sum)
	}
	var memo portMemo
	add := func(port uint32, e *bpf.Entry) {
		c := read(e)
		into[port].Packets += c.Packets
		into[port].Bytes += c.Bytes
	}
	for i := range s.mem.Sets[:s.mem.Flows+s.mem.Aggregates] {
		set := &s.mem.Sets[i]
		s.fetchSet(i + 1)
		for way := range set.Word {
			switch atomic.LoadUint32(&set.Word[way]) & bpf.StateMask {
			case bpf.Free, bpf.Claimed:
				continue
			}
			e := &set.Entry[way]
			if memo.input != e.Key.Input {
				memo = portMemo{input: e.Key.Input, index: portIndex(s.mem.Control, e.Key.Input)}
			}
			add(memo.index, e)
		}
	}
	for slot := s.firstCatchAll(); slot < s.slots(); slot++ {
		add(slot-s.firstCatchAll(), s.entry(slot))
	}
}

// Stats are the counters since Adopt, as of the last tick. Packets and Bytes
// are 0: see Ports. Flows that Adopt found count as created.
func (s *Sweeper) Stats() cache.Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}

// Interrupted is the one reason for which the table itself loses packets.
const Interrupted = "interrupted"

// Losses is the sweeper's part of the ledger.
func (s *Sweeper) Losses() []flow.Loss {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append(s.stats.Lost.Losses(), flow.Loss{
		Stage: "cache", Reason: Interrupted, Records: s.interrupted.Records, Packets: s.interrupted.Packets, Bytes: s.interrupted.Bytes,
		Help: "A program of the kernel ended within its work, and what it was about to count could not be told: report it, with the kernel's version.",
	})
}
