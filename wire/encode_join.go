package wire

// Fields that stand side by side in most layouts are written together: finding
// out what to write costs more than writing it. Every width of its own is a kind
// of its own, so that nothing is asked twice.
const (
	putAddrs4 put1 = 64 + iota // beyond those that write one field
	putAddrs16
	putProtoTOS
	putProtoTOSFlags
	putProtoTOSFlags16
	putInOut2
	putInOut4
	putCounts12
	putCounts4
	putCounts8
	putUps
	putMss
	putAS2
	putAS4
	putMasks
	putReasonStatus
	putDropped
)

// joinedPuts gives the one put for two, by their kinds and octets.
var joinedPuts = map[[2]put]put{
	{{putSrc4, 4}, {putDst4, 4}}:                   {putAddrs4, 8},
	{{putSrc16, 16}, {putDst16, 16}}:               {putAddrs16, 32},
	{{putProto, 1}, {putTOS, 1}}:                   {putProtoTOS, 2},
	{{putProtoTOS, 2}, {putFlags, 1}}:              {putProtoTOSFlags, 3},
	{{putProtoTOS, 2}, {putFlags, 2}}:              {putProtoTOSFlags16, 4},
	{{putInput, 2}, {putOutput, 2}}:                {putInOut2, 4},
	{{putInput, 4}, {putOutput, 4}}:                {putInOut4, 8},
	{{putPackets, 1}, {putBytes, 2}}:               {putCounts12, 3},
	{{putPackets, 4}, {putBytes, 4}}:               {putCounts4, 8},
	{{putPackets, 8}, {putBytes, 8}}:               {putCounts8, 16},
	{{putFirstUp, 4}, {putLastUp, 4}}:              {putUps, 8},
	{{putFirstMs, 8}, {putLastMs, 8}}:              {putMss, 16},
	{{putSrcAS, 2}, {putDstAS, 2}}:                 {putAS2, 4},
	{{putSrcAS, 4}, {putDstAS, 4}}:                 {putAS4, 8},
	{{putSrcMask, 1}, {putDstMask, 1}}:             {putMasks, 2},
	{{putReason, 1}, {putStatus, 1}}:               {putReasonStatus, 2},
	{{putDroppedPackets, 8}, {putDroppedBytes, 8}}: {putDropped, 16},
}

// join puts together what can be.
func join(puts []put) []put {
	out := puts[:0]
	for _, p := range puts {
		if p.what == putNothing { // written with the one before
			continue
		}
		if n := len(out); n > 0 {
			if both, ok := joinedPuts[[2]put{out[n-1], p}]; ok {
				out[n-1] = both
				continue
			}
		}
		out = append(out, p)
	}
	return out
}
