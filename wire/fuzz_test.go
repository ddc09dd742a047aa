package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"hash/crc32"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"weir/flow"
	"weir/ie"
)

// smallLimits make limits easy to reach.
var smallLimits = Limits{
	Sessions: 4, Templates: 6, Types: 5, Fields: 64, TemplateOctets: 100_000, WaitingOctets: 8192, MessageRecords: 500,
	MessageElements: 64 << 10, Interfaces: 4, Applications: 4, Samplers: 4,
}

// check holds a decoder and what it gave to their promises.
func check(t testing.TB, d *Decoder, b *Batch, m Message, msg []byte) {
	t.Helper()
	if len(b.Records) != m.Records+m.Released+m.Reversed || len(b.Options) > m.Options {
		t.Fatalf("%d records, %d options in the batch; %+v", len(b.Records), len(b.Options), m)
	}
	if m.Records > len(msg) || m.Options > len(msg) || m.Sets > len(msg) || m.Records > d.opt.Limits.MessageRecords {
		t.Fatalf("%d octets gave %+v", len(msg), m)
	}
	for i := range b.Records {
		r := &b.Records[i]
		if r.Elements != nil && (!json.Valid(r.Elements) || r.Elements[0] != '{') {
			t.Fatalf("elements %q", r.Elements)
		}
		const both = flow.HasFirst | flow.HasLast
		if r.Has&both == both && r.Last < r.First {
			t.Fatalf("last before first: %+v", r)
		}
		if (r.Sampling != 0) != (r.Has&flow.HasSampling != 0) || r.Sampling > maxRate {
			t.Fatalf("sampling %d, known %v", r.Sampling, r.Has&flow.HasSampling != 0)
		}
	}
	for _, o := range b.Options {
		if !json.Valid(o.Scope) || !json.Valid(o.Fields) {
			t.Fatalf("options %q %q", o.Scope, o.Fields)
		}
	}
	l := d.opt.Limits
	if d.count > l.Sessions || d.templateOctets > l.TemplateOctets || d.waitingOctets > l.WaitingOctets ||
		len(b.arena) > 2*l.MessageElements+8*len(msg)*maxMembers {
		t.Fatalf("limits passed: %d sessions, %d octets of templates, %d that wait, %d of elements", d.count, d.templateOctets, d.waitingOctets, len(b.arena))
	}
	sessions, templates, wait := 0, 0, 0
	for s := range d.each {
		sessions++
		n, w := 0, 0
		for id, k := range s.templates {
			n += k.octets()
			if id < firstData || k.plan == nil || k.plan.length < 1 {
				t.Fatalf("template %d of %d octets", id, k.plan.length)
			}
		}
		for _, e := range s.types {
			n += typeCost + len(e.Name)
		}
		for _, name := range s.applications {
			n += applicationCost + len(name)
		}
		for _, x := range s.waiting {
			w += len(x.body) + waitingCost
		}
		if n != s.octets || w != s.waitingOctets || len(s.templates) > l.Templates || len(s.types) > l.Types || len(s.applications) > l.Applications || len(s.interfaces) > l.Interfaces || len(s.samplers) > l.Samplers || len(s.seq.holes) > window {
			t.Fatalf("session: %d octets of templates counted as %d, %d that wait as %d, %d templates", n, s.octets, w, s.waitingOctets, len(s.templates))
		}
		missing := uint64(0)
		for _, h := range s.seq.holes {
			missing += uint64(h.n)
		}
		if missing != s.seq.info.Missing {
			t.Fatalf("holes of %d, %d missing", missing, s.seq.info.Missing)
		}
		templates, wait = templates+n, wait+w
	}
	if sessions != d.count || templates != d.templateOctets || wait != d.waitingOctets {
		t.Fatalf("%d sessions counted as %d, %d octets of templates as %d, %d that wait as %d", sessions, d.count, templates, d.templateOctets, wait, d.waitingOctets)
	}
	d.Exporters()
	d.Templates()
}

