package capture

import (
	"weir/flow"
	"weir/packet"
)

// Decode fills in from p: what packet.Decode says of the frame, and what only
// the capture knows: the time, the interface and a tag that was taken off the
// frame, which is the outermost one.
func (p *Packet) Decode(in *packet.Info) packet.Reason {
	in.Time = p.Time
	in.Key.Input = p.Interface
	why := packet.Decode(p.Link, p.Data, p.Wire, in)
	if p.VLAN != 0 {
		in.Key.VLAN = in.Key.VLAN&^flow.VLANMask | p.VLAN
	}
	return why
}

// DecodeMore is Decode, and what packet.DecodeMore adds to it.
func (p *Packet) DecodeMore(inner bool, in *packet.Info, x *flow.More) packet.Reason {
	in.Time = p.Time
	in.Key.Input = p.Interface
	why := packet.DecodeMore(p.Link, p.Data, p.Wire, inner, in, x)
	if p.VLAN != 0 {
		if tag := in.Key.VLAN & (flow.VLANMask | flow.KeyTagged); tag != 0 {
			x.InnerVLAN = tag // it is the frame's first that is left
		}
		in.Key.VLAN = in.Key.VLAN&^flow.VLANMask | p.VLAN
	}
	return why
}
