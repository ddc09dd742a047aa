package export

import (
	"encoding/binary"

	"weir/flow"
	"weir/ie"
	"weir/wire"
)

var be = binary.BigEndian

// samplers numbers the sampling rates that records were chosen by.
type samplers struct {
	rate  uint32 // the exporter's own; 1: all packets
	any   bool   // records name their sampler
	rates []uint32
}

// rateOf is the rate that r was sampled with.
func (s *samplers) rateOf(r *flow.Record) uint32 {
	if r.Has&flow.HasSampling != 0 && r.Sampling > 0 {
		return r.Sampling
	}
	return max(s.rate, 1)
}

const maxSamplers = 255 // the id has one octet in v9

// sampler is the id of a rate; a new one is announced before the next data. 0
// when there are too many rates: then the record names none.
func (s *stream) sampler(rate uint32) uint8 {
	m := &s.sampling
	for i, have := range m.rates {
		if have == rate {
			m.any = true
			return uint8(i + 1)
		}
	}
	if len(m.rates) == maxSamplers {
		return 0
	}
	m.rates, m.any = append(m.rates, rate), true
	s.announced = false
	return uint8(len(m.rates))
}

// optionsTemplate describes options data.
type optionsTemplate struct {
	id     uint16
	scope  int
	fields []wire.FieldSpec
}

// v9 scope types (RFC 3954 section 6.1).
const (
	scopeSystem    = 1
	scopeInterface = 2
)

// Options templates. Sampling is told in every dialect: PSAMP for IPFIX, the
// v9 sampler, and elements 34 and 35 for readers that know no other.
var (
	samplingV9 = optionsTemplate{256, 1, []wire.FieldSpec{
		{ID: scopeSystem, Length: 4},
		{ID: ie.IDSamplerId, Length: 1},
		{ID: ie.IDSamplerMode, Length: 1},
		{ID: ie.IDSamplerRandomInterval, Length: 4},
		{ID: ie.IDSamplingInterval, Length: 4},
		{ID: ie.IDSamplingAlgorithm, Length: 1},
	}}
	systematicIPFIX = optionsTemplate{256, 1, []wire.FieldSpec{
		{ID: ie.IDSelectorId, Length: 8},
		{ID: ie.IDSelectorAlgorithm, Length: 2},
		{ID: ie.IDSamplingPacketInterval, Length: 4},
		{ID: ie.IDSamplingPacketSpace, Length: 4},
		{ID: ie.IDSamplingInterval, Length: 4},
		{ID: ie.IDSamplingAlgorithm, Length: 1},
		{ID: ie.IDSamplerRandomInterval, Length: 4},
	}}
	randomIPFIX = optionsTemplate{257, 1, []wire.FieldSpec{
		{ID: ie.IDSelectorId, Length: 8},
		{ID: ie.IDSelectorAlgorithm, Length: 2},
		{ID: ie.IDSamplingSize, Length: 4},
		{ID: ie.IDSamplingPopulation, Length: 4},
		{ID: ie.IDSamplingInterval, Length: 4},
		{ID: ie.IDSamplingAlgorithm, Length: 1},
		{ID: ie.IDSamplerRandomInterval, Length: 4},
	}}

	initV9    = optionsTemplate{258, 1, []wire.FieldSpec{{ID: scopeSystem, Length: 4}, {ID: ie.IDSystemInitTimeMilliseconds, Length: 8}}}
	initIPFIX = optionsTemplate{258, 1, []wire.FieldSpec{{ID: ie.IDMeteringProcessId, Length: 4}, {ID: ie.IDSystemInitTimeMilliseconds, Length: 8}}}

	// Interface names: of fixed length, as v9 has no other and nfdump 1.7.1
	// takes no other in IPFIX either.
	namesV9 = optionsTemplate{259, 1, []wire.FieldSpec{
		{ID: scopeInterface, Length: 4},
		{ID: ie.IDInterfaceName, Length: 32},
		{ID: ie.IDInterfaceDescription, Length: 64},
	}}
	namesIPFIX = optionsTemplate{259, 1, []wire.FieldSpec{
		{ID: ie.IDIngressInterface, Length: 4},
		{ID: ie.IDInterfaceName, Length: 32},
		{ID: ie.IDInterfaceDescription, Length: 64},
	}}

	// Routing tables, by interface.
	vrfsV9 = optionsTemplate{264, 1, []wire.FieldSpec{
		{ID: scopeInterface, Length: 4},
		{ID: ie.IDIngressVRFID, Length: 4},
		{ID: ie.IDVRFname, Length: 32},
	}}
	vrfsIPFIX = optionsTemplate{264, 1, []wire.FieldSpec{
		{ID: ie.IDIngressInterface, Length: 4},
		{ID: ie.IDIngressVRFID, Length: 4},
		{ID: ie.IDVRFname, Length: 32},
	}}

	// Statistics (RFC 7011 sections 4.1 to 4.3).
	meteringV9    = optionsTemplate{260, 1, append([]wire.FieldSpec{{ID: scopeSystem, Length: 4}}, meteringFields...)}
	meteringIPFIX = optionsTemplate{260, 1, append([]wire.FieldSpec{{ID: ie.IDObservationDomainId, Length: 4}}, meteringFields...)}
	ignoredV9     = optionsTemplate{261, 1, append([]wire.FieldSpec{{ID: scopeSystem, Length: 4}}, ignoredFields...)}
	ignoredIPFIX  = optionsTemplate{261, 1, append([]wire.FieldSpec{{ID: ie.IDObservationDomainId, Length: 4}}, ignoredFields...)}
	notSentV9     = optionsTemplate{262, 1, append([]wire.FieldSpec{{ID: scopeSystem, Length: 4}}, notSentFields...)}
	notSentIPFIX  = optionsTemplate{262, 1, append([]wire.FieldSpec{{ID: ie.IDExportingProcessId, Length: 4}}, notSentFields...)}

	// The same once something was lost: with when it was first, and last.
	notSentTimesV9    = optionsTemplate{265, 1, append(append([]wire.FieldSpec{{ID: scopeSystem, Length: 4}}, notSentFields...), timeFields...)}
	notSentTimesIPFIX = optionsTemplate{265, 1, append(append([]wire.FieldSpec{{ID: ie.IDExportingProcessId, Length: 4}}, notSentFields...), timeFields...)}

	timeFields = []wire.FieldSpec{{ID: ie.IDObservationTimeMilliseconds, Length: 8}, {ID: ie.IDObservationTimeMilliseconds, Length: 8}}

	meteringFields = []wire.FieldSpec{
		{ID: ie.IDExportedOctetTotalCount, Length: 8},
		{ID: ie.IDExportedMessageTotalCount, Length: 8},
		{ID: ie.IDExportedFlowRecordTotalCount, Length: 8},
	}
	ignoredFields = []wire.FieldSpec{{ID: ie.IDIgnoredPacketTotalCount, Length: 8}, {ID: ie.IDIgnoredOctetTotalCount, Length: 8}}
	notSentFields = []wire.FieldSpec{
		{ID: ie.IDNotSentFlowTotalCount, Length: 8},
		{ID: ie.IDNotSentPacketTotalCount, Length: 8},
		{ID: ie.IDNotSentOctetTotalCount, Length: 8},
	}
)

