package export

import (
	"weir/ie"
	"weir/wire"
)

// Rules says what stands behind the numbers of rules in records. Both are asked
// from within WriteRecords, and answer at once.
type Rules interface {
	// Rule is a list's name and the rule as it is written; false: no rule has
	// that number.
	Rule(number uint16) (list, rule string, ok bool)
	// Changed is another number as soon as a number stands for another rule.
	Changed() uint64
}

// Options templates of rules: commonPropertiesId is the number, to which selectorName
// gives the list's name, a space, and the rule. v9 has no such scope.
var (
	rulesV9 = optionsTemplate{263, 1, []wire.FieldSpec{
		{ID: scopeSystem, Length: 4},
		{ID: ie.IDCommonPropertiesId, Length: 4},
		{ID: ie.IDSelectorName, Length: maxRule},
	}}
	rulesIPFIX = optionsTemplate{263, 1, []wire.FieldSpec{
		{ID: ie.IDCommonPropertiesId, Length: 4},
		{ID: ie.IDSelectorName, Length: maxRule},
	}}
)

const maxRule = 128 // octets that are told of a rule and its list

// rules are those that a stream's records have named: as many as traffic meets,
// however long the lists are. Each is told before the first record that names it.
type rules struct {
	from    Rules
	changed uint64
	named   [1 << 16 / 64]uint64
	all     []uint16 // in the order in which they were named
	told    int      // of them
}

// name is called for each record that names a rule.
func (r *rules) name(number uint16) {
	if word, bit := &r.named[number/64], uint64(1)<<(number%64); *word&bit == 0 {
		*word |= bit
		r.all = append(r.all, number)
	}
}

// due says that there are rules to be told before the next data.
func (r *rules) due() bool {
	if r == nil || len(r.all) == 0 {
		return false
	}
	if c := r.from.Changed(); c != r.changed {
		r.changed, r.told = c, 0
	}
	return r.told < len(r.all)
}

// rules announces those that have not been told.
func (w *optionsWriter) rules(r *rules) {
	if !r.due() {
		return
	}
	t := w.pick(&rulesV9, &rulesIPFIX)
	for _, number := range r.all[r.told:] {
		list, rule, ok := r.from.Rule(number)
		if !ok {
			continue
		}
		rec := w.s.scratch[:0]
		if t == &rulesV9 {
			rec = be.AppendUint32(rec, w.s.domain)
		}
		rec = be.AppendUint32(rec, uint32(number))
		rec = wire.AppendString(rec, clip(list+" "+rule, maxRule), maxRule)
		w.put(t, rec)
		w.s.scratch = rec
	}
	r.told = len(r.all)
}
