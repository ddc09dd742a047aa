package export

import (
	"hash/fnv"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// MemoryWords is how many words of Options.Memory are used at most.
const MemoryWords = 256

// The form of Options.Memory, in words of 64 bits:
//
//	0      "weirSEQ" and the form's number, 1: else all is taken for empty
//	1-3    0
//	4-7    a slot for a destination, and so on to the end:
//	  +0   its name: a hash of host, port, version, domain (see nameOf); 0: free
//	  +1   upper half: the sequence number of the next datagram; lower: check
//	  +2   upper half: when sysUptime is 0, in s after Options.Boot + 2^31;
//	       lower: check, Options.Boot in it
//	  +3   Unix ns when the destination was last taken up
//
// The name leaves out what does not make another stream of datagrams, such as
// rate and template. A check is a hash of the name and the upper half, so that
// a word which is not ours, or of another destination, is not believed: then
// the destination begins at 0, as if nothing had been remembered. Every word is
// stored whole, by the process that has the slot; when there is no free one the
// destination that was taken up longest ago gives way.
//
// A sequence number is stored when the kernel has taken the datagrams, up to
// batchMax of them, and before their records count as handed on. Who is killed
// between the two uses those numbers again, for datagrams that begin with the
// same records, because whoever gave them gives them again. Stored before, they
// would be a hole, and every collector would report as lost what was not.
const (
	memoryMagic = 'w'<<56 | 'e'<<48 | 'i'<<40 | 'r'<<32 | 'S'<<24 | 'E'<<16 | 'Q'<<8 | 1
	slotWords   = 4

	slotName     = 0
	slotSequence = 1
	slotBoot     = 2
	slotTaken    = 3
)

// memory is Options.Memory, shared by the senders.
type memory struct {
	mu    sync.Mutex
	words []uint64
}

// slot is the words of one destination; a nil slot remembers nothing.
type slot struct {
	name  uint64
	words *[slotWords]uint64
}

func newMemory(words []uint64) *memory {
	return &memory{words: words[:min(len(words), MemoryWords)]}
}

// nameOf is never 0. twin tells destinations apart that are otherwise the same.
func nameOf(d Destination, twin int) uint64 {
	h := fnv.New64a()
	parts := []string{net.JoinHostPort(d.Host, strconv.Itoa(int(d.Port))), strconv.Itoa(int(d.Version)), strconv.FormatUint(uint64(d.Domain), 10), strconv.Itoa(twin)}
	if d.Connected() {
		parts = append(parts, d.Network)
	}
	for _, part := range parts {
		h.Write([]byte(part))
		h.Write([]byte{0})
	}
	return max(mix(h.Sum64()), 1)
}

// mix is a permutation of 64 bits that leaves none where it was.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// take finds the name's slot, or makes one; nil if there is no memory.
func (m *memory) take(name uint64, now time.Time) *slot {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.words) < 2*slotWords {
		return nil
	}
	if atomic.LoadUint64(&m.words[0]) != memoryMagic {
		for i := range m.words {
			atomic.StoreUint64(&m.words[i], 0)
		}
		atomic.StoreUint64(&m.words[0], memoryMagic)
	}
	var best *[slotWords]uint64
	for at := slotWords; at+slotWords <= len(m.words); at += slotWords {
		w := (*[slotWords]uint64)(m.words[at:])
		if atomic.LoadUint64(&w[slotName]) == name {
			best = w
			break
		}
		if best == nil || older(w, best) {
			best = w
		}
	}
	if atomic.LoadUint64(&best[slotName]) != name {
		atomic.StoreUint64(&best[slotSequence], 0)
		atomic.StoreUint64(&best[slotBoot], 0)
		atomic.StoreUint64(&best[slotName], name)
	}
	atomic.StoreUint64(&best[slotTaken], uint64(now.UnixNano()))
	return &slot{name, best}
}

// older says whether a gives way before b: a free one, or taken up earlier.
func older(a, b *[slotWords]uint64) bool {
	freeA, freeB := atomic.LoadUint64(&a[slotName]) == 0, atomic.LoadUint64(&b[slotName]) == 0
	if freeA != freeB {
		return freeA
	}
	return atomic.LoadUint64(&a[slotTaken]) < atomic.LoadUint64(&b[slotTaken])
}

// store puts v and its check into a word; salt must be the same when loading.
func (s *slot) store(word int, v uint32, salt uint64) {
	if s != nil {
		atomic.StoreUint64(&s.words[word], uint64(v)<<32|s.check(word, v, salt))
	}
}

func (s *slot) load(word int, salt uint64) (v uint32, ok bool) {
	if s == nil {
		return 0, false
	}
	w := atomic.LoadUint64(&s.words[word])
	v = uint32(w >> 32)
	return v, uint64(uint32(w)) == s.check(word, v, salt)
}

func (s *slot) check(word int, v uint32, salt uint64) uint64 {
	return mix(mix(s.name+uint64(word))^uint64(v)^mix(salt)) >> 32
}

// sequence is the number of the next datagram.
func (s *slot) sequence() (seq uint32, ok bool) { return s.load(slotSequence, 0) }

func (s *slot) setSequence(seq uint32) { s.store(slotSequence, seq, 0) }

// boot is when the stream's sysUptime is 0, Unix ns in whole seconds, if it
// was set under the same Options.Boot, base.
func (s *slot) boot(base int64) (boot int64, ok bool) {
	v, ok := s.load(slotBoot, uint64(base))
	return base + (int64(v)-1<<31)*int64(time.Second), ok
}

func (s *slot) setBoot(boot, base int64) {
	s.store(slotBoot, uint32((boot-base)/int64(time.Second)+1<<31), uint64(base))
}
