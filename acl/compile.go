package acl

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"
	"time"
)

// CompileOptions say what a bank is made for.
type CompileOptions struct {
	Now   time.Time         // for time ranges; its location is where times of day are local
	Ports map[string]uint16 // numbers of the interfaces, 0 to MaxPorts-1; bindings at others are Unbound

	// IDs gives each rule of each list the number that flows remember; 0 means
	// none. The implicit rules, which Implicit has, and those of Protect are
	// asked for once for each list. nil: they are numbered from 1 on.
	IDs func(l *List, r *Rule) uint16

	Protect   [2][]*Rule            // by family: rules in front of every list
	CountOnly func(b *Binding) bool // the list at this binding counts and drops nothing; nil: none does
}

// Bank is a compiled policy: memory that the kernel and Go read alike. It does
// not change.
type Bank struct {
	Words   []uint64  // whole pages of memory
	Until   time.Time // when a time range may begin or end: compile again; zero: never
	Unbound []Binding // those of interfaces without a number

	rules [][]*Rule
	ids   [][]uint16
}

// BankWords is how many of some words are a bank, or 0: what stands behind them is
// not of it.
func BankWords(words []uint64) int {
	if len(words) <= headLengths || words[headMagic] != bankMagic|bankLayout || words[headWords] > uint64(len(words)) {
		return 0
	}
	return int(words[headWords])
}

// Size is how many octets the bank has.
func (b *Bank) Size() int { return 8 * len(b.Words) }

// Lists is how many lists there are: those of the policy, in its order.
func (b *Bank) Lists() int { return len(b.rules) }

// Rules are the rules of a list, as Result.Rule numbers them: those that
// protect, its own, and the implicit ones.
func (b *Bank) Rules(list int) []*Rule { return b.rules[list] }

// ID is the number of a rule of a list, as CompileOptions.IDs gave it.
func (b *Bank) ID(list, rule int) uint16 { return b.ids[list][rule] }

var implicit = [...][]*Rule{
	IPv4: {{Action: Deny, Proto: AnyProto}},
	IPv6: {
		{Action: Permit, Proto: 58, ICMP: []ICMP{{136, -1}}}, // neighbour advertisement
		{Action: Permit, Proto: 58, ICMP: []ICMP{{135, -1}}}, // neighbour solicitation
		{Action: Deny, Proto: AnyProto},
	},
}

// Implicit are the rules behind the last of each list of a family.
func Implicit(f Family) []*Rule { return slices.Clone(implicit[f]) }

// ErrTooBig is what errors.Is finds when a policy compiles to more than can be
// had.
var ErrTooBig = errors.New("the compiled lists are too big")

// Compile makes a bank of a policy.
func Compile(p *Policy, o CompileOptions) (*Bank, error) {
	c := &compiler{policy: p, options: o, normal: newNormaliser(p), bank: &Bank{}, until: map[string]time.Time{}}
	if err := c.compile(); err != nil {
		return nil, err
	}
	return c.bank, nil
}

type compiler struct {
	policy  *Policy
	options CompileOptions
	normal  *normaliser
	bank    *Bank
	words   []uint64
	full    bool // more than MaxBank was asked for
	until   map[string]time.Time
	ids     int
	outside []*Match // those with conditions outside the key
}

// alloc gives n words of zeros at a multiple of align, a power of two; 0 when
// there is no more.
func (c *compiler) alloc(n, align int) int {
	at := (len(c.words) + align - 1) &^ (align - 1)
	if c.full || 8*(at+n) > MaxBank {
		c.full = true
		return 0
	}
	c.words = slices.Grow(c.words, at+n-len(c.words))[:at+n]
	return at
}

// put writes the i-th 32-bit number behind the word at.
func (c *compiler) put(at, i int, v uint32) {
	c.words[at+i/2] |= uint64(v) << (32 * (i & 1))
}

