package wire

import (
	"testing"
	"time"

	"weir/flow"
	"weir/ie"
)

func ms(v int64) int64 { return v * 1e6 }

// sysUptime wraps after 49.7 days; flows straddle the wrap. For v5, v9, and
// IPFIX with the exporter's start announced.
func TestUptimeWrap(t *testing.T) {
	const wrap = 1 << 32 // ms
	f := []spec{{22, 4}, {21, 4}}
	for _, wraps := range []int64{1, 2, 30} {
		for _, now := range []int64{-1000, 0, 1, 1000, 70_000} { // of the export, around the wrap
			boot := int64(1_500_000_000_000)
			up := wraps*wrap + now
			export := boot + up
			export -= export % 1000 // headers of v9 and IPFIX have whole seconds
			up = export - boot
			first, last := up-65_000, up-5_000
			want := func(r flow.Record, what string) {
				t.Helper()
				if r.First != ms(boot+first) || r.Last != ms(boot+last) {
					t.Errorf("%s, %d ms from wrap %d: %v to %v, want %v to %v", what, now, wraps,
						time.Unix(0, r.First).UTC(), time.Unix(0, r.Last).UTC(), time.UnixMilli(boot+first).UTC(), time.UnixMilli(boot+last).UTC())
				}
			}
			v5 := v5Datagram(1)
			be.PutUint32(v5[4:], uint32(up))
			be.PutUint32(v5[8:], uint32(export/1000))
			be.PutUint32(v5[24+24:], uint32(first))
			be.PutUint32(v5[24+28:], uint32(last))
			recs, _, _ := feed(t, NewDecoder(Options{}), v5)
			want(recs[0], "v5")

			data := be.AppendUint32(be.AppendUint32([]byte{1, 0, 0, 12}, uint32(first)), uint32(last))
			v9 := datagram(9, 0, templateSet(9, 256, f), data)
			be.PutUint32(v9[4:], uint32(up))
			be.PutUint32(v9[8:], uint32(export/1000))
			recs, _, _ = feed(t, NewDecoder(Options{}), v9)
			want(recs[0], "v9")

			options := octets("0003 0012 0101 0002 0001 0090 0004 00a0 0008" + "0101 0010 00000001")
			options = be.AppendUint64(options, uint64(boot))
			ipfix := datagram(10, 0, options, templateSet(10, 256, f), data)
			be.PutUint32(ipfix[4:], uint32(export/1000))
			d := NewDecoder(Options{})
			feed(t, d, ipfix) // the start counts from the next message
			recs, _, err := feed(t, d, ipfix)
			if err != nil {
				t.Fatal(err)
			}
			want(recs[0], "IPFIX")

			inRecord := append([]byte{1, 0, 0, 20}, data[4:]...)
			inRecord = be.AppendUint64(inRecord, uint64(boot))
			ipfix = datagram(10, 0, templateSet(10, 256, append(f, spec{160, 8})), inRecord)
			be.PutUint32(ipfix[4:], uint32(export/1000))
			recs, _, _ = feed(t, NewDecoder(Options{}), ipfix)
			want(recs[0], "IPFIX with the start in the record")
		}
	}
}