// payloads gives the UDP payloads of the corpus's captures (classic pcap,
// Ethernet, IPv4) whose names match; none if the corpus is not there.
func payloads(pattern string) [][]byte {
	dir := os.Getenv("WEIR_CORPUS")
	if dir == "" {
		dir = filepath.Join("..", "..", "shared", "corpus")
	}
	names, _ := filepath.Glob(filepath.Join(dir, "exports", pattern))
	var all [][]byte
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil || len(b) < 24 || binary.LittleEndian.Uint32(b) != 0xa1b2c3d4 {
			continue
		}
		for b = b[24:]; len(b) >= 16; {
			n := int(binary.LittleEndian.Uint32(b[8:]))
			if n > len(b)-16 {
				break
			}
			f := b[16 : 16+n]
			if len(f) > 42 && f[12] == 8 && f[13] == 0 && f[23] == 17 {
				all = append(all, f[14+int(f[14]&15)*4+8:])
			}
			b = b[16+n:]
			if len(all)%8 == 7 { // enough of each
				break
			}
		}
	}
	return all
}

func seeds(f *testing.F, pattern string, own ...[]byte) {
	for _, b := range own {
		f.Add(b)
	}
	for _, b := range payloads(pattern) {
		f.Add(b)
	}
}

// one decodes a message in any state, twice: refusing is fine; a panic, a loop,
// a promise broken, or two answers are not.
func one(t *testing.T, msg []byte) {
	var got [2][]flow.Record
	for i := range got {
		d, b := NewDecoder(Options{Limits: smallLimits}), &Batch{}
		m, _ := d.Decode(b, testSource, testTime, msg)
		check(t, d, b, m, msg)
		templatesAgain(t, b)
		got[i] = b.Records
		b2 := &Batch{} // now with its own templates known
		m, _ = d.Decode(b2, testSource, testTime, msg)
		check(t, d, b2, m, msg)
	}
	if !reflect.DeepEqual(got[0], got[1]) {
		t.Fatalf("%v\n%v", got[0], got[1])
	}
	if n := Next(msg); n < 0 || n > len(msg) {
		t.Fatalf("Next is %d of %d", n, len(msg))
	}
	if v := Detect(msg); v != 0 && v < 9 {
		d, b := NewDecoder(Options{}), &Batch{}
		if m, err := d.Decode(b, testSource, testTime, msg); m.Version != v || err != nil {
			t.Fatalf("detected as %d: %+v, %v", v, m, err)
		}
	}
}

// templatesAgain writes the templates that were read, which gives the octets they
// came in.
func templatesAgain(t *testing.T, b *Batch) {
	for _, e := range b.Templates {
		k := e.Template
		got := AppendTemplate(nil, k.ID, k.Fields)
		if k.opts {
			got = AppendOptionsTemplate(nil, e.Version, k.ID, k.Scope, k.Fields)
		}
		if len(got) < len(k.raw) {
			continue // enterprise number 0, which is IANA: needless, and not written
		}
		if !bytes.Equal(got, k.raw) {
			t.Fatalf("template %x written again: %x", k.raw, got)
		}
	}
}

func FuzzV5(f *testing.F) {
	seeds(f, "v[1578]_*.pcap", v5Datagram(0), v5Datagram(2), octets("0008 0001 0036ee80 6553f100 00000000 00000005 01 02 05 02 00000000 00000009 00000007 000003e8 0036c770 0036eb80 0a000000 0a010000 18 10 0000 fde8 fde9 0003 0004"))
	f.Fuzz(func(t *testing.T, msg []byte) {
		if len(msg) >= 2 && msg[1] >= 9 { // keep to the fixed formats
			msg = append([]byte{0, 5}, msg[2:]...)
		}
		one(t, msg)
		writeAgain(t, msg)
	})
}

