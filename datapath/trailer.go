package datapath

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"weir/acl"
	"weir/bpf"
)

// trailer is what the next daemon needs to know of lists in force. It stands behind the
// words of their bank, where the programs do not read. A bank is made, and its trailer
// with it, before any word says that it is in force: whenever a daemon is killed, each
// bank that is judged by has its own.
//
//	word      trailerMark
//	word      octets that follow; what is left of the last word is 0
//	varint    since: ns since 1970
//	uvarint   octets of the policy
//	          the policy, in Cisco's words
//	for each number that is given, in order:
//	uvarint   the number less the one before, or less 0
//	uvarint   octets of the identity
//	          the rule's identity
type trailer struct {
	policy []byte
	names  []string // identities by number; "": the number is nobody's
	since  time.Time
}

const (
	trailerMark = 0x7765697274726c32 // "weirtrl2"
	trailerJSON = 0x7765697274726c72 // "weirtrlr": until the form above
)

var errTrailer = errors.New("of another weir, and cannot be read")

// ids are the numbers by identity.
func (t *trailer) ids() map[string]uint16 {
	ids := make(map[string]uint16, len(t.names))
	for number, name := range t.names {
		if name != "" {
			ids[name] = uint16(number)
		}
	}
	return ids
}

// append gives a bank's words with the trailer behind them.
func (t *trailer) append(words []uint64) []uint64 {
	size := 2*binary.MaxVarintLen64 + len(t.policy)
	for _, name := range t.names {
		size += 2*binary.MaxVarintLen16 + len(name)
	}
	b := binary.AppendVarint(make([]byte, 0, size+8), t.since.UnixNano())
	b = append(binary.AppendUvarint(b, uint64(len(t.policy))), t.policy...)
	last := 0
	for number, name := range t.names {
		if name == "" {
			continue
		}
		b = binary.AppendUvarint(b, uint64(number-last))
		b = append(binary.AppendUvarint(b, uint64(len(name))), name...)
		last = number
	}
	return appendOctets(words, trailerMark, b)
}

// appendOctets gives words, and octets behind a mark and their number. What was there
// is copied: it may be part of something longer.
func appendOctets(words []uint64, mark uint64, b []byte) []uint64 {
	all := append(make([]uint64, 0, len(words)+2+(len(b)+7)/8), words...)
	all = append(all, mark, uint64(len(b)))
	for len(b) >= 8 {
		all = append(all, binary.NativeEndian.Uint64(b))
		b = b[8:]
	}
	if len(b) > 0 {
		var rest [8]byte
		copy(rest[:], b)
		all = append(all, binary.NativeEndian.Uint64(rest[:]))
	}
	return all
}

// readTrailer finds what stands behind the words of a bank.
func readTrailer(words []uint64) (*trailer, error) {
	n := acl.BankWords(words)
	if n == 0 || n+2 > len(words) {
		return nil, errTrailer
	}
	mark, size, rest := words[n], words[n+1], words[n+2:]
	if mark != trailerMark && mark != trailerJSON {
		return nil, errTrailer
	}
	if size > 8*uint64(len(rest)) {
		return nil, fmt.Errorf("%d octets are told to stand behind their words, where there are %d", size, 8*len(rest))
	}
	b := make([]byte, 0, size+8)
	for _, w := range rest[:(size+7)/8] {
		b = binary.NativeEndian.AppendUint64(b, w)
	}
	if mark == trailerJSON {
		return parseJSON(b[:size])
	}
	return parseTrailer(b[:size])
}

func parseTrailer(b []byte) (*trailer, error) {
	r := trailerReader{all: b, rest: b}
	t := &trailer{since: time.Unix(0, r.varint("since"))}
	t.policy = r.octets("policy")
	known := map[string]bool{}
	for number := uint64(0); len(r.rest) > 0 && r.err == nil; {
		step := r.uvarint("rule's number")
		if step == 0 || step >= bpf.MaxRules-number {
			r.fail("rule's number", fmt.Sprintf("%d behind %d: they grow, up to %d", step, number, bpf.MaxRules-1))
			break
		}
		number += step
		name := string(r.octets("rule"))
		if r.err == nil && (name == "" || known[name]) {
			r.fail("rule", fmt.Sprintf("number %d has one that is empty, or has a number already", number))
		}
		known[name] = true
		t.name(uint16(number), name)
	}
	if r.err != nil {
		return nil, r.err
	}
	return t, nil
}

// name gives a number to a rule.
func (t *trailer) name(number uint16, name string) {
	if n := int(number) + 1 - len(t.names); n > 0 {
		t.names = slices.Grow(t.names, n)[:int(number)+1]
	}
	t.names[number] = name
}

func parseJSON(b []byte) (*trailer, error) {
	var old struct {
		Policy []byte
		IDs    map[string]uint16
		Since  time.Time
	}
	if err := json.Unmarshal(b, &old); err != nil {
		return nil, fmt.Errorf("what stands behind their words: %w", err)
	}
	t := &trailer{policy: old.Policy, since: old.Since}
	for name, number := range old.IDs {
		if number == 0 || name == "" || int(number) < len(t.names) && t.names[number] != "" {
			return nil, fmt.Errorf("what stands behind their words: rule's number %d is none, or is given twice", number)
		}
		t.name(number, name)
	}
	return t, nil
}

// trailerReader reads until something is wrong.
type trailerReader struct {
	all, rest []byte
	err       error
}

func (r *trailerReader) fail(field, why string) {
	if r.err == nil {
		r.err = fmt.Errorf("what stands behind their words, octet %d: %s: %s", len(r.all)-len(r.rest), field, why)
		r.rest = nil
	}
}

func (r *trailerReader) take(field string, n int) []byte {
	if n <= 0 || n > len(r.rest) {
		r.fail(field, "cut short, or no number")
		return nil
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *trailerReader) uvarint(field string) uint64 {
	v, n := binary.Uvarint(r.rest)
	r.take(field, n)
	return v
}

func (r *trailerReader) varint(field string) int64 {
	v, n := binary.Varint(r.rest)
	r.take(field, n)
	return v
}

// octets are some behind their number.
func (r *trailerReader) octets(field string) []byte {
	n := r.uvarint(field)
	switch {
	case r.err != nil || n == 0:
		return nil
	case n > uint64(len(r.rest)):
		r.fail(field, fmt.Sprintf("%d octets, where %d are left", n, len(r.rest)))
		return nil
	}
	return r.take(field, int(n))
}
