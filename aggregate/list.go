package aggregate

// none is no entry.
const none = -1

// links join an entry to its neighbours in a list.
type links struct{ prev, next int32 }

var unlinked = links{none, none}

// list orders entries; each entry has links for each list it is in.
type list struct{ first, last int32 }

func newList() list { return list{none, none} }

func idleOf(e *entry) *links { return &e.idle }
func ageOf(e *entry) *links  { return &e.age }

// toEnd puts entry i at the end, wherever it was.
func (l *list) toEnd(all []entry, i int32, of func(*entry) *links) {
	if l.last == i {
		return
	}
	l.remove(all, i, of)
	*of(&all[i]) = links{l.last, none}
	if l.last == none {
		l.first = i
	} else {
		of(&all[l.last]).next = i
	}
	l.last = i
}

// remove takes entry i out, if it is in.
func (l *list) remove(all []entry, i int32, of func(*entry) *links) {
	at := of(&all[i])
	if at.prev == none && l.first != i {
		return // not in
	}
	if at.prev == none {
		l.first = at.next
	} else {
		of(&all[at.prev]).next = at.next
	}
	if at.next == none {
		l.last = at.prev
	} else {
		of(&all[at.next]).prev = at.prev
	}
	*at = unlinked
}
