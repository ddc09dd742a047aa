// Package packet reads the headers of frames: from octets to the flow key.
//
// In: one captured frame, its link type and its length on the wire. Out: an
// Info, or the Reason why the frame is not a flow's packet.
//
// The key is that of the outermost IP header, whatever link headers, tags and
// labels are in front of it; the headers inside tunnels are not looked at. All
// lengths come from the IP header, so that a capture cut to 96 octets counts
// what the whole one does. Nothing is reassembled, nothing is kept between two
// packets, nothing is allocated, and no octet is read that the frame does not
// have: any input is safe.
//
// Decode keeps no state and may be called from any goroutine.
package packet
