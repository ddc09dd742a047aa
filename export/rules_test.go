package export

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"weir/flow"
	"weir/wire"
)

// book is a few rules.
type book struct {
	rules   map[uint16]string
	changed uint64
}

func (b *book) Rule(number uint16) (list, rule string, ok bool) {
	rule, ok = b.rules[number]
	return "WAN-IN", rule, ok
}

func (b *book) Changed() uint64 { return b.changed }

// What a rule is stands in front of the first record that names it, and is told
// again when its number may be another's; rules that no record names are not told.
// What was dropped reads back as it was.
func TestRules(t *testing.T) {
	for _, form := range []string{"version=9&template=full", "version=10&template=full", "version=10&template=cisco", "version=5"} {
		t.Run(form, func(t *testing.T) {
			b := &book{rules: map[uint16]string{
				3: "permit tcp any any established", 900: "deny ip any any", 7: "permit udp any any eq domain",
				65535: "permit tcp any " + strings.Repeat("ü", 100),
			}}
			var grams [][]byte
			s := newSender(parse(t, "udp://127.0.0.1:1?"+form), &Options{Rules: b, Log: slog.New(slog.DiscardHandler)})
			st := &s.stream
			st.get = func() *datagram { return &datagram{b: make([]byte, 0, st.payload)} }
			st.free = func(*datagram) {}
			st.emit = func(g *datagram) { grams = append(grams, slices.Clone(g.b)) }
			st.begin(1_750_000_000e9, 1_749_999_000e9)
			record := func(rule uint16, dropped uint64) flow.Record {
				r := flow.Record{
					Src: flow.AddrFrom4([4]byte{10, 0, 0, 1}), Dst: flow.AddrFrom4([4]byte{10, 0, 0, 2}), Proto: 6, IPVersion: 4,
					Packets: 10, Bytes: 1000, First: 1_749_999_500e9, Last: 1_749_999_600e9, Rule: rule, ForwardingStatus: 64,
					Has: flow.HasSrc | flow.HasDst | flow.HasProto | flow.HasPackets | flow.HasBytes | flow.HasFirst | flow.HasLast | flow.HasRule | flow.HasForwardingStatus,
				}
				if dropped > 0 {
					r.DroppedPackets, r.DroppedBytes, r.ForwardingStatus = dropped, 100*dropped, 129
					r.Has |= flow.HasDropped
				}
				return r
			}
			var got []string
			d := wire.NewDecoder(wire.Options{})
			read := func() {
				t.Helper()
				for _, g := range grams {
					var batch wire.Batch
					if m, err := d.Decode(&batch, wire.Source{}, 1_750_000_000e9, g); err != nil || m.Refused != 0 {
						t.Fatalf("%+v, %v", m, err)
					}
					for _, o := range batch.Options {
						if text := string(o.Scope) + string(o.Fields); strings.Contains(text, "commonPropertiesId") {
							got = append(got, "rule "+strings.ReplaceAll(text, `{"system":1}`, ""))
						}
					}
					for _, r := range batch.Records {
						got = append(got, fmt.Sprintf("%d %s", r.ForwardingStatus, r.Elements))
					}
				}
				grams = nil
			}
			give := func(list ...flow.Record) {
				t.Helper()
				for i := range list {
					st.add(&list[i])
				}
				st.flush()
				read()
			}
			give(record(3, 0), record(900, 10), record(3, 4))
			give(record(3, 0), record(4, 0)) // which nobody knows
			b.changed++
			give(record(3, 0))
			give(record(65535, 0))
			st.tell()
			read()
			for i := range got {
				got[i] = strings.NewReplacer(`,"ipVersion":4`, "", `"flowStartSysUpTime":500000,"flowEndSysUpTime":600000,`, "").Replace(got[i])
			}
			if form == "version=5" || strings.HasSuffix(form, "cisco") {
				if all := strings.Join(got, "\n"); strings.Contains(all, "ropped") || strings.Contains(all, "commonProperties") {
					t.Errorf("another template tells of rules:\n%s", all)
				}
				return
			}
			third, ninth := `rule {"commonPropertiesId":3,"selectorName":"WAN-IN permit tcp any any established"}`, `rule {"commonPropertiesId":900,"selectorName":"WAN-IN deny ip any any"}`
			last := `rule {"commonPropertiesId":65535,"selectorName":"WAN-IN permit tcp any ` + strings.Repeat("ü", 53) + `"}`
			if strings.HasPrefix(form, "version=10") { // there the number is the scope
				for _, s := range []*string{&third, &ninth, &last} {
					*s = strings.Replace(*s, ",", "}{", 1)
				}
			}
			want := []string{
				third, ninth,
				`64 {"commonPropertiesId":3}`,
				`129 {"droppedPacketDeltaCount":10,"droppedOctetDeltaCount":1000,"firewallEvent":3,"commonPropertiesId":900}`,
				`129 {"droppedPacketDeltaCount":4,"droppedOctetDeltaCount":400,"firewallEvent":3,"commonPropertiesId":3}`,
				`64 {"commonPropertiesId":3}`, `64 {"commonPropertiesId":4}`,
				third, ninth, `64 {"commonPropertiesId":3}`,
				last, `64 {"commonPropertiesId":65535}`,
				third, ninth, last,
			}
			if !slices.Equal(got, want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}