// Seconds since 1970 have 32 bits, NTP's since 1900 too: what an exporter says
// around 2036, 2038, 2106 and later is read as the time that it was, by the
// receiver's clock. One whose clock stands at 1970 stays there.
func TestEras(t *testing.T) {
	for _, at := range []string{"2036-02-07T06:28:15Z", "2036-02-07T06:28:16Z", "2038-01-19T03:14:07Z", "2038-01-19T03:14:08Z", "2106-02-07T06:28:15Z", "2106-02-07T06:28:16Z", "2150-01-01T00:00:00Z"} {
		moment, err := time.Parse(time.RFC3339, at)
		if err != nil {
			t.Fatal(err)
		}
		now := moment.UnixNano()
		started := now - 10e9
		b := AppendSet(nil, 256)
		b = AppendTime(b, ie.DateTimeMicroseconds, started)
		b = AppendTime(b, ie.DateTimeNanoseconds, now)
		nine := AppendSet(nil, 257)
		nine = append(nine, be.AppendUint32(nil, 3600_000-10_000)...)
		seconds := AppendTime(AppendSet(nil, 258), ie.DateTimeSeconds, started)
		for _, c := range []struct {
			version int
			fields  []spec
			data    []byte
		}{
			{10, []spec{{154, 8}, {157, 8}}, EndSet(b, 0)},
			{9, []spec{{22, 4}}, EndSet(nine, 0)},
			{10, []spec{{150, 4}}, EndSet(seconds, 0)},
		} {
			msg := datagram(c.version, 0, templateSet(c.version, be.Uint16(c.data), c.fields), c.data)
			export := 4
			if c.version == 9 {
				export = 8
			}
			be.PutUint32(msg[export:], uint32(now/1e9))
			recs, m, err := feedFrom(t, NewDecoder(Options{}), testSource, now+30e9, msg)
			if err != nil || len(recs) != 1 || m.Exported != now || recs[0].First != started {
				t.Errorf("%s, v%d %v: exported %v, first %v, %v", at, c.version, c.fields, time.Unix(0, m.Exported).UTC(), time.Unix(0, recs[0].First).UTC(), err)
			}
			if recs[0].Has&flow.HasLast != 0 && recs[0].Last != now {
				t.Errorf("%s: last %v", at, time.Unix(0, recs[0].Last).UTC())
			}
		}
	}
	_, m, _ := feedFrom(t, NewDecoder(Options{}), testSource, testTime, octets("0005 0001 0036ee80 00000010 00000000 00000000 00000000"))
	if m.Exported != 16e9 {
		t.Errorf("an exporter without a clock: %v", time.Unix(0, m.Exported).UTC())
	}
}

// Without the exporter's start, sysUpTime in IPFIX says nothing: no time is
// made up, the stamps are kept.
func TestIPFIXUptimeWithoutStart(t *testing.T) {
	recs, _, err := feed(t, NewDecoder(Options{}), datagram(10, 0, templateSet(10, 256, []spec{{22, 4}, {21, 4}}), octets("0100 000c 000003e8 000007d0")))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := show(&recs[0]), `{"flowStartSysUpTime":1000,"flowEndSysUpTime":2000}`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// Times of every kind, and past 2036, 2038 and up to 2106.
func TestTimeKinds(t *testing.T) {
	at := func(s string) int64 {
		v, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			t.Fatal(err)
		}
		return v.UnixNano()
	}
	ntpOf := func(ns int64, mask uint64) string {
		sec := uint64(ns/1e9) + 2208988800
		frac := uint64(ns%1e9) << 32 / 1e9
		return string(be.AppendUint64(nil, sec<<32|frac&^mask))
	}
	for _, when := range []string{
		"1970-01-01T00:00:00Z", "2004-02-29T12:00:00.123456789Z", "2036-02-07T06:28:15.999999999Z", "2036-02-07T06:28:16.000000001Z",
		"2038-01-19T03:14:07.5Z", "2038-01-19T03:14:08.000001Z", "2106-02-07T06:28:15.999Z",
	} {
		ns := at(when)
		for _, c := range []struct {
			first, last uint16
			value       string
			unit        int64
		}{
			{150, 151, string(be.AppendUint32(nil, uint32(ns/1e9))), 1e9},
			{152, 153, string(be.AppendUint64(nil, uint64(ns/1e6))), 1e6},
			{154, 155, ntpOf(ns/1e3*1e3, 0x7ff), 1e3},
			{156, 157, ntpOf(ns, 0), 1},
		} {
			set := append([]byte{1, 0, 0, byte(4 + 2*len(c.value))}, c.value+c.value...)
			msg := datagram(10, 0, templateSet(10, 256, []spec{{c.first, uint16(len(c.value))}, {c.last, uint16(len(c.value))}}), set)
			recs, _, err := feed(t, NewDecoder(Options{}), msg)
			if err != nil || len(recs) != 1 {
				t.Fatal(err)
			}
			want := ns / c.unit * c.unit
			if recs[0].First != want || recs[0].Last != want {
				t.Errorf("%s as element %d: %v", when, c.first, time.Unix(0, recs[0].First).UTC())
			}
		}
	}
	// Header seconds are unsigned.
	msg := v5Datagram(1)
	be.PutUint32(msg[8:], 0xfffffff0)
	recs, m, _ := feed(t, NewDecoder(Options{}), msg)
	if m.Exported != 0xfffffff0*1e9 || time.Unix(0, recs[0].First).UTC().Year() != 2106 {
		t.Errorf("%v, %v", time.Unix(0, m.Exported).UTC(), time.Unix(0, recs[0].First).UTC())
	}
	// Microseconds before the export.
	recs, _, _ = feed(t, NewDecoder(Options{}), datagram(10, 0, templateSet(10, 256, []spec{{158, 4}, {159, 4}}), octets("0100 000c 001e8480 000f4240")))
	if recs[0].First != testTime-2e9 || recs[0].Last != testTime-1e9 {
		t.Errorf("%+v", recs[0])
	}
	// An event has one time, which is kept as it was sent too.
	recs, _, _ = feed(t, NewDecoder(Options{}), datagram(10, 0, templateSet(10, 256, []spec{{323, 8}, {230, 1}}), octets("0100 000d 0000018bcfe56800 04")))
	if recs[0].First != testTime || recs[0].Last != testTime || string(recs[0].Elements) != `{"observationTimeMilliseconds":"2023-11-14T22:13:20.000Z","natEvent":4}` {
		t.Errorf("%s", show(&recs[0]))
	}
}

