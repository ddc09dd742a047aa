package packet

// Reason says why a packet is not a flow's. The zero Reason means that it was
// decoded.
type Reason uint8

// Reasons up to UnknownLink are frames without an IP packet in front; from
// TruncatedLink on they are frames whose headers cannot be believed.
const (
	Decoded         Reason = iota
	ARP                    // ARP or RARP
	OtherType              // an EtherType or PPP protocol that carries no IP
	LLC                    // an 802.2 frame that carries no IP: spanning tree, CDP, IS-IS, …
	MPLSPayload            // the bottom of the label stack is not IP
	Family                 // loopback, pf or netfilter frames of another address family
	WLANControl            // 802.11 management and control frames, data frames without data
	WLANProtected          // 802.11 data that is encrypted
	UnknownLink            // a link type that is not decoded
	TruncatedLink          // the frame ends within its link headers
	TooDeep                // more link headers than any network stacks
	TruncatedIP            // the frame ends within the fixed IP header
	BadVersion             // the IP version is not what the link header says
	BadHeaderLength        // IPv4 header length below 20 octets
	BadTotalLength         // IPv4 total length below the header length
	reasons
)

var reasonTexts = [reasons]struct{ name, help string }{
	Decoded:         {"decoded", "The packet was decoded."},
	ARP:             {"arp", "ARP and RARP frames carry no IP packet and make no flow."},
	OtherType:       {"other-type", "The frame's EtherType or PPP protocol carries no IP packet (LLDP, PPPoE discovery, EAPOL, …); it makes no flow."},
	LLC:             {"llc", "The 802.2 frame carries no IP packet (spanning tree, CDP, IS-IS, IPX, …); it makes no flow."},
	MPLSPayload:     {"mpls-payload", "Below the MPLS label stack is neither IP nor Ethernet with IP; it makes no flow."},
	Family:          {"address-family", "The frame says that it is of another address family than IPv4 and IPv6; it makes no flow."},
	WLANControl:     {"wlan-control", "802.11 management and control frames, and data frames without data, carry no IP packet."},
	WLANProtected:   {"wlan-protected", "The 802.11 frame is encrypted: capture on the wired side, or decrypt before metering."},
	UnknownLink:     {"unknown-link", "The capture's link type is not decoded: capture on an Ethernet, IP, PPP, loopback or 802.11 interface, or cooked."},
	TruncatedLink:   {"truncated-link", "The frame ends within its link headers: capture at least 96 octets of each frame."},
	TooDeep:         {"too-deep", "The frame stacks more link headers than are followed; it is likely forged or damaged."},
	TruncatedIP:     {"truncated-ip", "The frame ends within the IP header: capture at least 96 octets of each frame."},
	BadVersion:      {"bad-ip-version", "The IP header's version is not what the link header announces; the frame is damaged or forged."},
	BadHeaderLength: {"bad-header-length", "The IPv4 header length is below 20 octets; the packet is damaged or forged."},
	BadTotalLength:  {"bad-total-length", "The IPv4 total length is smaller than the header; the packet is damaged or forged."},
}

// String is the reason's stable name in lower-kebab: a metric label.
func (r Reason) String() string {
	if r < reasons {
		return reasonTexts[r].name
	}
	return "unknown"
}

// Help says in one sentence what happened, and what to do where something can
// be done.
func (r Reason) Help() string {
	if r < reasons {
		return reasonTexts[r].help
	}
	return "A reason this version does not know."
}

// NonIP says whether the frame is sound, as far as it was looked at, and simply
// has no IP packet that is read here; the other reasons are damage.
func (r Reason) NonIP() bool { return r >= ARP && r <= UnknownLink }

// Reasons lists all reasons, Decoded left out, always in the same order.
func Reasons() []Reason {
	all := make([]Reason, 0, reasons-1)
	for r := Decoded + 1; r < reasons; r++ {
		all = append(all, r)
	}
	return all
}
