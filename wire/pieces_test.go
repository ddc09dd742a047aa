package wire

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"weir/ie"
)

// Numbers are written as strconv does, around each change of length and at random.
func TestPutUint(t *testing.T) {
	var numbers []uint64
	for p := uint64(1); p < 1e19; p *= 10 {
		numbers = append(numbers, p-1, p, p+1, 9*p, 10*p-1)
	}
	for shift := range 64 {
		numbers = append(numbers, 1<<shift, 1<<shift-1, rand.Uint64()>>shift)
	}
	for v := range uint64(20000) {
		numbers = append(numbers, v, v*4999, v*rand.Uint64N(5000))
	}
	numbers = append(numbers, math.MaxUint64)
	b := make([]byte, longestForm)
	for _, v := range numbers {
		if v == 0 {
			continue
		}
		if got, want := string(b[:putUint(b, v)]), strconv.FormatUint(v, 10); got != want {
			t.Fatalf("%s, want %s", got, want)
		}
	}
}

// Elements as pieces write them, of each form, are what the general way makes of the same
// octets; with lengths that vary before and between them, with names as long as they get, and
// beside such that are no pieces, come twice, or are there because a column did not take them.
func TestPieces(t *testing.T) {
	long := func(n int) ie.Element {
		return ie.Element{PEN: 4711, ID: uint16(n), Type: ie.Unsigned32, Name: strings.Repeat("n", n)}
	}
	var types []ie.Element
	for n := 24; n <= maxTypeName; n++ { // a key has four octets more
		types = append(types, long(n))
	}
	number := func(n int) func([]byte) string {
		return func(f []byte) string {
			return strconv.FormatUint(binary.BigEndian.Uint64(append(make([]byte, 8-n), f...)), 10)
		}
	}
	type kind struct {
		spec  FieldSpec
		name  string
		value func([]byte) string
	}
	quoted := func(s string) string { return `"` + s + `"` }
	kinds := []kind{
		{FieldSpec{ID: 56, Length: 6}, "sourceMacAddress", func(f []byte) string { return quoted(net.HardwareAddr(f).String()) }},
		{FieldSpec{ID: 225, Length: 4}, "postNATSourceIPv4Address", func(f []byte) string { return quoted(netip.AddrFrom4([4]byte(f)).String()) }},
		{FieldSpec{ID: 225, Length: 3}, "postNATSourceIPv4Address", func(f []byte) string { return fmt.Sprintf("%q", fmt.Sprintf("%x", f)) }},
		{FieldSpec{ID: 84, Length: VariableLength}, "samplerName", func(f []byte) string { return quoted(string(f)) }},
		{FieldSpec{ID: 36, Length: 2}, "flowActiveTimeout", number(2)},
		{FieldSpec{ID: 34, Length: 4}, "samplingInterval", nil}, // zero is no rate, and left
	}
	for n := 1; n <= 8; n++ {
		kinds = append(kinds, kind{FieldSpec{ID: 133, Length: uint16(n)}, "droppedPacketDeltaCount", number(n)})
	}
	for _, e := range types {
		kinds = append(kinds, kind{FieldSpec{PEN: e.PEN, ID: e.ID, Length: 4}, e.Name, number(4)})
	}
	for _, at := range []int{0, 1} { // whether there is something that varies in length
		for seed := range uint64(400) {
			r := rand.New(rand.NewPCG(seed, 1))
			var fields []FieldSpec
			var data []byte
			var keys []string
			values := map[string][]string{}
			add := func(k kind) {
				fields = append(fields, k.spec)
				n := int(k.spec.Length)
				if n == VariableLength {
					n = r.IntN(300)
					data = append(be.AppendUint16(append(data, 255), uint16(n)), bytes.Repeat([]byte{'v'}, n)...)
				} else {
					for range n {
						data = append(data, byte(r.Uint32())&-byte(r.IntN(2)))
					}
				}
				f := data[len(data)-n:]
				if k.value == nil {
					clear(f)
					k.value = number(n)
				}
				if !slices.Contains(keys, k.name) {
					keys = append(keys, k.name)
				}
				values[k.name] = append(values[k.name], k.value(f))
			}
			for range 1 + r.IntN(8) {
				if k := kinds[r.IntN(len(kinds))]; at == 1 || k.spec.Length != VariableLength {
					if k.value == nil && slices.Contains(keys, k.name) {
						continue // the second is kept whatever it is
					}
					add(k)
				}
			}
			fields, data = append(fields, FieldSpec{ID: 1, Length: 8}), be.AppendUint64(data, 40) // no record is as short as padding
			var want []string
			for _, k := range keys {
				v := values[k]
				s := v[0]
				if len(v) > 1 {
					s = "[" + strings.Join(v, ",") + "]"
				}
				want = append(want, fmt.Sprintf("%q:%s", k, s))
			}
			d := NewDecoder(Options{})
			for i := 0; i < len(types); i += 8 {
				feed(t, d, datagram(10, 0, typesSets(400, types[i:min(i+8, len(types))]...)))
			}
			template := EndSet(AppendTemplate(AppendSet(nil, TemplateSetIPFIX), 256, fields), 0)
			set := EndSet(append(AppendSet(nil, 256), slices.Concat(data, data, data)...), 0)
			recs, _, err := feed(t, d, datagram(10, 0, template, set))
			if err != nil || len(recs) != 3 {
				t.Fatal(len(recs), err)
			}
			for _, rec := range recs {
				got, all := string(rec.Elements), "{"+strings.Join(want, ",")+"}"
				if len(want) == 0 {
					all = ""
				}
				if got != all {
					t.Fatalf("seed %d, %v:\n got %s\nwant %s", seed, fields, got, all)
				}
			}
		}
	}
}