func (c *compiler) compile() error {
	c.alloc(bindings+MaxPorts*2, 1)
	lists := c.alloc(listWords*len(c.policy.Lists), listWords)
	for i, l := range c.policy.Lists {
		if err := c.list(lists+listWords*i, l); err != nil {
			return fmt.Errorf("list %s: %w", l.Name, err)
		}
	}
	if err := c.bind(); err != nil {
		return err
	}
	c.classes()
	c.alloc(0, 512) // whole pages of memory
	if c.full {
		return fmt.Errorf("%w: more than %d MiB", ErrTooBig, MaxBank>>20)
	}
	c.words[headMagic] = bankMagic | bankLayout
	c.words[headWords] = uint64(len(c.words))
	c.words[headLists] = uint64(len(c.policy.Lists)) | uint64(lists)<<32
	c.bank.Words = slices.Clip(c.words)
	for _, t := range c.until {
		if c.bank.Until.IsZero() || !t.IsZero() && t.Before(c.bank.Until) {
			c.bank.Until = t
		}
	}
	return nil
}

func (c *compiler) bind() error {
	taken := map[int]*Binding{}
	for i := range c.policy.Bindings {
		b := &c.policy.Bindings[i]
		list := slices.IndexFunc(c.policy.Lists, func(l *List) bool { return l.Name == b.List && l.Family == b.Family })
		if list < 0 {
			return fmt.Errorf("%v: there is no %v list %q", b.Pos, b.Family, b.List)
		}
		port, ok := c.options.Ports[b.Interface]
		if !ok {
			c.bank.Unbound = append(c.bank.Unbound, *b)
			continue
		}
		if port >= MaxPorts {
			return fmt.Errorf("%v: %s has port number %d: lists can be bound at 0 to %d", b.Pos, b.Interface, port, MaxPorts-1)
		}
		slot := bindingSlot(port, b.Direction, b.Family)
		if was := taken[slot]; was != nil {
			return fmt.Errorf("%v: %s has two %v lists %v: %s and %s", b.Pos, b.Interface, b.Family, b.Direction, was.List, b.List)
		}
		taken[slot] = b
		v := uint32(list + 1)
		if c.options.CountOnly != nil && c.options.CountOnly(b) {
			v |= bindCount
		}
		c.put(bindings, slot, v)
	}
	return nil
}

func bindingSlot(port uint16, d Direction, f Family) int { return int(port)<<2 | int(d)<<1 | int(f) }

// row is a bit of a list's vectors: a rule, or the part of one that has one
// wildcard each way.
type row struct {
	rule     int
	match    *Match
	src, dst *AddrSet
	wild     [2]*Net // source's and destination's, which are looked at octet by octet
}

func (c *compiler) active(r *Rule) (bool, error) {
	if r.Time == "" {
		return true, nil
	}
	i := slices.IndexFunc(c.policy.Times, func(t *TimeRange) bool { return t.Name == r.Time })
	if i < 0 {
		return false, fmt.Errorf("there is no time range %q", r.Time)
	}
	t := c.policy.Times[i]
	c.until[r.Time] = t.change(c.options.Now)
	return t.active(c.options.Now), nil
}

func (c *compiler) id(l *List, r *Rule) (uint16, error) {
	if c.options.IDs != nil {
		return c.options.IDs(l, r), nil
	}
	if c.ids++; c.ids >= MaxIDs {
		return 0, fmt.Errorf("more than %d rules in all lists", MaxIDs-1)
	}
	return uint16(c.ids), nil
}

func (c *compiler) list(at int, l *List) error {
	rules := slices.Concat(c.options.Protect[l.Family], l.Rules, implicit[l.Family])
	if len(l.Rules) > MaxRules {
		return fmt.Errorf("%d rules: %d at most", len(l.Rules), MaxRules)
	}
	c.bank.rules = append(c.bank.rules, rules)
	ids := make([]uint16, 0, len(rules))
	defer func() { c.bank.ids = append(c.bank.ids, ids) }()
	var rows []row
	var entries []uint64
	for i, r := range rules {
		fail := func(err error) error { return fmt.Errorf("rule %d (%v): %w", r.Seq, r.Pos, err) }
		id, err := c.id(l, r)
		if err != nil {
			return fail(err)
		}
		ids = append(ids, id)
		active, err := c.active(r)
		if err != nil {
			return fail(err)
		}
		m, err := c.normal.match(r, l.Family)
		if err != nil {
			return fail(err)
		}
		if i >= len(rules)-len(implicit[l.Family]) {
			m.Later = m.Later && !r.Layer4() // no list lets all later fragments of ICMPv6 pass
		}
		if !active || m.Never() {
			continue
		}
		if m.Outside() {
			c.outside = append(c.outside, &m)
		}
		rows = appendRows(rows, i, &m)
		if len(rows) > maxBits {
			return fail(fmt.Errorf("%w: a list has room for %d rules, where each address that is no prefix counts as one", ErrTooBig, maxBits))
		}
		entry := uint64(id) | uint64(i)<<ruleShift
		if r.Action == Permit {
			entry |= rulePermit
		} else if r.Reject {
			entry |= ruleReject
		}
		if r.Log != NoLog {
			entry |= ruleLog
		}
		if r.Log == LogInput {
			entry |= ruleLogInput
		}
		for len(entries) < len(rows) {
			entries = append(entries, entry)
		}
	}
	last := len(entries) - 1
	c.words[at+listLast] = entries[last]
	rows, entries = rows[:last], entries[:last]
	f, err := c.fields(l.Family, rows)
	if err != nil {
		return err
	}
	c.vectors(at, l.Family, f, rows, entries)
	if c.full {
		return fmt.Errorf("%w: more than %d MiB", ErrTooBig, MaxBank>>20)
	}
	return nil
}