// writeAgain holds encoders and decoder together: what is written of any message
// that could be read says what that said, and is written alike the next time.
func writeAgain(t *testing.T, msg []byte) {
	if len(msg) > 2 && msg[1] == flow.VersionV6 {
		return // is read only
	}
	var form FormV8
	if len(msg) >= HeaderV8Len {
		form.Scheme = SchemeV8(msg[22])
	}
	var before, after Batch
	m, err := NewDecoder(Options{}).Decode(&before, testSource, testTime, msg)
	if err != nil || m.Version == 0 {
		return
	}
	first := encodeAgain(m, before.Records, form)
	m, err = NewDecoder(Options{}).Decode(&after, testSource, testTime, first)
	if err != nil || len(after.Records) != len(before.Records) {
		t.Fatalf("written %x: %d records of %d, %v", first, len(after.Records), len(before.Records), err)
	}
	for i := range after.Records {
		a, b := after.Records[i], before.Records[i]
		if b.Proto == flow.ProtoICMP {
			b.SrcPort = 0 // as an exporter should have it
		}
		if b.Version == flow.VersionV7 {
			b.Domain = 0 // the engine is in reserved octets there
		}
		if b.Sampling == 1 {
			b.Sampling, b.Has = 0, b.Has&^flow.HasSampling // an interval of 1 is not sent
		}
		if !reflect.DeepEqual(a, b) {
			t.Fatalf("record %d\nread  %+v\nagain %+v", i, b, a)
		}
	}
	if second := encodeAgain(m, after.Records, form); !bytes.Equal(second, first) {
		t.Fatalf("written %x\nthen    %x", first, second)
	}
}

func FuzzV9(f *testing.F) {
	seeds(f, "v9_*.pcap", datagram(9, 0, templateSet(9, 256, usual(false, false)), dataSet(256, usual(false, false), 2)),
		datagram(9, 0, optionsSet(9, 300, []spec{{2, 4}}, []spec{{82, 8}, {34, 4}}, "00000005 6574683000000000 00000064")))
	f.Fuzz(func(t *testing.T, msg []byte) {
		if len(msg) >= 2 {
			msg = append([]byte{0, 9}, msg[2:]...)
		}
		one(t, msg)
	})
}

func FuzzIPFIX(f *testing.F) {
	template, data := tastes()
	f.Add(datagram(10, 0, typesSets(400, tasteOfPacket, nameOfTaste, ie.Element{ID: 65, Type: ie.BasicList, Name: "gap"}), template, data))
	f.Add(biflowMessage(biflowFields, biflow("00000320 00000008 13 0000018bcfe56804")))
	seeds(f, "ipfix_*.pcap", datagram(10, 0, templateSet(10, 256, usual(true, true)), dataSet(256, usual(true, true), 2)),
		datagram(10, 0, templateSet(10, 256, []spec{{291, 65535}, {292, 65535}, {96, 65535}}), octets("0100 0012 07 03 000a 0004 00000001 00 03 616263")),
		datagram(10, 0, optionsSet(10, 300, []spec{{302, 8}}, []spec{{305, 4}, {306, 4}}, "0000000000000001 00000001 00000009")))
	f.Fuzz(func(t *testing.T, msg []byte) {
		if len(msg) >= 4 {
			msg = append([]byte{0, 10}, msg[2:]...)
			if msg[2]&1 != 0 { // half of them with a length that is right
				be.PutUint16(msg[2:], uint16(min(len(msg), 65535)))
			}
		}
		one(t, msg)
	})
}

