package wire

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"weir/flow"
)

// Of all that we send, and only of that, Ours says that it is ours.
func TestOurs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		version := rapid.SampledFrom([]uint8{flow.VersionV9, flow.VersionIPFIX}).Draw(t, "version")
		preset := rapid.SampledFrom([]Preset{Compact, Cisco, Full}).Draw(t, "preset")
		r := flow.Record{
			Has:   flow.Field(rapid.Uint64().Draw(t, "has")) | flow.HasPackets | flow.HasBytes | flow.HasFirst | flow.HasLast,
			Proto: rapid.SampledFrom([]uint8{1, 6, 17}).Draw(t, "proto"), IPVersion: rapid.SampledFrom([]uint8{4, 6}).Draw(t, "ip"),
		}
		if rapid.Bool().Draw(t, "hop6") {
			r.NextHop, r.BGPNextHop = flow.Addr{0: 0x20}, flow.Addr{0: 0x20}
		}
		l := NewLayout(version, ShapeOf(version, preset, &r, rapid.Bool().Draw(t, "sampled")), 300)
		b := AppendSet(make([]byte, 20), TemplateSet(version))
		b = EndSet(l.AppendTemplate(b), 20)
		if version == flow.VersionIPFIX {
			b = b[4:]
			PutHeaderIPFIX(b, Stamp{}, 0, 1)
		} else {
			PutHeaderV9(b, 1, Stamp{}, 0, 1)
		}
		var batch Batch
		if _, err := NewDecoder(Options{}).Decode(&batch, Source{}, 0, b); err != nil || len(batch.Templates) != 1 {
			t.Fatalf("%v, %d templates", err, len(batch.Templates))
		}
		template := batch.Templates[0].Template
		want := preset == Full && r.Has&flow.HasFlowID != 0
		if template.Ours() != want || template.HasFlowID() != want {
			t.Fatalf("%v %v: ours %v, flow id %v; want both %v", preset, template.Fields, template.Ours(), template.HasFlowID(), want)
		}
		if !want {
			return
		}
		// Anything else is not.
		other := *template
		other.Fields = slices.Clone(template.Fields)
		i := rapid.IntRange(0, len(other.Fields)-1).Draw(t, "field")
		switch rapid.IntRange(0, 4).Draw(t, "change") {
		case 0:
			j := rapid.IntRange(0, len(other.Fields)-1).Filter(func(j int) bool { return j != i }).Draw(t, "with")
			other.Fields[i], other.Fields[j] = other.Fields[j], other.Fields[i]
		case 1:
			other.Fields[i].Length++
		case 2:
			other.Fields[i].PEN = 9
		case 3:
			other.Fields = append(other.Fields, other.Fields[i])
		case 4:
			other.Fields[i].ID = 95 // applicationId
		}
		if other.Ours() {
			t.Fatalf("%v is taken for ours", other.Fields)
		}
	})
}