// appendRows adds a rule's rows: its prefixes are one, each wildcard is another.
func appendRows(rows []row, rule int, m *Match) []row {
	type part struct {
		set  *AddrSet
		wild *Net
	}
	parts := func(s *AddrSet) (out []part) {
		if len(s.prefixes) > 0 {
			out = append(out, part{s, nil})
		}
		for i := range s.wild {
			cover, _ := s.wild[i].cover()
			out = append(out, part{&AddrSet{prefixes: []prefix{cover}}, &s.wild[i]})
		}
		return out
	}
	for _, src := range parts(&m.Src) {
		for _, dst := range parts(&m.Dst) {
			rows = append(rows, row{rule, m, src.set, dst.set, [2]*Net{src.wild, dst.wild}})
			if len(rows) > maxBits {
				return rows
			}
		}
	}
	return rows
}

// field is one that some rule has a condition on. Its values are parted into
// sets, and each row has one of them, or all values.
type field struct {
	kind, arg int
	outside   bool  // not of the key
	set       []int // of each row; -1: all
	sets      int
	tree      func(c *compiler, v *values) uint32
	any       []uint64 // the vector of rows with all values
}

// sets numbers what is equal.
type sets[K comparable] struct {
	number map[K]int
	list   []K
}

func (s *sets[K]) of(k K) int {
	n, ok := s.number[k]
	if !ok {
		if s.number == nil {
			s.number = map[K]int{}
		}
		n = len(s.list)
		s.number[k], s.list = n, append(s.list, k)
	}
	return n
}

