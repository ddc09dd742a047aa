package wire

import "testing"

// An application's name comes with options, and is in the records after; a name
// that a record brings itself stays.
func TestApplicationNames(t *testing.T) {
	f := []spec{{4, 1}, {95, 4}, {1, 4}}
	table := func(data string) []byte {
		return optionsSet(9, 300, []spec{{1, 4}}, []spec{{95, 4}, {96, 8}}, data)
	}
	data := append([]byte{1, 0, 0, 13 + 4}, octets("06 0d0001c5 000003e8 11 03000035")...)
	data = append(data[:13], octets("11 03000035 00000064")...)
	be.PutUint16(data[2:], uint16(len(data)))
	d := NewDecoder(Options{})
	for _, c := range []struct {
		name string
		msg  []byte
		want []string
	}{
		{"before the table", datagram(9, 0, templateSet(9, 256, f), data), []string{
			`proto=6 bytes=1000 {"applicationId":"0d0001c5"}`, `proto=17 bytes=100 {"applicationId":"03000035"}`,
		}},
		{"after it", datagram(9, 1, table("00000000 0d0001c5 796f757475626500 00000000 0d000001 6f746865720000 00"), data), []string{
			`proto=6 bytes=1000 {"applicationId":"0d0001c5","applicationName":"youtube"}`, `proto=17 bytes=100 {"applicationId":"03000035"}`,
		}},
		{"its own name", datagram(9, 2, templateSet(9, 256, []spec{{4, 1}, {95, 4}, {96, 4}}), append([]byte{1, 0, 0, 13}, octets("06 0d0001c5 6d696e65")...)), []string{
			`proto=6 {"applicationId":"0d0001c5","applicationName":"mine"}`,
		}},
	} {
		recs, _, err := feed(t, d, c.msg)
		if err != nil || len(recs) != len(c.want) {
			t.Fatalf("%s: %d records, %v", c.name, len(recs), err)
		}
		for i := range recs {
			if got := show(&recs[i]); got != c.want[i] {
				t.Errorf("%s: %s; want %s", c.name, got, c.want[i])
			}
		}
	}

	d = NewDecoder(Options{Limits: smallLimits})
	_, m, err := feed(t, d, datagram(9, 0, table("00000000 00000001 6100000000000000 00000000 00000002 6200000000000000 00000000 00000003 6300000000000000"+
		"00000000 00000004 6400000000000000 00000000 00000005 6500000000000000")))
	if err == nil || m.Options != 5 || count(d, BadOptions) != 1 {
		t.Errorf("five names where four may be: %+v, %v", m, err)
	}
}
