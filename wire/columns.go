package wire

import (
	"math"

	"weir/flow"
	"weir/ie"
)

// column is what an element's value is stored as.
type column uint8

const (
	noColumn column = iota
	colSrc
	colDst
	colNextHop
	colBGPNextHop
	colSrcPort
	colDstPort
	colProto
	colTOS
	colTCPFlags
	colPackets
	colBytes
	colInput
	colOutput
	colFirst
	colLast
	colSrcAS
	colDstAS
	colSrcMask
	colDstMask
	colDirection
	colVLAN
	colEndReason
	colForwarding
	colSampling
	colFlowID
	colICMP     // type and code in one value
	colICMPType // and each alone
	colICMPCode
	// Facts that help with columns; their elements are kept as well.
	colIPVersion
	colSampler   // which of the exporter's samplers chose the packets
	colInit      // when the exporter started, the base of sysUpTime stamps
	colObserved  // when an event was observed, for records without flow times
	colSampleInt // packets taken, …
	colSampleGap // … and passed over (RFC 5477)
	colSampleN   // n out of …
	colSampleOf  // … so many
	colSampleP   // probability
	columns
)

// rule says which column an element fills, and how gladly: of several elements
// for one column in a template the lowest rank wins, then the first. Those that
// lose stay elements.
type rule struct {
	col  column
	rank uint8
}