// fields are those that the rows have conditions on; those of the key come
// first.
func (c *compiler) fields(family Family, rows []row) ([]*field, error) {
	var list []*field
	add := func(f *field, set func(r *row) int) {
		f.set = make([]int, len(rows))
		any := true
		for i := range rows {
			f.set[i] = set(&rows[i])
			any = any && f.set[i] < 0
		}
		if !any {
			list = append(list, f)
		}
	}
	addrs := func(kind, word int, of func(r *row) *AddrSet) {
		f := &field{kind: kind, arg: word}
		var s sets[string]
		var lists []*AddrSet
		names := map[*prefix]int{} // a group's prefixes are many and used by many
		add(f, func(r *row) int {
			a := of(r)
			if a.all(family) {
				return -1
			}
			n, ok := names[&a.prefixes[0]]
			if !ok {
				n = s.of(a.name())
				names[&a.prefixes[0]] = n
				if n == len(lists) {
					lists = append(lists, a)
				}
			}
			return n
		})
		f.sets = len(lists)
		f.tree = func(c *compiler, v *values) uint32 { return c.addrTree(v, lists, word) }
	}
	numbers := func(kind int, outside bool, of func(m *Match) []Range) {
		f := &field{kind: kind, outside: outside}
		var s sets[string]
		var lists [][]Range
		add(f, func(r *row) int {
			list := of(r.match)
			if allNumbers(list) {
				return -1
			}
			n := s.of(rangesName(list))
			if n == len(lists) {
				lists = append(lists, list)
			}
			return n
		})
		f.sets = len(lists)
		f.tree = func(c *compiler, v *values) uint32 { return c.numberTree(v, lists) }
	}
	octets := func(kind, off int, outside bool, of func(r *row) ByteSet) {
		f := &field{kind: kind, arg: off, outside: outside}
		var s sets[ByteSet]
		add(f, func(r *row) int {
			if b := of(r); b != allBytes {
				return s.of(b)
			}
			return -1
		})
		f.sets = len(s.list)
		f.tree = func(c *compiler, v *values) uint32 {
			return c.table(v, 256, func(set, value int) bool { return s.list[set].Has(uint8(value)) })
		}
	}
	word := 0
	if family == IPv4 {
		word = 3
	}
	addrs(kindSrc, word, func(r *row) *AddrSet { return r.src })
	addrs(kindDst, word, func(r *row) *AddrSet { return r.dst })
	numbers(kindSport, false, func(m *Match) []Range { return m.SrcPorts })
	numbers(kindDport, false, func(m *Match) []Range { return m.DstPorts })
	proto := &field{kind: kindProto, arg: offProto}
	type protoSet struct {
		proto        ByteSet
		first, later bool
	}
	var protos sets[protoSet]
	add(proto, func(r *row) int {
		p := protoSet{r.match.Proto, r.match.First, r.match.Later}
		if p.proto == allBytes && p.first && p.later {
			return -1
		}
		return protos.of(p)
	})
	proto.sets = len(protos.list)
	proto.tree = func(c *compiler, v *values) uint32 {
		return c.table(v, 512, func(set, value int) bool {
			p := &protos.list[set]
			return p.proto.Has(uint8(value)) && (value < 256 && p.first || value >= 256 && p.later)
		})
	}
	octets(kindByte, offTOS, false, func(r *row) ByteSet { return r.match.TOS })
	for way, off := range []int{offSrc, offDst} {
		for i := range 16 {
			octets(kindByte, off+i, false, func(r *row) ByteSet {
				n := r.wild[way]
				if n == nil {
					return allBytes
				}
				care := n.Care[i] & (0xff >> min(max(int(n.leading())-8*i, 0), 8)) // the prefix in front is looked up as such
				return bytesThat(func(v uint8) bool { return v&care == n.Addr[i]&care })
			})
		}
	}
	octets(kindFlags, offFlags, true, func(r *row) ByteSet { return r.match.Flags })
	octets(kindByte, offTTL, true, func(r *row) ByteSet { return r.match.TTL })
	numbers(kindSize, true, func(m *Match) []Range { return m.Lengths })
	if len(list) > maxFields {
		return nil, fmt.Errorf("%w: with the octets of addresses that are no prefixes, %d fields are looked at: %d at most", ErrTooBig, len(list), maxFields)
	}
	return list, nil
}

// name is the same for equal sets of prefixes.
func (s *AddrSet) name() string {
	b := make([]byte, 0, 17*len(s.prefixes))
	for _, p := range s.prefixes {
		b = binary.BigEndian.AppendUint64(b, p.word[0])
		b = binary.BigEndian.AppendUint64(b, p.word[1])
		b = append(b, p.bits)
	}
	return string(b)
}

func rangesName(list []Range) string {
	b := make([]byte, 0, 4*len(list))
	for _, r := range list {
		b = binary.BigEndian.AppendUint16(b, r.From)
		b = binary.BigEndian.AppendUint16(b, r.To)
	}
	return string(b)
}

