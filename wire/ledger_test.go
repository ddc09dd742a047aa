package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"weir/flow"
)

// The defects that other collectors had, one test for each (T1 to T13).

// T1: a template whose records have no octets must not make the data loop for
// ever; neither may one that is redefined so.
func TestT1TemplateWithoutOctets(t *testing.T) {
	data := dataSet(256, []spec{{1, 4}}, 10)
	for name, fields := range map[string][]spec{"no fields": {}, "one Reserved field of length 0": {{0, 0}}, "lengths all 0": {{1, 0}, {2, 0}, {8, 0}}} {
		d := NewDecoder(Options{})
		if recs, _, _ := feed(t, d, datagram(9, 0, templateSet(9, 256, []spec{{1, 4}}), data)); len(recs) != 10 {
			t.Fatalf("%d records of a sound template", len(recs))
		}
		_, m, err := feed(t, d, datagram(9, 1, templateSet(9, 256, fields)))
		if !errors.Is(err, ErrEmpty) || count(d, EmptyTemplate) != 1 {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
		recs, m, _ := feed(t, d, datagram(9, 2, data))
		if len(recs) != 0 || m.Waiting != 1 {
			t.Errorf("%s: %d records of what it was before, %+v", name, len(recs), m)
		}
		opts := append(be.AppendUint16(nil, setV9Options), 0, 14, 1, 1, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0)
		if _, _, err := feed(t, d, datagram(9, 3, opts)); !errors.Is(err, ErrEmpty) {
			t.Errorf("an options template without octets: %v", err)
		}
	}
	// IPFIX says withdrawal by no fields; lengths of 0 are as bad there.
	d := NewDecoder(Options{})
	if _, _, err := feed(t, d, datagram(10, 0, templateSet(10, 256, []spec{{1, 0}}), data)); !errors.Is(err, ErrEmpty) {
		t.Error(err)
	}
}

// T2: templates are of their exporter and domain: data never meets another's.
func TestT2TemplateScope(t *testing.T) {
	d := NewDecoder(Options{})
	mine := []spec{{1, 4}, {2, 4}}
	other := []spec{{2, 8}}
	inDomain := func(domain uint32, msg []byte) []byte {
		be.PutUint32(msg[12:], domain)
		return msg
	}
	elsewhere := Source{Addr: flow.AddrFrom4([4]byte{192, 0, 2, 2}), Port: testSource.Port}
	feed(t, d, inDomain(1, datagram(10, 0, templateSet(10, 256, mine))))
	feed(t, d, inDomain(2, datagram(10, 0, templateSet(10, 256, other))))
	feedFrom(t, d, elsewhere, testTime, inDomain(1, datagram(10, 0, templateSet(10, 256, other))))
	data := dataSet(256, mine, 3)
	for _, c := range []struct {
		src    Source
		domain uint32
		bytes  bool
		n      int
	}{{testSource, 1, true, 3}, {testSource, 2, false, 3}, {elsewhere, 1, false, 3}, {testSource, 3, false, 0}, {elsewhere, 2, false, 0}} {
		recs, _, _ := feedFrom(t, d, c.src, testTime, inDomain(c.domain, datagram(10, 0, data)))
		if len(recs) != c.n || c.n > 0 && (recs[0].Has&flow.HasBytes != 0) != c.bytes {
			t.Errorf("%v, domain %d: %d records %v", c.src.Addr, c.domain, len(recs), recs)
		}
	}
	// v9 and IPFIX are two scopes as well.
	if recs, _, _ := feed(t, d, datagram(9, 0, data)); len(recs) != 0 {
		t.Error("v9 data met an IPFIX template")
	}
}

// T3: a set header of zeros where data goes on must end the message, and data
// of an unknown template must not.
func TestT3ZeroLengthSetHeader(t *testing.T) {
	f := []spec{{1, 4}}
	d := NewDecoder(Options{})
	recs, m, err := feed(t, d, datagram(9, 0, templateSet(9, 256, f), dataSet(300, f, 2), dataSet(256, f, 2), []byte{0, 0, 0, 0}, dataSet(256, f, 2)))
	if len(recs) != 2 || m.Waiting != 1 || !errors.Is(err, ErrLength) || count(d, SetLength) != 1 {
		t.Errorf("%d records, %+v, %v", len(recs), m, err)
	}
}

// T4: withdrawals: over UDP ignored and counted, over TCP obeyed, never a crash.
func TestT4Withdrawal(t *testing.T) {
	f := []spec{{1, 4}}
	reliable := testSource
	reliable.Reliable = true
	for _, src := range []Source{testSource, reliable} {
		for _, id := range []uint16{256, 2, 257, 300, 65535} {
			d := NewDecoder(Options{})
			feedFrom(t, d, src, testTime, datagram(10, 0, templateSet(10, 256, f)))
			withdraw := append([]byte{0, 2, 0, 8}, byte(id>>8), byte(id), 0, 0)
			_, _, err := feedFrom(t, d, src, testTime, datagram(10, 0, withdraw))
			recs, _, _ := feedFrom(t, d, src, testTime, datagram(10, 0, dataSet(256, f, 1)))
			gone := src.Reliable && (id == 256 || id == 2)
			if gone != (len(recs) == 0) || src.Reliable != (err == nil) || count(d, WithdrawalOverUDP) != map[bool]uint64{true: 0, false: 1}[src.Reliable] {
				t.Errorf("withdrawal of %d, TCP %v: then %d records, %v", id, src.Reliable, len(recs), err)
			}
		}
	}
	d := NewDecoder(Options{})
	feedFrom(t, d, reliable, testTime, datagram(10, 0, []byte{0, 3, 0, 8, 0, 3, 0, 0})) // all options templates, of none
	feedFrom(t, d, reliable, testTime, datagram(10, 0, []byte{0, 2, 0, 8, 0, 5, 0, 0})) // a reserved number
	if count(d, BadTemplate) != 1 {
		t.Error("the withdrawal of a reserved number was not refused")
	}
}

// T5, T7: a state file that was changed anywhere is refused whole, or gives
// what it gave; it never harms.
func TestT5T7StateFile(t *testing.T) {
	d := NewDecoder(Options{})
	feed(t, d, datagram(9, 0, templateSet(9, 256, usual(false, false)), templateSet(9, 257, usual(false, true)), dataSet(300, []spec{{1, 4}}, 2)))
	state := AppendState(nil, d)
	if err := LoadState(state, func(flow.Addr) *Decoder { return NewDecoder(Options{}) }); err != nil {
		t.Fatal(err)
	}
	pick := func(flow.Addr) *Decoder { t.Error("a broken state was used"); return NewDecoder(Options{}) }
	for i := range state {
		for _, bit := range []byte{1, 0x80} {
			broken := slices.Clone(state)
			broken[i] ^= bit
			if err := LoadState(broken, pick); !errors.Is(err, ErrState) {
				t.Fatalf("octet %d changed: %v", i, err)
			}
		}
		if err := LoadState(state[:i], pick); !errors.Is(err, ErrState) {
			t.Fatalf("cut at %d: %v", i, err)
		}
	}
	if err := LoadState(append(slices.Clone(state), 0), pick); !errors.Is(err, ErrState) {
		t.Errorf("an octet more: %v", err)
	}
}

// T6: a field is as long as its template says, never as its element should be:
// an IPv4 address of 50 octets is kept as octets.
func TestT6FieldLengths(t *testing.T) {
	long := strings.Repeat("ab", 50)
	for _, c := range []struct {
		f    spec
		data string
		want string
	}{
		{spec{8, 50}, long, `{"sourceIPv4Address":"` + long + `"}`},
		{spec{8, 3}, "0a0000", `{"sourceIPv4Address":"0a0000"}`},
		{spec{27, 4}, "0a000001", `{"sourceIPv6Address":"0a000001"}`},
		{spec{56, 7}, "02000000000101", `{"sourceMacAddress":"02000000000101"}`},
		{spec{1, 3}, "010203", "bytes=66051 "},
		{spec{1, 9}, "000000000000000001", `{"octetDeltaCount":"000000000000000001"}`},
		{spec{4, 4}, "00000006", "proto=6 "},                      // longer than it need be
		{spec{4, 2}, "0106", `{"protocolIdentifier":262}`},        // and too large for it
		{spec{7, 4}, "000001bb", "sport=443 "},                    //
		{spec{7, 4}, "000101bb", `{"sourceTransportPort":65979}`}, //
		{spec{10, 8}, "0000000000000007", "input=7 "},             //
		{spec{10, 8}, "0100000000000007", `{"ingressInterface":72057594037927943}`},
		{spec{152, 4}, "00000001", `{"flowStartMilliseconds":"00000001"}`}, // times are never reduced
		{spec{152, 8}, "7fffffffffffffff", `{"flowStartMilliseconds":"7fffffffffffffff"}`},
		{spec{43, 2}, "0101", `{"ipv4RouterSc":"0101"}`}, // H3C sends it so
	} {
		data := append(octets(c.data), 0x11)
		set := append(be.AppendUint16([]byte{1, 0}, uint16(4+len(data))), data...)
		recs, _, err := feed(t, NewDecoder(Options{}), datagram(10, 0, templateSet(10, 256, []spec{c.f, {5, 1}}), set))
		if err != nil || len(recs) != 1 {
			t.Fatalf("%v: %d records, %v", c.f, len(recs), err)
		}
		got := strings.Replace(show(&recs[0]), "tos=17 ", "", 1)
		if got != c.want {
			t.Errorf("%v: %s, want %s", c.f, got, c.want)
		}
	}
}

// T8: variable lengths of every form and lie.
func TestT8VariableLengths(t *testing.T) {
	name := func(n int) string { return strings.Repeat("x", n) }
	value := func(prefix []byte, n int) []byte {
		return append(slices.Concat(prefix, []byte(name(n))), 6) // then the protocol
	}
	for _, c := range []struct {
		name string
		data []byte
		ok   bool
		want string
	}{
		{"0", value([]byte{0}, 0), true, ""},
		{"1", value([]byte{1}, 1), true, "x"},
		{"254", value([]byte{254}, 254), true, name(254)},
		{"255, then 0", value([]byte{255, 0, 0}, 0), true, ""},
		{"255, then 3", value([]byte{255, 0, 3}, 3), true, "xxx"},
		{"255, then 1024", value([]byte{255, 4, 0}, 1024), true, name(1024)},
		{"255, then 1025: cut to 1024", value([]byte{255, 4, 1}, 1025), true, name(1024)},
		{"255, then 65535", value([]byte{255, 255, 255}, 5), false, ""},
		{"longer than the set", value([]byte{9}, 5), false, ""},
		{"the long form cut", []byte{255, 0}, false, ""},
		{"the value ends the set, the protocol is missing", []byte{2, 'x', 'x'}, false, ""},
	} {
		set := append(be.AppendUint16([]byte{1, 0}, uint16(4+len(c.data))), c.data...)
		d := NewDecoder(Options{})
		recs, m, err := feed(t, d, datagram(10, 0, templateSet(10, 256, []spec{{96, 65535}, {4, 1}}), set))
		if c.ok != (err == nil) || c.ok != (len(recs) == 1) || !c.ok && count(d, RecordOverrun) != 1 {
			t.Errorf("%s: %d records, %+v, %v", c.name, len(recs), m, err)
			continue
		}
		if c.ok && (recs[0].Proto != 6 || elementsOf(t, recs[0].Elements)["applicationName"] != c.want) {
			t.Errorf("%s: %s", c.name, show(&recs[0]))
		}
	}
}

// T9: data and options data go through the same bounded reading: for both, cut
// the message anywhere.
func TestT9CutAnywhere(t *testing.T) {
	options := append([]byte{0, 3, 0, 22, 1, 1, 0, 3, 0, 1, 0, 10, 0, 4, 0, 82, 255, 255, 0, 83, 0, 8}, 1, 1, 0, 22, 0, 0, 0, 1, 5)
	options = append(options, "eth0\x00uplink\x00\x00"...)
	be.PutUint16(options[24:], uint16(len(options)-22))
	msg := datagram(10, 0, templateSet(10, 256, []spec{{96, 65535}, {1, 4}}), options, []byte{1, 0, 0, 13, 4, 'h', 't', 't', 'p', 0, 0, 0, 9})
	if recs, m, err := feed(t, NewDecoder(Options{}), msg); err != nil || len(recs) != 1 || m.Options != 1 {
		t.Fatalf("whole: %+v, %v", m, err)
	}
	for n := range msg {
		d := NewDecoder(Options{})
		if _, _, err := feed(t, d, msg[:n]); err == nil {
			t.Errorf("cut at %d: no error", n)
		}
		whole := slices.Clone(msg[:n]) // with a length that is right
		if n >= 16 {
			be.PutUint16(whole[2:], uint16(n))
			feed(t, d, whole)
		}
		v9 := append(octets("0009 0003 00000000 6553f100 00000000 00000001"), msg[min(16, n):n]...)
		feed(t, d, v9)
	}
}

// T10 (sampled headers) is TestSFlowHostile.

// T11: strings in options data: interface names of any length and content.
func TestT11NamesInOptions(t *testing.T) {
	tmpl := []byte{0, 3, 0, 18, 1, 1, 0, 2, 0, 1, 0, 10, 0, 4, 0, 82, 255, 255}
	name := func(d *Decoder, ifx byte, n string) ([]byte, error) {
		set := append([]byte{1, 1, 0, 0, 0, 0, 0, ifx, 255}, byte(len(n)>>8), byte(len(n)))
		set = append(set, n...)
		be.PutUint16(set[2:], uint16(len(set)))
		var b Batch
		_, err := d.Decode(&b, testSource, testTime, datagram(10, 0, tmpl, set))
		if len(b.Options) != 1 {
			return nil, err
		}
		return b.Options[0].Fields, err
	}
	d := NewDecoder(Options{Limits: Limits{Interfaces: 3}})
	for _, c := range []struct{ name, json string }{
		{"eth0", `{"interfaceName":"eth0"}`},
		{"", `{"interfaceName":""}`},
		{"a\x1b]52;c;x\x07b\u009b\u202e\u2028<script>\"\\\xff", `{"interfaceName":"a\u001b]52;c;x\u0007b\u009b\u202e\u2028\u003cscript\u003e\"\\` + "\ufffd" + `"}`},
		{strings.Repeat("é", 40000/2), `{"interfaceName":"` + strings.Repeat("é", 512) + `"}`},
	} {
		got, err := name(d, 1, c.name)
		if err != nil || string(got) != c.json || !json.Valid(got) {
			t.Errorf("%.40q: %.200s, %v", c.name, got, err)
		}
	}
	if n := len(d.Interfaces()[0].Name); n != 1024 {
		t.Errorf("a name of %d octets is held", n)
	}
	for i := range 10 {
		name(d, byte(i+1), "x")
	}
	if n := len(d.Interfaces()); n != 3 || count(d, BadOptions) != 7 {
		t.Errorf("%d names are held, %d refused; the limit is 3", n, count(d, BadOptions))
	}
}

// T12: no count of the wire makes a large allocation: memory follows the
// octets that came.
func TestT12AllocationsFollowOctets(t *testing.T) {
	for name, msg := range map[string][]byte{
		"v5 count":       octets("0005 ffff 0036ee80 6553f100 00000000 00000005 01 02 0000"),
		"v8 count":       octets("0008 ffff 0036ee80 6553f100 00000000 00000005 01 02 01 02 00000000"),
		"fields":         datagram(9, 0, octets("0000 0008 0100 ffff")),
		"scope":          datagram(9, 0, octets("0001 000a 0100 fffc fffc")),
		"IPFIX fields":   datagram(10, 0, octets("0002 0008 0100 ffff")),
		"list elements":  datagram(10, 0, templateSet(10, 256, []spec{{291, 65535}}), octets("0100 000a 05 03 0001 ffff")),
		"variable field": datagram(10, 0, templateSet(10, 256, []spec{{96, 65535}}), octets("0100 0007 ff ffff")),
	} {
		var b Batch
		d := NewDecoder(Options{})
		var before, after runtime.MemStats
		const runs = 100
		runtime.ReadMemStats(&before)
		for range runs {
			b.Reset()
			d.Decode(&b, testSource, testTime, msg)
		}
		runtime.ReadMemStats(&after)
		bytesPer := (after.TotalAlloc - before.TotalAlloc) / runs
		if bytesPer > 4096 {
			t.Errorf("%s: %d octets allocated for a message of %d", name, bytesPer, len(msg))
		}
	}
}

// T13: a template with many fields (Cisco ASA sends its whole set every
// minute) neither desynchronises the parser nor passes the limit.
func TestT13ManyFields(t *testing.T) {
	many := func(n int) []spec {
		f := make([]spec, n)
		for i := range f {
			f[i] = spec{uint16(i%400 + 1), 1}
		}
		return f
	}
	d := NewDecoder(Options{Limits: Limits{Fields: 300}})
	for i := range 5 { // sent again and again
		set := templateSet(9, 256, many(300))
		recs, m, err := feed(t, d, datagram(9, uint32(i), set, templateSet(9, 257, []spec{{1, 4}}), dataSet(257, []spec{{1, 4}}, 1), dataSet(256, many(300), 2)))
		if err != nil || len(recs) != 3 || m.Templates != 2 {
			t.Fatalf("%+v, %v", m, err)
		}
	}
	recs, m, err := feed(t, d, datagram(9, 5, templateSet(9, 258, many(301)), dataSet(257, []spec{{1, 4}}, 1)))
	if !errors.Is(err, ErrLimit) || len(recs) != 1 || count(d, TemplateFields) != 1 {
		t.Errorf("301 fields: %+v, %v", m, err)
	}
	if n := len(d.Templates()); n != 2 {
		t.Errorf("%d templates", n)
	}
}

// What exporters can make a decoder hold is bounded, and what does not find
// room is counted.
func TestLimits(t *testing.T) {
	f := []spec{{1, 4}}
	t.Run("templates of a session", func(t *testing.T) {
		d := NewDecoder(Options{Limits: Limits{Templates: 5}})
		for i := range 20 {
			feed(t, d, datagram(9, uint32(i), templateSet(9, uint16(256+i), f)))
		}
		if n := len(d.Templates()); n != 5 || count(d, TemplateLimit) != 15 {
			t.Errorf("%d templates, %d refused", n, count(d, TemplateLimit))
		}
	})
	t.Run("octets of all templates", func(t *testing.T) {
		d := NewDecoder(Options{Limits: Limits{TemplateOctets: 20000}})
		for i := range 100 {
			src := Source{Addr: flow.AddrFrom4([4]byte{10, 0, 0, byte(i)})}
			feedFrom(t, d, src, testTime, datagram(9, 0, templateSet(9, 256, usual(false, false))))
		}
		if d.templateOctets > 20000 || count(d, TemplateLimit) == 0 {
			t.Errorf("%d octets, %d refused", d.templateOctets, count(d, TemplateLimit))
		}
		// A minute later, those that fell silent make room.
		src := Source{Addr: flow.AddrFrom4([4]byte{10, 1, 0, 0})}
		if _, m, err := feedFrom(t, d, src, testTime+61e9, datagram(9, 0, templateSet(9, 256, usual(false, false)))); err != nil {
			t.Errorf("%+v, %v", m, err)
		}
	})
	t.Run("sessions", func(t *testing.T) {
		d := NewDecoder(Options{Limits: Limits{Sessions: 10}})
		from := func(i int) Source { return Source{Addr: flow.AddrFrom4([4]byte{10, 0, 0, byte(i)})} }
		for i := range 30 {
			feedFrom(t, d, from(i), testTime, datagram(9, 0, templateSet(9, 256, f)))
		}
		if len(d.sessions) != 10 || d.count != 10 || count(d, ExporterLimit) != 20 {
			t.Errorf("%d sessions, %d refused", len(d.sessions), count(d, ExporterLimit))
		}
		if recs, _, err := feedFrom(t, d, from(99), testTime, v5Datagram(3)); len(recs) != 3 || !errors.Is(err, ErrLimit) {
			t.Errorf("v5 needs no room to be read: %d records, %v", len(recs), err)
		}
		// The longest silent makes room, one that speaks does not.
		for i := 1; i < 10; i++ {
			feedFrom(t, d, from(i), testTime+59e9, datagram(9, 1))
		}
		feedFrom(t, d, from(50), testTime+61e9, datagram(9, 0, templateSet(9, 256, f)))
		feedFrom(t, d, from(51), testTime+62e9, datagram(9, 0, templateSet(9, 256, f)))
		if _, m, _ := feedFrom(t, d, from(1), testTime+63e9, datagram(9, 2, dataSet(256, f, 1))); m.Records != 1 {
			t.Errorf("the active exporter was forgotten: %+v", m)
		}
		if d.find(sessionKey{addr: from(0).Addr, domain: 1, version: 9}, 0) != nil || d.count != 10 {
			t.Errorf("the silent one stayed (%d sessions)", d.count)
		}
	})
	t.Run("ports of one exporter", func(t *testing.T) {
		d := NewDecoder(Options{})
		for i := range 200 {
			feedFrom(t, d, Source{Addr: testSource.Addr, Port: uint16(i)}, testTime, datagram(10, uint32(i)*1000+5, templateSet(10, 256, f)))
		}
		if d.count > maxPorts {
			t.Errorf("%d sessions", d.count)
		}
	})
	t.Run("waiting octets", func(t *testing.T) {
		d := NewDecoder(Options{Limits: Limits{WaitingOctets: 10000}})
		for i := range 100 {
			feed(t, d, datagram(9, uint32(i), dataSet(300, f, 50)))
		}
		if d.waitingOctets > 5000 { // one session may use half
			t.Errorf("%d octets wait", d.waitingOctets)
		}
		lost := count(d, TemplateMissing)
		recs, m, _ := feed(t, d, datagram(9, 100, templateSet(9, 300, f)))
		if m.Released != len(recs) || len(recs)/50+int(lost) != 100 || d.waitingOctets != 0 {
			t.Errorf("%d sets came out, %d were given up; %d octets left", len(recs)/50, lost, d.waitingOctets)
		}
	})
	t.Run("waiting time", func(t *testing.T) {
		d := NewDecoder(Options{Limits: Limits{WaitingTime: time.Minute}})
		feed(t, d, datagram(9, 0, dataSet(300, f, 1)))
		d.Expire(testTime + 59e9)
		if count(d, TemplateMissing) != 0 {
			t.Error("given up too early")
		}
		d.Expire(testTime + 61e9)
		l := d.Lost()
		if got := l.Losses()[TemplateMissing]; got.Datagrams != 1 || got.Bytes != 4 || d.waitingOctets != 0 {
			t.Errorf("%+v, %d octets left", got, d.waitingOctets)
		}
	})
	t.Run("records of a message", func(t *testing.T) {
		d := NewDecoder(Options{Limits: Limits{MessageRecords: 100}})
		recs, m, err := feed(t, d, datagram(10, 0, templateSet(10, 256, []spec{{4, 1}}), dataSet(256, []spec{{4, 1}}, 80), dataSet(256, []spec{{4, 1}}, 80)))
		l := d.Lost()
		if len(recs) != 100 || !errors.Is(err, ErrLimit) || l.Losses()[RecordLimit].Records != 60 {
			t.Errorf("%+v, %v, %+v", m, err, l.Losses()[RecordLimit])
		}
	})
	t.Run("elements of a message", func(t *testing.T) {
		d := NewDecoder(Options{Limits: Limits{MessageElements: 1000}})
		recs, _, err := feed(t, d, datagram(10, 0, templateSet(10, 256, []spec{{56, 6}}), dataSet(256, []spec{{56, 6}}, 100)))
		with := 0
		for _, r := range recs {
			if r.Elements != nil {
				with++
			}
		}
		if len(recs) != 100 || with == 0 || with > 30 || !errors.Is(err, ErrLimit) || count(d, ElementLimit) != uint64(100-with) {
			t.Errorf("%d records, %d with elements, %v", len(recs), with, err)
		}
	})
}

// Data that comes before its template is decoded when the template comes, with
// the clock of its own message.
func TestWaiting(t *testing.T) {
	f := []spec{{1, 4}, {22, 4}}
	d := NewDecoder(Options{})
	early := datagram(9, 0, append([]byte{1, 44, 0, 12}, octets("00000064 0036ea98")...))
	recs, m, err := feed(t, d, early)
	if err != nil || len(recs) != 0 || m.Waiting != 1 {
		t.Fatalf("%+v, %v", m, err)
	}
	if e := d.Exporters()[0]; e.WaitingSets != 1 || e.WaitingOctets == 0 {
		t.Errorf("%+v", e)
	}
	late := datagram(9, 1, templateSet(9, 300, f), append([]byte{1, 44, 0, 12}, octets("000000c8 0036ea98")...))
	be.PutUint32(late[4:], 3600_000+60_000)
	be.PutUint32(late[8:], 1_700_000_060)
	recs, m, err = feedFrom(t, d, testSource, testTime+60e9, late)
	if err != nil || m.Records != 1 || m.Released != 1 || len(recs) != 2 {
		t.Fatalf("%+v, %v", m, err)
	}
	if r := recs[0]; r.Bytes != 100 || r.Received != testTime || r.First != testTime-1000e6 {
		t.Errorf("what waited: %+v", r)
	}
	if r := recs[1]; r.Bytes != 200 || r.Received != testTime+60e9 || r.First != testTime-1000e6 {
		t.Errorf("what came with it: %+v", r)
	}
	if e := d.Exporters()[0]; e.WaitingSets != 0 || e.WaitingOctets != 0 || e.Records != 2 {
		t.Errorf("%+v", e)
	}
}

// A template that changes under its number is replaced; a repetition is not a
// change.
func TestRedefinition(t *testing.T) {
	d, b := NewDecoder(Options{}), &Batch{}
	for i, c := range []struct {
		f    []spec
		want Action
	}{{[]spec{{1, 4}}, Added}, {[]spec{{1, 4}}, Refreshed}, {[]spec{{1, 8}}, Redefined}, {[]spec{{1, 8}}, Refreshed}, {[]spec{{1, 8}, {2, 4}}, Redefined}} {
		b.Reset()
		m, err := d.Decode(b, testSource, testTime, datagram(9, uint32(i), templateSet(9, 256, c.f), dataSet(256, c.f, 2)))
		if err != nil || m.Records != 2 || len(b.Templates) != 1 || b.Templates[0].Action != c.want {
			t.Errorf("%d: %+v, %v, %+v; want %v", i, m, err, b.Templates, c.want)
		}
	}
	if e := d.Exporters()[0]; e.Redefined != 2 || e.Templates != 1 || e.TemplateRecords != 5 {
		t.Errorf("%+v", e)
	}
}

// Two exporters on one address with the same domain are told apart by their
// source ports; one whose port changes on the way stays the same.
func TestSourcePorts(t *testing.T) {
	a, b := testSource, testSource
	a.Port, b.Port = 1000, 2000
	fa, fb := []spec{{1, 4}}, []spec{{2, 4}}
	for _, version := range []int{9, 10} {
		d := NewDecoder(Options{})
		step := uint32(1)
		for i := range 20 {
			msgA := datagram(version, uint32(i)*step+100, templateSet(version, 256, fa), dataSet(256, fa, 1))
			msgB := datagram(version, uint32(i)*step, templateSet(version, 256, fb), dataSet(256, fb, 1))
			ra, _, _ := feedFrom(t, d, a, testTime, msgA)
			rb, _, _ := feedFrom(t, d, b, testTime, msgB)
			if len(ra) != 1 || ra[0].Has&flow.HasBytes == 0 || len(rb) != 1 || rb[0].Has&flow.HasBytes != 0 {
				t.Fatalf("v%d: exporters mixed up: %v %v", version, ra, rb)
			}
		}
		if d.count != 2 {
			t.Fatalf("v%d: %d sessions", version, d.count)
		}
		// a's translator forgets its port; the sequence goes on.
		a2 := a
		a2.Port = 3000
		recs, m, err := feedFrom(t, d, a2, testTime, datagram(version, 120, dataSet(256, fa, 1)))
		if err != nil || len(recs) != 1 || recs[0].Has&flow.HasBytes == 0 || d.count != 2 {
			t.Errorf("v%d: the new port is not the same exporter: %+v, %v, %d sessions", version, m, err, d.count)
		}
		// A third exporter begins: what it sends before its template waits.
		c := testSource
		c.Port = 4000
		if recs, m, _ := feedFrom(t, d, c, testTime, datagram(version, 0, dataSet(256, fa, 1))); len(recs) != 0 || m.Waiting != 1 || d.count != 3 {
			t.Errorf("v%d: a new exporter's data met another's template: %+v, %d sessions", version, m, d.count)
		}
		for _, e := range d.Exporters() {
			if e.Sequence.Gaps+e.Sequence.Lost+e.Sequence.Duplicates+e.Sequence.Restarts != 0 {
				t.Errorf("v%d: %+v", version, e.Sequence)
			}
		}
	}
}

// A decoder that loads another's state decodes what the other would.
func TestStateRoundTrip(t *testing.T) {
	one := NewDecoder(Options{})
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 50 {
		src := Source{Addr: flow.AddrFrom4([4]byte{10, 0, 0, byte(i)}), Port: uint16(i)}
		if i%3 == 0 {
			src.Addr = flow.Addr{0x20, 1, 15: byte(i)}
		}
		version := 9 + i%2
		feedFrom(t, one, src, testTime+int64(i), datagram(version, rng.Uint32(), templateSet(version, 256, usual(i%2 == 1, i%4 == 0)),
			dataSet(300, []spec{{1, 4}}, i%5)))
	}
	options := octets("0003 0016 0101 0004 0001 000a 0004 0052 0004 0030 0002 0032 0004" + "0101 0012 00000003 65746830 0007 00000064")
	be.PutUint16(options[2:], 26)
	feed(t, one, datagram(10, 0, options))
	state := AppendState(nil, one)
	decoders := []*Decoder{NewDecoder(Options{}), NewDecoder(Options{}), NewDecoder(Options{})}
	if err := LoadState(state, func(a flow.Addr) *Decoder { return decoders[int(a[15])%3] }); err != nil {
		t.Fatal(err)
	}
	var templates []TemplateInfo
	n := 0
	for _, d := range decoders {
		templates = append(templates, d.Templates()...)
		n += d.count
	}
	if len(templates) != len(one.Templates()) || n != one.count {
		t.Errorf("%d templates of %d sessions; there were %d of %d", len(templates), n, len(one.Templates()), one.count)
	}
	d := decoders[1] // testSource's
	if in := d.Interfaces(); len(in) != 1 || in[0].Name != "eth0" || in[0].Index != 3 {
		t.Errorf("%+v", in)
	}
	for _, e := range d.Exporters() {
		if e.Addr == testSource.Addr.Netip() && (len(e.Sampling) != 1 || e.Sampling[0] != SamplingInfo{Sampler: 7, Interface: 3, Rate: 100}) {
			t.Errorf("%+v", e.Sampling)
		}
	}
	again := NewDecoder(Options{})
	if err := LoadState(state, func(flow.Addr) *Decoder { return again }); err != nil {
		t.Fatal(err)
	}
	if got := AppendState(nil, again); !bytes.Equal(got, state) {
		t.Errorf("a state that was loaded is saved differently: %d and %d octets", len(got), len(state))
	}
}