// rules are IANA's elements with a column.
var rules = map[uint16]rule{
	ie.IDSourceIPv4Address: {colSrc, 0}, ie.IDSourceIPv6Address: {colSrc, 0},
	ie.IDSourceIPv4Prefix: {colSrc, 1}, ie.IDSourceIPv6Prefix: {colSrc, 1},
	ie.IDDestinationIPv4Address: {colDst, 0}, ie.IDDestinationIPv6Address: {colDst, 0},
	ie.IDDestinationIPv4Prefix: {colDst, 1}, ie.IDDestinationIPv6Prefix: {colDst, 1},
	ie.IDIpNextHopIPv4Address: {colNextHop, 0}, ie.IDIpNextHopIPv6Address: {colNextHop, 0},
	ie.IDBgpNextHopIPv4Address: {colBGPNextHop, 0}, ie.IDBgpNextHopIPv6Address: {colBGPNextHop, 0},

	ie.IDSourceTransportPort: {colSrcPort, 0}, ie.IDUdpSourcePort: {colSrcPort, 1}, ie.IDTcpSourcePort: {colSrcPort, 1},
	ie.IDDestinationTransportPort: {colDstPort, 0}, ie.IDUdpDestinationPort: {colDstPort, 1}, ie.IDTcpDestinationPort: {colDstPort, 1},
	ie.IDProtocolIdentifier: {colProto, 0}, ie.IDIpClassOfService: {colTOS, 0}, ie.IDTcpControlBits: {colTCPFlags, 0},
	ie.IDIcmpTypeCodeIPv4: {colICMP, 0}, ie.IDIcmpTypeCodeIPv6: {colICMP, 0},
	ie.IDIcmpTypeIPv4: {colICMPType, 0}, ie.IDIcmpTypeIPv6: {colICMPType, 0},
	ie.IDIcmpCodeIPv4: {colICMPCode, 0}, ie.IDIcmpCodeIPv6: {colICMPCode, 0},

	// What left after a middlebox counts when nothing else was counted.
	ie.IDPacketDeltaCount: {colPackets, 0}, ie.IDPacketTotalCount: {colPackets, 1},
	ie.IDPostPacketDeltaCount: {colPackets, 2}, ie.IDPostPacketTotalCount: {colPackets, 3},
	ie.IDOctetDeltaCount: {colBytes, 0}, ie.IDOctetTotalCount: {colBytes, 1},
	ie.IDPostOctetDeltaCount: {colBytes, 2}, ie.IDPostOctetTotalCount: {colBytes, 3},

	ie.IDIngressInterface: {colInput, 0}, ie.IDEgressInterface: {colOutput, 0},
	ie.IDFlowDirection: {colDirection, 0},
	ie.IDVlanId:        {colVLAN, 0}, ie.IDDot1qVlanId: {colVLAN, 0},
	ie.IDBgpSourceAsNumber: {colSrcAS, 0}, ie.IDBgpDestinationAsNumber: {colDstAS, 0},
	ie.IDSourceIPv4PrefixLength: {colSrcMask, 0}, ie.IDSourceIPv6PrefixLength: {colSrcMask, 0},
	ie.IDDestinationIPv4PrefixLength: {colDstMask, 0}, ie.IDDestinationIPv6PrefixLength: {colDstMask, 0},
	ie.IDFlowEndReason: {colEndReason, 0}, ie.IDForwardingStatus: {colForwarding, 0}, ie.IDFlowId: {colFlowID, 0},

	// The finest clock wins; whole seconds only for want of better.
	ie.IDFlowStartNanoseconds: {colFirst, 0}, ie.IDFlowEndNanoseconds: {colLast, 0},
	ie.IDFlowStartMicroseconds: {colFirst, 1}, ie.IDFlowEndMicroseconds: {colLast, 1},
	ie.IDFlowStartMilliseconds: {colFirst, 2}, ie.IDFlowEndMilliseconds: {colLast, 2},
	ie.IDFlowStartDeltaMicroseconds: {colFirst, 3}, ie.IDFlowEndDeltaMicroseconds: {colLast, 3},
	ie.IDFlowStartSysUpTime: {colFirst, 4}, ie.IDFlowEndSysUpTime: {colLast, 4},
	ie.IDFlowStartSeconds: {colFirst, 5}, ie.IDFlowEndSeconds: {colLast, 5},

	ie.IDSamplingInterval: {colSampling, 0}, ie.IDSamplerRandomInterval: {colSampling, 1},

	ie.IDIpVersion: {colIPVersion, 0},
	ie.IDSamplerId: {colSampler, 0}, ie.IDSelectorId: {colSampler, 1},
	ie.IDSystemInitTimeMilliseconds: {colInit, 0},
	ie.IDObservationTimeNanoseconds: {colObserved, 0}, ie.IDObservationTimeMicroseconds: {colObserved, 1},
	ie.IDObservationTimeMilliseconds: {colObserved, 2}, ie.IDObservationTimeSeconds: {colObserved, 3},
	ie.IDSamplingPacketInterval: {colSampleInt, 0}, ie.IDSamplingPacketSpace: {colSampleGap, 0},
	ie.IDSamplingSize: {colSampleN, 0}, ie.IDSamplingPopulation: {colSampleOf, 0},
	ie.IDSamplingProbability: {colSampleP, 0},
}

// ruleByID is rules by number.
var ruleByID = func() (t [512]rule) {
	for id, r := range rules {
		t[id] = r
	}
	return t
}()

// helps says whether the column only helps: its element is kept too.
func (c column) helps() bool { return c >= colIPVersion }

// hasBit is the bit of Record.Has that a column sets.
var hasBit = [columns]flow.Field{
	colSrc: flow.HasSrc, colDst: flow.HasDst, colNextHop: flow.HasNextHop, colBGPNextHop: flow.HasBGPNextHop,
	colSrcPort: flow.HasSrcPort, colDstPort: flow.HasDstPort, colProto: flow.HasProto, colTOS: flow.HasTOS,
	colTCPFlags: flow.HasTCPFlags, colPackets: flow.HasPackets, colBytes: flow.HasBytes,
	colInput: flow.HasInput, colOutput: flow.HasOutput, colFirst: flow.HasFirst, colLast: flow.HasLast,
	colSrcAS: flow.HasSrcAS, colDstAS: flow.HasDstAS, colSrcMask: flow.HasSrcMask, colDstMask: flow.HasDstMask,
	colDirection: flow.HasDirection, colVLAN: flow.HasVLAN, colEndReason: flow.HasEndReason,
	colForwarding: flow.HasForwardingStatus, colSampling: flow.HasSampling, colFlowID: flow.HasFlowID,
}