// vectors writes a list's descriptor, rules, rows and fields.
func (c *compiler) vectors(at int, family Family, fields []*field, rows []row, entries []uint64) {
	words := (len(rows) + 63) / 64
	sums := (words + 63) / 64
	stride := 1 << bits.Len(uint(len(fields))) // with one more for the rules with conditions outside the key
	ruleAt := c.alloc(len(entries), 1)
	rowAt := c.alloc(stride*(sums+words), stride)
	if c.full {
		return
	}
	copy(c.words[ruleAt:], entries)
	write := func(i int, vector []uint64) {
		for w, v := range vector {
			if v != 0 {
				c.words[rowAt+stride*(w/64)+i] |= 1 << (w % 64)
				c.words[rowAt+stride*(sums+w)+i] = v
			}
		}
	}
	key := 0
	for i, f := range fields {
		if !f.outside {
			key++
		}
		f.any = make([]uint64, words)
		bitsOf := make([][]int, f.sets)
		for r, set := range f.set {
			if set < 0 {
				f.any[r/64] |= 1 << (r % 64)
			} else {
				bitsOf[set] = append(bitsOf[set], r)
			}
		}
		write(i, f.any)
		ref := f.tree(c, newValues(c, bitsOf, sums))
		if c.full {
			return
		}
		c.words[at+listFields+i] = uint64(ref) | uint64(f.kind)<<32 | uint64(f.arg)<<40
	}
	outside := make([]uint64, words)
	for i := range rows {
		if rows[i].match.Outside() {
			outside[i/64] |= 1 << (i % 64)
		}
	}
	write(len(fields), outside)
	c.words[at+listShape] = uint64(family) | uint64(len(fields))<<8 | uint64(key)<<16 | uint64(bits.Len(uint(stride))-1)<<24
	c.words[at+listCounts] = uint64(sums) | uint64(words)<<32
	c.words[at+listRows] = uint64(rowAt) | uint64(ruleAt)<<32
}

// values gives references to what the values of a field add: equal ones where
// the same sets have them.
type values struct {
	c      *compiler
	sums   int
	bits   [][]int     // of each set
	random [][2]uint64 // of each set: sums of them stand for sets of sets
	refs   map[[2]uint64]uint32
	make   func(in []int) uint32
	vector []uint64 // scratch
}

func newValues(c *compiler, bitsOf [][]int, sums int) *values {
	v := &values{c: c, sums: sums, bits: bitsOf, refs: map[[2]uint64]uint32{}, vector: make([]uint64, 64*sums)}
	for range bitsOf {
		v.random = append(v.random, [2]uint64{rand.Uint64(), rand.Uint64()})
	}
	v.make = v.write
	return v
}

// with is the name of a set of sets with one more or less.
func (v *values) with(name [2]uint64, set int) [2]uint64 {
	return [2]uint64{name[0] ^ v.random[set][0], name[1] ^ v.random[set][1]}
}

// ref gives the reference for a value that is in the sets, whose name is known.
func (v *values) ref(name [2]uint64, in []int) uint32 {
	if r, ok := v.refs[name]; ok {
		return r
	}
	r := v.make(in)
	v.refs[name] = r
	return r
}

// write writes a vector, if it needs memory.
func (v *values) write(in []int) uint32 {
	n, last := 0, 0
	for _, set := range in {
		n += len(v.bits[set])
		if len(v.bits[set]) > 0 {
			last = v.bits[set][0]
		}
	}
	switch n {
	case 0:
		return refNone
	case 1:
		return refBit | uint32(last)
	}
	clear(v.vector)
	for _, set := range in {
		for _, bit := range v.bits[set] {
			v.vector[bit/64] |= 1 << (bit % 64)
		}
	}
	n = 2 * v.sums
	for _, w := range v.vector {
		if w != 0 {
			n++
		}
	}
	align := min(1<<bits.Len(uint(n-1)), 8) // small ones are in one line of the cache
	at := v.c.alloc(n, align)
	if v.c.full {
		return refNone
	}
	next := at + 2*v.sums
	for i, w := range v.vector {
		if i%64 == 0 {
			v.c.words[at+i/64*2+1] = uint64(next)
		}
		if w != 0 {
			v.c.words[at+i/64*2] |= 1 << (i % 64)
			v.c.words[next] = w
			next++
		}
	}
	return refVector | uint32(at)
}

// table gives the offset of a table of references for the values 0 to n-1.
func (c *compiler) table(v *values, n int, has func(set, value int) bool) uint32 {
	at := c.alloc(n/2, 1)
	var in []int
	for value := range n {
		var name [2]uint64
		in = in[:0]
		for set := range v.bits {
			if has(set, value) {
				name = v.with(name, set)
				in = append(in, set)
			}
		}
		ref := v.ref(name, in)
		if c.full {
			return 0
		}
		c.put(at, value, ref)
	}
	return uint32(at)
}

// step is a function of numbers that is constant between bounds: ref[i] from
// bound[i-1] on.
type step struct {
	bound []uint32
	ref   []uint32
}

