package cache

import "weir/flow"

// Gone is an entry that has left the cache: what a record is made of. It is an
// Entry whose Until, Mark and State have taken on other meanings.
type Gone struct{ Entry }

// A Gone's Mark: the end reason, and what the entry was.
const (
	goneReason    = 0x0f
	goneAggregate = 0x10 // an overflow aggregate: interface, protocol, destination prefix
	goneCatchAll  = 0x20 // what no aggregate took: the interface is all that is known
)

// Reason is why it left.
func (g *Gone) Reason() flow.EndReason { return flow.EndReason(g.Mark & goneReason) }

// End is the second of the cache's clock at which it left: the tick that ended
// it; for an entry that had to leave between two ticks, the next.
func (g *Gone) End() uint32 { return g.Until }

// What makes a flow id, as flow.Record has it.
const (
	slotBits        = flow.IDSlotBits
	incarnationBits = flow.IDRecordBits
)

// Recorder makes records of what has left the caches of one Config.
type Recorder struct {
	id       uint64
	sampling uint32
	known    flow.Field

	selection flow.Selection
	places    uint32
	tells     bool
	icmp      bool // ICMP's type and code are known
}

// NewRecorder takes Boot, Number, Sampling, Key and Select from cfg.
func NewRecorder(cfg *Config) Recorder {
	r := Recorder{
		id:       (uint64(cfg.Boot)&0xfff<<6 | uint64(cfg.Number)&0x3f) << (slotBits + incarnationBits),
		sampling: max(cfg.Sampling, 1),
		known: flow.HasFirst | flow.HasLast | flow.HasPackets | flow.HasBytes | flow.HasSampling |
			flow.HasEndReason | flow.HasFlowID | flow.HasProto | flow.HasSrc | flow.HasDst |
			flow.HasSrcPort | flow.HasDstPort | flow.HasTCPFlags | flow.HasTOS,
	}
	if cfg.Key == flow.Key5Tuple {
		r.known &^= flow.HasTOS
	}
	r.selection, r.places = cfg.Select, placesOf(&cfg.Select)
	r.tells = cfg.Select.Biflow || cfg.Select.Facts()&flow.FactsMore != 0
	r.icmp = true
	if key := cfg.Select.Key; key != 0 {
		r.know(key)
	}
	return r
}

// know leaves what a key of fields tells.
func (r *Recorder) know(key flow.Facts) {
	r.icmp = icmpTypes(&r.selection)
	for _, f := range []struct {
		fact flow.Facts
		has  flow.Field
	}{
		{flow.BySrc, flow.HasSrc},
		{flow.ByDst, flow.HasDst},
		{flow.BySrcPort, flow.HasSrcPort},
		{flow.ByDstPort, flow.HasDstPort},
		{flow.ByProto, flow.HasProto},
		{flow.ByTOS | flow.ByDSCP, flow.HasTOS},
	} {
		if r.known |= f.has; key&f.fact == 0 {
			r.known &^= f.has
		}
	}
}

// Fill makes out the record of g.
func (r *Recorder) Fill(g *Gone, out *flow.Record) {
	k := &g.Key
	has := r.known
	*out = flow.Record{} // and then field by field, which saves a copy
	out.Src, out.Dst, out.SrcPort, out.DstPort = k.Src, k.Dst, k.SrcPort, k.DstPort
	out.Proto, out.TOS, out.TCPFlags = k.Proto, k.TOS, uint16(g.TCPFlags)
	out.First, out.Last, out.Packets, out.Bytes = g.First, g.Last, g.Packets, g.Bytes
	out.FlowID = r.id | uint64(g.State)<<incarnationBits | uint64(g.Incarnation)&(1<<incarnationBits-1)
	out.Sampling = r.sampling
	out.EndReason = g.Reason()
	out.IPVersion = 4
	if k.VLAN&flow.KeyIPv6 != 0 {
		out.IPVersion = 6
	}
	if k.VLAN&flow.KeyTagged != 0 {
		out.VLAN = k.VLAN & flow.VLANMask
		has |= flow.HasVLAN
	}
	switch {
	case k.Input&flow.KeyEgress != 0:
		out.Output, out.Direction = k.Input&^flow.KeyEgress, 1
		has |= flow.HasOutput | flow.HasDirection
	case k.Input != 0:
		out.Input = k.Input
		has |= flow.HasInput | flow.HasDirection
	}
	if k.VLAN&flow.KeyFragment != 0 {
		out.Fragment = true
	} else if r.icmp && (k.Proto == flow.ProtoICMP || k.Proto == flow.ProtoICMPv6) {
		out.ICMPType, out.ICMPCode = uint8(k.DstPort>>8), uint8(k.DstPort)
		has |= flow.HasICMP
	}
	if g.Mark&(goneAggregate|goneCatchAll) != 0 {
		has &^= flow.HasSrc | flow.HasSrcPort | flow.HasDstPort | flow.HasTCPFlags | flow.HasTOS | flow.HasICMP | flow.HasVLAN
		if g.Mark&goneCatchAll != 0 {
			has &^= flow.HasDst | flow.HasProto
			out.IPVersion = 0
		} else if out.DstMask = 24; out.IPVersion == 6 {
			out.DstMask = 64
		}
		if has&flow.HasDst != 0 {
			has |= flow.HasDstMask
		}
	}
	out.Has = has
}