// maxRate is the highest sampling rate that is believed.
const maxRate = 10_000_000

// clock turns an exporter's time stamps into Unix ns.
type clock struct {
	exported int64  // Unix ns, whole ms
	uptime   uint32 // sysUptime at that time, ms
	up       bool   // uptime is known
}

// sysUp converts a sysUpTime stamp. The difference is taken modulo 2^32, so the
// counter's wrap every 49.7 days is invisible; a stamp is within 24.8 days of
// the export, before it (as it should be) or after.
func (c *clock) sysUp(stamp uint32) int64 {
	return c.exported - int64(int32(c.uptime-stamp))*1e6
}

// ntpEpoch is 1970 in NTP's seconds since 1900 (RFC 5905 section 6).
const ntpEpoch = 2208988800

// ntp converts a 64-bit NTP time stamp, rounded to the unit's multiple, 1e9 or
// 1e6 to the second (RFC 7011 sections 6.1.9, 6.1.10). Seconds below 1970 are
// of the era that begins in 2036.
func ntp(v uint64, perSecond uint64) int64 {
	sec := int64(v >> 32)
	if sec < ntpEpoch {
		sec += 1 << 32
	}
	frac := ((v&math.MaxUint32)*perSecond + 1<<31) >> 32
	return (sec-ntpEpoch)*1e9 + int64(frac*(1e9/perSecond))
}

// eraLength is after how many ns a count of seconds in 32 bits begins anew, as
// those since 1970 do in February 2106 (RFC 7011 section 6.1.7).
const eraLength = int64(1) << 32 * 1e9

// inEra moves t, read from such a count, by whole eras to where it is nearest to
// ref, but not back. All are Unix ns. As long as the first era has not ended
// (but for clocks that are a day ahead) there is nothing to move.
func inEra(t, ref int64) int64 {
	if ref < eraLength-24*3600e9 {
		return t
	}
	if n := (ref - t + eraLength/2) / eraLength; n > 0 && t <= math.MaxInt64-n*eraLength {
		return t + n*eraLength
	}
	return t
}

// maxMs is the last millisecond whose Unix ns an int64 holds.
const maxMs = math.MaxInt64 / 1_000_000

// absolute converts an absolute time by its type; false if the length is not
// the type's or the time is beyond what can be said.
func absolute(t ie.Type, f []byte) (int64, bool) {
	switch {
	case t == ie.DateTimeSeconds && len(f) == 4:
		return int64(be.Uint32(f)) * 1e9, true
	case t == ie.DateTimeMilliseconds && len(f) == 8:
		v := be.Uint64(f)
		return int64(v) * 1e6, v <= maxMs
	case t == ie.DateTimeMicroseconds && len(f) == 8:
		return ntp(be.Uint64(f), 1e6), true
	case t == ie.DateTimeNanoseconds && len(f) == 8:
		return ntp(be.Uint64(f), 1e9), true
	}
	return 0, false
}

// rate is a sampling rate that can be believed.
func rate(v uint64) (uint32, bool) { return uint32(v), v >= 1 && v <= maxRate }

// sampling gathers what a record says of sampling in parts.
type sampling struct {
	interval, space uint64
	n, of           uint64
	p               float64
	sampler         uint32
	named, hasSpace bool
}

// rate is one packet in so many, as the parts say together (RFC 5477).
func (s *sampling) rate() (uint32, bool) {
	switch {
	case s.interval > 0 && s.hasSpace:
		return rate((s.interval + s.space + s.interval/2) / s.interval)
	case s.interval > 0:
		return rate(s.interval)
	case s.n > 0 && s.of > 0:
		return rate((s.of + s.n/2) / s.n)
	case s.p > 0 && s.p <= 1:
		return rate(uint64(math.Round(1 / s.p)))
	}
	return 0, false
}