// FuzzMessages decodes a sequence of messages, templates first or last, of
// several exporters: each is a source octet, a length of two octets and so many
// octets.
func FuzzMessages(f *testing.F) {
	pack := func(msgs ...[]byte) []byte {
		var b []byte
		for i, m := range msgs {
			b = append(be.AppendUint16(append(b, byte(i)), uint16(len(m))), m...)
		}
		return b
	}
	fields := []spec{{8, 4}, {12, 4}, {1, 8}, {22, 4}, {96, 16}}
	f.Add(pack(datagram(9, 0, dataSet(256, fields, 3)), datagram(9, 1, templateSet(9, 256, fields)), datagram(9, 2, templateSet(9, 256, usual(false, false)))))
	f.Add(pack(datagram(10, 0, templateSet(10, 256, fields)), datagram(10, 0, []byte{0, 2, 0, 8, 1, 0, 0, 0}), datagram(10, 0, dataSet(256, fields, 3))))
	f.Add(pack(v5Datagram(2), v5Datagram(3), datagram(10, 0, optionsSet(10, 300, []spec{{302, 8}}, []spec{{305, 4}, {306, 4}, {160, 8}}, "0000000000000001 00000001 00000009 0000018bcfe56800"))))
	for _, pattern := range []string{"v9_*.pcap", "ipfix_*.pcap"} {
		all := payloads(pattern)
		for i := 0; i+3 <= len(all); i += 3 {
			f.Add(pack(all[i : i+3]...))
			f.Add(pack(all[i+2], all[i+1], all[i]))
		}
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		d := NewDecoder(Options{Limits: smallLimits, SplitBiflows: true})
		at := int64(testTime)
		for n := 0; n < 8 && len(in) >= 3; n++ {
			src := Source{Addr: flow.AddrFrom4([4]byte{10, 0, 0, in[0] & 3}), Port: uint16(in[0] >> 2 & 7), Reliable: in[0]&0x80 != 0}
			size := min(int(be.Uint16(in[1:])), len(in)-3)
			msg := in[3 : 3+size]
			in = in[3+size:]
			at += int64(size) * 1e8
			b := &Batch{}
			m, _ := d.Decode(b, src, at, msg)
			check(t, d, b, m, msg)
			if size%7 == 0 {
				d.Expire(at)
			}
			if size%11 == 0 {
				d.Close(src)
			}
		}
		state := AppendState(nil, d)
		again := NewDecoder(Options{Limits: smallLimits})
		if err := LoadState(state, func(flow.Addr) *Decoder { return again }); err != nil {
			t.Fatalf("its own state: %v", err)
		}
		check(t, again, &Batch{}, Message{}, nil)
		d.Finish()
		check(t, d, &Batch{}, Message{}, nil)
	})
}

// FuzzState reads any octets as a state, with a length and a checksum that are
// right: what is behind them is not trusted either.
func FuzzState(f *testing.F) {
	d := NewDecoder(Options{})
	d.Decode(&Batch{}, testSource, testTime, datagram(9, 0, templateSet(9, 256, usual(false, false)), dataSet(300, []spec{{1, 4}}, 2)))
	d.Decode(&Batch{}, testSource, testTime, datagram(10, 0, optionsSet(10, 300, []spec{{10, 4}}, []spec{{82, 4}, {34, 4}}, "00000005 65746830 00000064")))
	state := AppendState(nil, d)
	f.Add(state[16 : len(state)-4])
	f.Add([]byte{0, 0, 0, 0})
	f.Add([]byte{255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, payload []byte) {
		state := append(slices.Clone(stateMagic[:]), be.AppendUint64(nil, uint64(len(payload)))...)
		state = append(state, payload...)
		state = be.AppendUint32(state, crc32.Checksum(state, castagnoli))
		d := NewDecoder(Options{Limits: smallLimits})
		if err := LoadState(state, func(flow.Addr) *Decoder { return d }); err != nil {
			return
		}
		check(t, d, &Batch{}, Message{}, nil)
		again := NewDecoder(Options{Limits: smallLimits})
		if err := LoadState(AppendState(nil, d), func(flow.Addr) *Decoder { return again }); err != nil {
			t.Fatalf("saved again: %v", err)
		}
	})
}