// The finest clock wins, whatever the order.
func TestFinestClock(t *testing.T) {
	sec, msec := octets("6553f100"), octets("0000018bcfe56864")
	for _, order := range [][]spec{{{150, 4}, {152, 8}}, {{152, 8}, {150, 4}}} {
		data := []byte{1, 0, 0, 16}
		for _, f := range order {
			data = append(data, map[uint16][]byte{150: sec, 152: msec}[f.id]...)
		}
		recs, _, _ := feed(t, NewDecoder(Options{}), datagram(10, 0, templateSet(10, 256, order), data))
		if recs[0].First != testTime+100e6 || string(recs[0].Elements) != `{"flowStartSeconds":"2023-11-14T22:13:20Z"}` {
			t.Errorf("%v: %s", order, show(&recs[0]))
		}
	}
}

// Last before first is clamped and counted.
func TestClamp(t *testing.T) {
	d := NewDecoder(Options{})
	recs, _, _ := feed(t, d, datagram(9, 0, templateSet(9, 256, []spec{{22, 4}, {21, 4}}), octets("0100 000c 0036ee80 0036ea98")))
	if r := recs[0]; r.First != testTime || r.Last != testTime {
		t.Errorf("%+v", r)
	}
	v5 := v5Datagram(1)
	be.PutUint32(v5[24+24:], 5)
	feed(t, d, v5)
	for _, e := range d.Exporters() {
		if e.Clamped != 1 {
			t.Errorf("v%d: %d clamped", e.Version, e.Clamped)
		}
	}
}

// An exporter's clock that is wrong is shown; MaxSkew moves its flows to ours.
func TestSkew(t *testing.T) {
	day := int64(24 * time.Hour)
	msg := datagram(9, 0, templateSet(9, 256, []spec{{22, 4}, {21, 4}}), octets("0100 000c 0036ea98 0036ee80"))
	for _, c := range []struct {
		max   time.Duration
		shift int64
	}{{0, 0}, {5 * time.Minute, day}, {48 * time.Hour, 0}} {
		d := NewDecoder(Options{MaxSkew: c.max})
		recs, _, _ := feedFrom(t, d, testSource, testTime+day, msg)
		if r := recs[0]; r.First != testTime-1e9+c.shift || r.Last != testTime+c.shift {
			t.Errorf("MaxSkew %v: %v to %v", c.max, time.Unix(0, r.First).UTC(), time.Unix(0, r.Last).UTC())
		}
		if e := d.Exporters()[0]; e.Skew != -24*time.Hour || !e.Started.Equal(time.Unix(1_700_000_000-3600, 0)) {
			t.Errorf("skew %v, started %v", e.Skew, e.Started)
		}
	}
}