// optionsWriter packs options records into datagrams, each with the template
// of what it holds.
type optionsWriter struct {
	s  *stream
	g  *datagram
	t  *optionsTemplate // of the set that is open
	at int              // where that set begins

	preface bool // what is written is what a link's reader needs before data
}

// pick is the v9 or the IPFIX form.
func (w *optionsWriter) pick(v9, ipfix *optionsTemplate) *optionsTemplate {
	if w.s.version == flow.VersionIPFIX {
		return ipfix
	}
	return v9
}

// put adds one record of t, whose octets rec are.
func (w *optionsWriter) put(t *optionsTemplate, rec []byte) {
	need := len(rec) + 6 // with the padding of this set and of the one before
	if w.t != t {
		need += 2*wire.SetHeaderLen + 12 + 4*len(t.fields)
	}
	w.openSet(t, need)
	w.g.b = append(w.g.b, rec...)
	w.g.count++
	w.g.data++
	w.g.options++
}

// openSet opens a set of t where there is room for so many octets.
func (w *optionsWriter) openSet(t *optionsTemplate, need int) {
	if w.g != nil && len(w.g.b)+need > w.s.payload {
		w.close()
	}
	if w.g == nil {
		w.g = w.s.blank()
	}
	if w.t != t {
		w.endSet()
		if w.s.session {
			w.g.need(w.s.definition(t))
		} else {
			at := len(w.g.b)
			w.g.b = wire.AppendSet(w.g.b, wire.OptionsSet(w.s.version))
			w.g.b = wire.AppendOptionsTemplate(w.g.b, w.s.version, t.id, t.scope, t.fields)
			w.g.b = wire.EndSet(w.g.b, at)
			w.g.count++
			w.g.templates++
		}
		w.at = len(w.g.b)
		w.g.b = wire.AppendSet(w.g.b, t.id)
		w.t = t
	}
}

// definition is t's, of a session.
func (s *stream) definition(t *optionsTemplate) *definition {
	d := s.defs[t]
	if d == nil {
		if s.defs == nil {
			s.defs = map[*optionsTemplate]*definition{}
		}
		d = &definition{t.id, wire.OptionsSet(s.version), wire.AppendOptionsTemplate(nil, s.version, t.id, t.scope, t.fields)}
		s.defs[t] = d
	}
	return d
}

func (w *optionsWriter) endSet() {
	if w.t != nil {
		w.g.b = wire.EndSet(w.g.b, w.at)
		w.t = nil
	}
}

