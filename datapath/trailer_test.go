package datapath

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"weir/acl"
	"weir/bpf"
)

// bankOf is a bank, without what stands behind it.
func bankOf(t testing.TB, p *acl.Policy) []uint64 {
	t.Helper()
	bank, err := acl.Compile(p, acl.CompileOptions{Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	return bank.Words
}

func anyPolicy(t testing.TB) *acl.Policy {
	return mustRead(t, "ip access-list extended L\n permit ip any any\ninterface lo\n ip access-group L in\n")
}

func equalTrailers(a, b *trailer) bool {
	return bytes.Equal(a.policy, b.policy) && slices.Equal(a.names, b.names) && a.since.Equal(b.since)
}

func TestTrailer(t *testing.T) {
	bank := bankOf(t, anyPolicy(t))
	all := make([]string, bpf.MaxRules)
	for n := range all[1:] {
		all[n+1] = fmt.Sprint("rule ", n)
	}
	for name, want := range map[string]*trailer{
		"nothing":        {since: time.Unix(0, 0)},
		"a gap":          {policy: []byte("text\n"), names: []string{1: "one", 300: "three hundred", 301: "next"}, since: time.Now()},
		"every number":   {policy: []byte("text\n"), names: all, since: time.Now()},
		"the last alone": {names: append(make([]string, bpf.MaxRules-1), "last"), since: time.Unix(-1, 5)},
	} {
		// What is mapped is whole pages: there is more behind it.
		words := append(want.append(bank), 0, 0, 0)
		if !slices.Equal(words[:len(bank)], bank) {
			t.Errorf("%s: the bank's words are others", name)
		}
		got, err := readTrailer(words)
		if err != nil || !equalTrailers(got, want) {
			t.Errorf("%s: read %+v, %v", name, got, err)
		}
	}
}

// What a weir wrote that knew JSON alone.
func TestTrailerOfOldForm(t *testing.T) {
	bank := bankOf(t, anyPolicy(t))
	write := func(b string) []uint64 { return appendOctets(bank, trailerJSON, []byte(b)) }
	since := time.Date(2026, 3, 4, 5, 6, 7, 8, time.UTC)
	b, err := json.Marshal(map[string]any{"policy": []byte("text"), "ids": map[string]int{"A": 1, "B": 7}, "since": since})
	if err != nil {
		t.Fatal(err)
	}
	got, err := readTrailer(write(string(b)))
	if err != nil || !equalTrailers(got, &trailer{policy: []byte("text"), names: []string{1: "A", 7: "B"}, since: since}) {
		t.Errorf("read %+v, %v", got, err)
	}
	for _, bad := range []string{``, `{"ids":{"A":1,"B":1}}`, `{"ids":{"A":0}}`, `{"ids":{"A":65536}}`, `{"ids":{"":1}}`} {
		if got, err := readTrailer(write(bad)); err == nil {
			t.Errorf("%s: read %+v", bad, got)
		}
	}
}

// Whatever stands behind a bank, it is read or refused with its place.
func TestTrailerHostile(t *testing.T) {
	bank := bankOf(t, anyPolicy(t))
	start := append(binary.AppendVarint(nil, 1), 0) // since, no policy
	huge := binary.AppendUvarint(nil, 1<<63)
	for _, c := range []struct {
		name  string
		words []uint64
		err   string
	}{
		{"no words", nil, "of another weir"},
		{"no bank", make([]uint64, 1000), "of another weir"},
		{"nothing", bank, "of another weir"},
		{"another mark", appendOctets(bank, 1, nil), "of another weir"},
		{"longer than there is", append(slices.Clone(bank), trailerMark, 9, 0), "9 octets are told"},
		{"much longer", append(slices.Clone(bank), trailerMark, 1<<64-1, 0), "octets are told"},
		{"empty", appendOctets(bank, trailerMark, nil), "octet 0: since: cut short"},
		{"no end to a number", appendOctets(bank, trailerMark, bytes.Repeat([]byte{0x80}, 20)), "octet 0: since"},
		{"policy cut", appendOctets(bank, trailerMark, []byte{2, 5, 'x'}), "octet 2: policy: 5 octets, where 1 are left"},
		{"policy of any length", appendOctets(bank, trailerMark, append([]byte{2}, huge...)), "policy"},
		{"number 0", appendOctets(bank, trailerMark, append(slices.Clone(start), 0, 1, 'A')), "octet 3: rule's number: 0 behind 0"},
		{"the same number", appendOctets(bank, trailerMark, append(slices.Clone(start), 1, 1, 'A', 0, 1, 'B')), "octet 6: rule's number: 0 behind 1"},
		{"number too large", appendOctets(bank, trailerMark, append(slices.Clone(start), 0x80, 0x80, 4, 1, 'A')), "65536 behind 0: they grow, up to 65535"},
		{"number that turns over", appendOctets(bank, trailerMark, append(append(slices.Clone(start), 9, 1, 'A'), append(huge, 1, 'B')...)), "behind 9"},
		{"no name", appendOctets(bank, trailerMark, append(slices.Clone(start), 1, 0)), "number 1 has one that is empty"},
		{"name twice", appendOctets(bank, trailerMark, append(slices.Clone(start), 1, 1, 'A', 1, 1, 'A')), "number 2 has one that is empty, or has"},
		{"name cut", appendOctets(bank, trailerMark, append(slices.Clone(start), 1, 2, 'A')), "octet 4: rule: 2 octets, where 1 are left"},
	} {
		got, err := readTrailer(c.words)
		if err == nil || !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %+v, %v; want …%s…", c.name, got, err, c.err)
		}
	}
}

func FuzzTrailer(f *testing.F) {
	whole := trailer{policy: []byte("ip access-list L\n"), names: []string{1: "one", 300: "two"}, since: time.Unix(1, 2)}
	words := whole.append(nil)
	var b []byte
	for _, w := range words[2:] {
		b = binary.NativeEndian.AppendUint64(b, w)
	}
	f.Add(b[:words[1]])
	f.Add(b[:words[1]-1])
	f.Add([]byte{2, 0, 1, 1, 'A', 0, 1, 'B'})
	f.Add([]byte{2, 0, 0xff, 0xff, 3, 1, 'A'})
	bank := bankOf(f, anyPolicy(f))
	f.Fuzz(func(t *testing.T, in []byte) {
		got, err := readTrailer(appendOctets(bank, trailerMark, in))
		if err != nil {
			return
		}
		again, err := readTrailer(got.append(bank))
		if err != nil || !equalTrailers(again, got) {
			t.Fatalf("%+v is read as %+v, %v", got, again, err)
		}
		if n := len(got.ids()); n > bpf.MaxRules || n > len(in) {
			t.Errorf("%d rules of %d octets", n, len(in))
		}
	})
}

// When no number is left, lists are refused each time, and nothing has number 0.
func TestRulesWithoutNumbers(t *testing.T) {
	used := make([]bool, bpf.MaxRules)
	f := &Filter{ids: map[string]uint16{}, used: func() []bool { return used }}
	f.options.Ports = func() map[string]uint16 { return nil }
	for n := range used {
		if used[n] = true; n > 0 && n < bpf.MaxRules-1 { // one is left, for two rules
			f.ids[fmt.Sprint(n)] = uint16(n)
		}
	}
	for range 2 {
		if _, err := f.compile(anyPolicy(t)); err == nil || !strings.Contains(err.Error(), "more than 65535 rules") {
			t.Errorf("%v", err)
		}
		for name, n := range f.ids {
			if n == 0 {
				t.Errorf("%q has number 0", name)
			}
		}
	}
}

// Rules that are alike have numbers of their own, the same ones each time.
func TestRulesAlike(t *testing.T) {
	f := &Filter{ids: map[string]uint16{}, used: func() []bool { return nil }}
	f.options.Ports = func() map[string]uint16 { return nil }
	p := mustRead(t, "ip access-list extended L\n"+strings.Repeat(" deny udp any any\n permit tcp any any\n", 3))
	var before []uint16
	for range 2 {
		n, err := f.compile(p)
		if err != nil {
			t.Fatal(err)
		}
		var numbers []uint16
		for i := range n.bank.Rules(0) {
			numbers = append(numbers, n.bank.ID(0, i))
		}
		if len(numbers) != 7 || len(n.rules) != 7 || before != nil && !slices.Equal(numbers, before) {
			t.Errorf("numbers %d, before %d", numbers, before)
		}
		before = numbers
	}
}

// A daemon is killed while it changes lists, before and behind each step that another
// could see: the next one has the lists that judge, and each number that a flow may have.
func TestKernelListsKilled(t *testing.T) {
	k, f := filtering(t, 1<<10, FilterOptions{})
	control := k.Memory().Control
	policy := func(port int) *acl.Policy {
		return mustRead(t, fmt.Sprintf("ip access-list extended L\n deny udp any any eq %d\n permit ip any any\ninterface lo\n ip access-group L in\n", port))
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	next := func(when string, want, trial *acl.Policy, ids map[string]uint16) *Filter {
		t.Helper()
		f := newFilter(k, slog.New(slog.DiscardHandler), f.options)
		if err := f.adopt(); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		if f.running == nil || !same(f.running.policy, want) {
			t.Errorf("%s: other lists are in force", when)
		}
		if (f.trial == nil) != (trial == nil) || trial != nil && !same(f.trial.policy, trial) {
			t.Errorf("%s: other lists are on trial", when)
		}
		if !maps.Equal(f.ids, ids) {
			t.Errorf("%s: numbers %v, want %v", when, f.ids, ids)
		}
		if word := control.Lists; trial == nil {
			if err := f.Ensure(want); err != nil || control.Lists != word {
				t.Errorf("%s: put in force again: %v", when, err)
			}
		}
		return f
	}
	killedIn := func(f *Filter, p *acl.Policy, trial time.Duration) {
		t.Helper()
		grace := f.grace
		f.grace = func() error { panic(killed{}) }
		defer func() {
			f.grace = grace
			if recover() != (killed{}) {
				t.Error("nobody was killed")
			}
		}()
		_ = f.Apply(p, trial)
	}
	a, b, c := policy(1), policy(2), policy(3)
	must(f.Apply(a, 0))
	first, word := maps.Clone(f.ids), control.Lists
	if len(first) != 3 {
		t.Fatalf("numbers %v", first)
	}

	killedIn(f, b, 0)
	f = next("before the bank is another", a, nil, first)
	must(f.Apply(b, 0))
	second := maps.Clone(f.ids)
	if len(second) != 4 {
		t.Errorf("numbers %v: flows may have those of rules that are gone", second)
	}
	control.Lists = word
	f = next("before the word is another", a, nil, first)
	must(f.Apply(b, 0))
	f = next("behind the change", b, nil, second)

	killedIn(f, c, time.Hour)
	f = next("before the bank on trial is another", b, nil, second)
	must(f.Apply(c, time.Hour))
	third, trial := maps.Clone(f.ids), control.Trial
	control.Trial = 0
	f = next("before a trial begins", b, nil, second)
	control.Trial = trial
	f = next("on trial", b, c, third)
	word = control.Lists
	must(f.Confirm())
	control.Lists, control.Trial = word, trial
	f = next("before what was confirmed is", b, c, third)
	control.Lists = trial
	f = next("before the trial is over", c, c, third)
	must(f.Confirm())
	next("confirmed", c, nil, third)
}

// What stands in the pinned map may be anybody's: it is refused, in words that say what
// and where, and replaced; what is on trial, if that alone is wrong, ends.
func TestKernelListsHostile(t *testing.T) {
	k, f := filtering(t, 1<<10, FilterOptions{})
	control := k.Memory().Control
	p := anyPolicy(t)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(f.Apply(p, 0))
	spoil := func(word uint64, how func(words []uint64, at int) []uint64) {
		t.Helper()
		number := int(word & bpf.ListsBank)
		words, err := k.Lists.Bank(number)
		must(err)
		must(k.Lists.SetBank(number, how(words, acl.BankWords(words))))
	}
	for _, c := range []struct {
		err string
		how func(words []uint64, at int) []uint64
	}{
		{"of another weir", func([]uint64, int) []uint64 { return nil }},
		{"of another weir", func(w []uint64, at int) []uint64 { w[at]++; return w }},
		{"octet 0: since", func(w []uint64, at int) []uint64 { return appendOctets(w[:at], trailerMark, nil) }},
		{"octets are told", func(w []uint64, at int) []uint64 { w[at+1] = 1 << 60; return w }},
		{"what stands behind their words", func(w []uint64, at int) []uint64 { return appendOctets(w[:at], trailerJSON, []byte("{")) }},
		{"in force:1", func(w []uint64, at int) []uint64 {
			return (&trailer{policy: []byte("no list\n"), names: []string{1: "x"}}).append(w[:at])
		}},
	} {
		spoil(control.Lists, c.how)
		f = newFilter(k, slog.New(slog.DiscardHandler), f.options)
		if err := f.adopt(); err == nil || !strings.Contains(err.Error(), "the access lists in force: ") || !strings.Contains(err.Error(), c.err) {
			t.Errorf("adopted: %v; want …%s…", err, c.err)
		}
		if f.running != nil {
			t.Errorf("%s: something is in force", c.err)
		}
		word := control.Lists
		must(f.Ensure(p))
		if control.Lists == word {
			t.Errorf("%s: was not replaced", c.err)
		}
	}

	must(f.Apply(mustRead(t, "ip access-list extended L\n deny ip any any\ninterface lo\n ip access-group L in\n"), time.Hour))
	spoil(control.Trial, func(w []uint64, at int) []uint64 { w[at]++; return w })
	f = newFilter(k, slog.New(slog.DiscardHandler), f.options)
	if err := f.adopt(); err == nil || !strings.Contains(err.Error(), "the access lists on trial: of another weir") {
		t.Errorf("adopted: %v", err)
	}
	if control.Trial != 0 || f.trial != nil || f.running == nil || !same(f.running.policy, p) {
		t.Error("the trial goes on, or what is in force does not")
	}
}