// add says that from a number on, which is not below those before, it is ref.
func (s *step) add(from, ref uint32) {
	n := len(s.bound)
	switch {
	case len(s.ref) == 0:
		s.ref = append(s.ref, ref) // from 0
	case s.ref[n] == ref:
	case n > 0 && s.bound[n-1] == from:
		s.ref[n] = ref
		if s.ref[n-1] == ref {
			s.bound, s.ref = s.bound[:n-1], s.ref[:n]
		}
	case n == 0 && from == 0:
		s.ref[0] = ref
	default:
		s.bound, s.ref = append(s.bound, from), append(s.ref, ref)
	}
}

// numberTree is the tree of sets of ranges.
func (c *compiler) numberTree(v *values, lists [][]Range) uint32 {
	type change struct {
		at  uint32
		set int
	}
	var changes []change
	for set, list := range lists {
		for _, r := range list {
			changes = append(changes, change{uint32(r.From), set}, change{uint32(r.To) + 1, set})
		}
	}
	slices.SortFunc(changes, func(a, b change) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.set, b.set)) })
	var s step
	s.add(0, v.ref([2]uint64{}, nil))
	var name [2]uint64
	var in []int // ascending
	for i, ch := range changes {
		name = v.with(name, ch.set)
		if at, found := slices.BinarySearch(in, ch.set); found {
			in = slices.Delete(in, at, at+1)
		} else {
			in = slices.Insert(in, at, ch.set)
		}
		if i+1 == len(changes) || changes[i+1].at != ch.at {
			s.add(ch.at, v.ref(name, in))
		}
	}
	return c.tree(s.bound, s.ref)
}

// claim is a prefix of a set.
type claim struct {
	prefix
	set int
}

// addrTree is the tree of sets of addresses, of which the words from first on
// are looked at.
func (c *compiler) addrTree(v *values, lists []*AddrSet, first int) uint32 {
	var claims []claim
	for set, list := range lists {
		for _, p := range list.prefixes {
			claims = append(claims, claim{p, set})
		}
	}
	slices.SortFunc(claims, func(a, b claim) int {
		return cmp.Or(compareAddr(a.prefix, b.prefix), cmp.Compare(a.set, b.set))
	})
	return c.chunk(v, claims, first, [2]uint64{}, nil)
}

// chunk is the tree of one word of the address, for claims that agree in those
// before it, within the sets that have all of it.
func (c *compiler) chunk(v *values, claims []claim, word int, name [2]uint64, in []int) uint32 {
	type open struct {
		end  uint64 // the first number behind it
		name [2]uint64
		in   int
	}
	start := uint8(32 * word)
	number := func(p *prefix) uint32 { return uint32(p.word[word/2] >> (32 * (1 - word&1))) }
	var s step
	s.add(0, v.ref(name, in))
	stack := []open{{1 << 32, name, len(in)}}
	in = slices.Clone(in)
	pop := func(upTo uint64) {
		for len(stack) > 1 && stack[len(stack)-1].end <= upTo {
			end := stack[len(stack)-1].end
			stack = stack[:len(stack)-1]
			top := &stack[len(stack)-1]
			name, in = top.name, in[:top.in]
			if end < top.end {
				s.add(uint32(end), v.ref(name, in))
			}
		}
	}
	for i := 0; i < len(claims); {
		p := &claims[i]
		at := number(&p.prefix)
		pop(uint64(at))
		if p.bits > start+32 {
			n := i
			for n < len(claims) && number(&claims[n].prefix) == at {
				n++
			}
			ref := c.chunk(v, claims[i:n], word+1, name, in)
			if ref&refKind >= refNode3 {
				ref |= refNext
			}
			s.add(at, ref)
			if uint64(at)+1 < stack[len(stack)-1].end {
				s.add(at+1, v.ref(name, in))
			}
			i = n
			continue
		}
		name, in = v.with(name, p.set), append(in, p.set)
		stack = append(stack, open{uint64(at) + 1<<(start+32-p.bits), name, len(in)})
		s.add(at, v.ref(name, in))
		i++
	}
	pop(1 << 32)
	return c.tree(s.bound, s.ref)
}