// close emits what is there.
func (w *optionsWriter) close() {
	if w.g != nil {
		w.endSet()
		if w.preface {
			w.s.preface(w.g)
		}
		w.s.finish(w.g)
		w.g = nil
	}
}

// announce emits what readers need to know before data: sampling and, where
// times are told in sysUptime, when the exporter began. IPFIX says nothing as
// long as all packets are looked at: its sequence numbers count options records
// (RFC 7011 section 3.1), and some readers (nfdump 1.7.1) forget to.
func (s *stream) announce() {
	s.announced, s.announcedAt = true, s.built
	w := optionsWriter{s: s, preface: s.session}
	if s.session {
		s.preface(nil)
	}
	for i, rate := range s.sampling.rates {
		w.sampling(i+1, rate)
	}
	if s.version == flow.VersionV9 {
		if len(s.sampling.rates) == 0 {
			w.sampling(1, max(s.sampling.rate, 1))
		}
		w.boot()
	}
	w.close()
}

// boot announces when sysUptime was 0.
func (w *optionsWriter) boot() {
	rec := be.AppendUint32(w.s.scratch[:0], w.s.domain)
	rec = be.AppendUint64(rec, uint64(w.s.boot/1e6))
	w.put(w.pick(&initV9, &initIPFIX), rec)
	w.s.scratch = rec
}

// Numbers for ways of sampling.
const (
	samplingDeterministic = 1 // IE 35 and 49
	samplingRandom        = 2
	selectorSystematic    = 1 // PSAMP, IE 304: count-based
	selectorRandom        = 3 // n out of N
)

func (w *optionsWriter) sampling(id int, rate uint32) {
	s := w.s
	mode, algorithm := byte(samplingDeterministic), uint16(selectorSystematic)
	first, second, t := uint32(1), rate-1, &systematicIPFIX // one taken, so many passed over
	if s.random && rate > 1 {
		mode, algorithm = samplingRandom, selectorRandom
		first, second, t = 1, rate, &randomIPFIX // one out of so many
	}
	rec := s.scratch[:0]
	if s.version == flow.VersionIPFIX {
		rec = be.AppendUint64(rec, uint64(id))
		rec = be.AppendUint16(rec, algorithm)
		rec = be.AppendUint32(rec, first)
		rec = be.AppendUint32(rec, second)
		rec = be.AppendUint32(rec, rate)
		rec = append(rec, mode)
		rec = be.AppendUint32(rec, rate)
	} else {
		t = &samplingV9
		rec = be.AppendUint32(rec, s.domain)
		rec = append(rec, byte(id), mode)
		rec = be.AppendUint32(rec, rate)
		rec = be.AppendUint32(rec, rate)
		rec = append(rec, mode)
	}
	w.put(t, rec)
	s.scratch = rec
}

// names announces interfaces.
func (w *optionsWriter) names(list []Interface) {
	t := w.pick(&namesV9, &namesIPFIX)
	for _, i := range list {
		rec := be.AppendUint32(w.s.scratch[:0], i.Index)
		rec = wire.AppendString(rec, clip(i.Name, 32), t.fields[1].Length)
		rec = wire.AppendString(rec, clip(i.Description, 64), t.fields[2].Length)
		w.put(t, rec)
		w.s.scratch = rec
	}
}

// vrfs announces routing tables.
func (w *optionsWriter) vrfs(list []Interface) {
	t := w.pick(&vrfsV9, &vrfsIPFIX)
	for _, i := range list {
		if i.VRFName == "" {
			continue
		}
		rec := be.AppendUint32(w.s.scratch[:0], i.Index)
		rec = be.AppendUint32(rec, i.VRF)
		rec = wire.AppendString(rec, clip(i.VRFName, 32), t.fields[2].Length)
		w.put(t, rec)
		w.s.scratch = rec
	}
}

// clip cuts s to at most n octets, at the end of a character.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && s[n]&0xc0 == 0x80 {
		n--
	}
	return s[:n]
}

// counters announces totals, and times in ms.
func (w *optionsWriter) counters(t *optionsTemplate, scope uint32, totals ...uint64) {
	rec := be.AppendUint32(w.s.scratch[:0], scope)
	for _, v := range totals {
		rec = be.AppendUint64(rec, v)
	}
	w.put(t, rec)
	w.s.scratch = rec
}

// tell emits names, of rules too, and statistics.
func (s *stream) tell() {
	if !s.templated() || s.extra == nil {
		return
	}
	w := optionsWriter{s: s}
	if s.version == flow.VersionIPFIX {
		for i, rate := range s.sampling.rates {
			w.sampling(i+1, rate)
		}
		if !s.follow {
			w.boot()
		}
	}
	if s.rules != nil {
		s.rules.told = 0
		w.rules(s.rules)
	}
	s.extra(&w)
	w.close()
}
