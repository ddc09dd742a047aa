package acl

// A Bank's words. Its twin is bpf/acl.h, which names what is here in the same
// way; change bankLayout when anything changes its place or its meaning, and the
// kernel's LAYOUT (bpf/flow.h) with it.
//
// Offsets count words from the start of the bank.
//
//	head       bankLayout, and what else head… says
//	bindings   [port number][direction][family], two to a word: list + 1, or 0, and bindCount
//	classes    of TCP flags and of TTLs: [256] octets each
//	lists      a descriptor of listWords each
//	rules      of each list, a word for each bit of its vectors: rule…
//	rows       of each list: what of its vectors all values of a field have
//	tables, nodes, vectors
//
// A list's rules are the bits of vectors, in order. A rule is one bit, or
// several where it has addresses that are no prefixes, or none, if it can never
// match. The last one, which matches all, is none: it is what remains. Each field that any rule has a condition on gives, for a packet's value
// of it, a vector of the rules that have no objection; what all vectors have in
// common is the first bit that is set in all.
//
// Most rules do not ask for most fields. So a field's vectors are two: one for
// the rules that ask for nothing, which stands in the rows, and one for what
// the value adds, to which leads a reference: none, a single bit, which needs no
// memory, or a vector in which only words that are not 0 are written.
//
// A row has the words of all fields side by side, and behind them that of the
// rules with conditions outside the key: first the rows of the summary, which
// has a bit for each word that is not 0, then those of the words.
//
// A vector starts with a summary word and the offset of the first word that it
// speaks of, in turn for each row of the summary.
//
// An address, a port or a length is looked up in a tree of 32-bit numbers, an
// IPv6 address in up to four of them. What it finds is the interval between two
// bounds that the number is in. A small node has some bounds, in order, and
// references for the intervals between them; a table has a reference for each of
// many equal parts of its numbers. As there is a table wherever the bounds are
// many and no worse spread than eight nodes would part them, there is rarely
// more to read than a table and a node, and never more than the logarithm says.
const (
	bankLayout = 1
	bankMagic  = 0x77656972_00000000 // "weir", layout

	// words of the head
	headMagic   = 0
	headWords   = 1
	headLists   = 2 // number, offset << 32
	headClasses = 3 // classes…, offset << 32
	headLengths = 4 // reference to the tree of length classes
	bindings    = 512

	// Ports that lists can be bound at.
	MaxPorts = 256

	bindList  = 0x7fffffff
	bindCount = 0x80000000 // nothing is dropped, only counted

	classesNone = 0 // no rule has a condition outside the key
	classesSome = 1
	classesMany = 2 // more than a flow's entry can tell apart

	listWords = 32
	// words of a list's descriptor
	listShape  = 0 // family, fields << 8, those of the key << 16, log2 of the words of a row << 24
	listCounts = 1 // rows of the summary, words << 32
	listRows   = 2 // offset of the rows, of the rules << 32
	listLast   = 3 // the word of the last rule
	listFields = 4 // for each field, of which there are maxFields at most: reference or offset, kind… << 32, argument << 40
	maxFields  = 20

	kindByte  = 0 // argument: offset in the kernel's struct packet; table of 256
	kindProto = 1 // as kindByte; table of 512: later fragments have the second half
	kindSrc   = 2 // trees; argument: the first of the address's four words that is looked at
	kindDst   = 3
	kindSport = 4
	kindDport = 5
	kindSize  = 6
	kindFlags = 7 // as kindByte; like ports not asked of later fragments

	// references
	refBit    = 1 << 28
	refNone   = refBit | refValue // a bit that no list has: where most packets differ, no branch need be guessed
	refVector = 2 << 28           // offset
	refAll    = 3 << 28           // every bit
	refNode3  = 4 << 28           // offset / 4: three bounds, four references, a spare
	refNode7  = 5 << 28           // offset / 4: seven bounds, eight references, a spare
	refTable  = 6 << 28           // offset / 4: a word {first number, parts-1 << 32, log2 of their size << 56}, references
	refNext   = 1 << 31           // with the last three: of the next 32 bits of the address
	refKind   = 7 << 28
	refValue  = 1<<28 - 1

	// bits of a rule's word
	rulePermit   = 1 << 16
	ruleReject   = 1 << 17
	ruleLog      = 1 << 18
	ruleLogInput = 1 << 19
	ruleShift    = 32 // what is above is its number in the list

	// offsets in the kernel's struct packet
	offSrc, offDst   = 0, 16
	offProto, offTOS = 42, 43
	offFlags, offTTL = 60, 61
)

// Classes of what is outside the key, as a flow's entry has them. Lower numbers
// are Bank.Class's.
const (
	ClassMany  = 254 // too many to tell apart: each packet is judged anew
	ClassFixed = 255 // the verdict depends on the key alone
	maxClasses = 251
)

// Limits of banks.
const (
	MaxBank  = 256 << 20 // octets
	BankPage = 2 << 20   // octets of an element of the kernel's map; what a bank lacks of the last is 0
	maxBits  = 36864     // of a list's vectors: MaxRules and what protects, and addresses that are no prefixes
)