// tree writes a step function.
func (c *compiler) tree(bound, ref []uint32) uint32 {
	n := len(bound)
	switch {
	case n == 0:
		return ref[0]
	case n <= 3:
		return c.node(refNode3, 3, bound, ref)
	case n <= 7:
		return c.node(refNode7, 7, bound, ref)
	case n >= 64:
		if size, parts, ok := spread(bound); ok {
			return c.parts(bound, ref, size, parts)
		}
	}
	// eight subtrees, with a bound between each two
	var bounds, refs []uint32
	from := 0
	for i := range 8 {
		to := (n - 7) * (i + 1) / 8
		to += i
		refs = append(refs, c.tree(bound[from:to], ref[from:to+1]))
		if i < 7 {
			bounds = append(bounds, bound[to])
		}
		from = to + 1
	}
	return c.node(refNode7, 7, bounds, refs)
}

func (c *compiler) node(kind uint32, room int, bound, ref []uint32) uint32 {
	at := c.alloc(room+1, room+1)
	if c.full {
		return refNone
	}
	for i := range room {
		b := ^uint32(0) // finds the last reference, if it finds this one
		if i < len(bound) {
			b = bound[i]
		}
		c.put(at, i, b)
	}
	for i := range room + 1 {
		c.put(at, room+i, ref[min(i, len(ref)-1)])
	}
	return kind | uint32(at/4)
}

// spread says into how many parts, of which size in bits, to divide numbers so
// that most have a node's bounds, and whether that is any good: it parts what
// is close together from what is not no worse than a node does.
func spread(bound []uint32) (size, parts int, ok bool) {
	n := len(bound)
	width := bound[n-1] - bound[0]
	most := 1 << bits.Len(uint(n/4))
	for int(width>>size) >= most {
		size++
	}
	parts = int(width>>size) + 1
	largest, count, part := 0, 0, uint32(0)
	for _, b := range bound {
		if p := (b - bound[0]) >> size; p != part {
			part, count = p, 0
		}
		count++
		largest = max(largest, count)
	}
	return size, parts, largest <= max(7, n/8)
}

// parts writes a table.
func (c *compiler) parts(bound, ref []uint32, size, parts int) uint32 {
	at := c.alloc(1+(parts+1)/2, 4)
	if c.full {
		return refNone
	}
	c.words[at] = uint64(bound[0]) | uint64(parts-1)<<32 | uint64(size)<<56
	from := 0
	for i := range parts {
		to := from
		for to < len(bound) && int((bound[to]-bound[0])>>size) == i {
			to++
		}
		r := c.tree(bound[from:to], ref[from:to+1])
		if c.full {
			return refNone
		}
		c.put(at+1, i, r)
		from = to
	}
	return refTable | uint32(at/4)
}

// classes writes the tables of what is outside the key: numbers whose sum is
// the class.
func (c *compiler) classes() {
	at := c.alloc(64, 64)
	if c.full {
		return
	}
	var flags, ttls sets[ByteSet]
	var lengths sets[string]
	var lists [][]Range
	for _, m := range c.outside {
		flags.of(m.Flags)
		ttls.of(m.TTL)
		if n := lengths.of(rangesName(m.Lengths)); n == len(lists) {
			lists = append(lists, m.Lengths)
		}
	}
	n := 1 // how many classes there are
	octets := func(at int, s *sets[ByteSet]) {
		class := map[string]int{}
		for v := range 256 {
			has := make([]byte, len(s.list))
			for i := range s.list {
				if s.list[i].Has(uint8(v)) {
					has[i] = 1
				}
			}
			if _, ok := class[string(has)]; !ok {
				class[string(has)] = len(class)
			}
			c.words[at+v/8] |= uint64(uint8(class[string(has)]*n)) << (v % 8 * 8)
		}
		n *= len(class)
	}
	octets(at, &flags)
	octets(at+32, &ttls)
	var lengthTree uint32
	if n <= maxClasses {
		v := newValues(c, make([][]int, len(lists)), 0)
		v.make = func([]int) uint32 { return refBit | uint32(len(v.refs)*n) }
		lengthTree = c.numberTree(v, lists)
		n *= len(v.refs)
	}
	mode := classesNone
	if len(c.outside) > 0 {
		mode = classesSome
	}
	if n > maxClasses {
		mode = classesMany
	}
	c.words[headClasses] = uint64(mode) | uint64(at)<<32
	c.words[headLengths] = uint64(lengthTree)
}
