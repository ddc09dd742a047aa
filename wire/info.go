package wire

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	"weir/flow"
	"weir/ie"
)

// ExporterInfo is what is known of one exporter's observation domain.
type ExporterInfo struct {
	Addr    netip.Addr `json:"addr"`
	Port    uint16     `json:"port"` // source port of the latest datagram
	Version uint8      `json:"version"`
	Domain  uint32     `json:"domain"`

	First time.Time `json:"first"` // first and latest datagram, when received
	Last  time.Time `json:"last"`

	Datagrams       uint64 `json:"datagrams"`
	Bytes           uint64 `json:"bytes"` // of datagrams
	Sets            uint64 `json:"sets"`
	Records         uint64 `json:"records"` // flow records
	OptionRecords   uint64 `json:"option_records"`
	TemplateRecords uint64 `json:"template_records"`
	Templates       int    `json:"templates"`      // known now
	WaitingSets     int    `json:"waiting_sets"`   // data without a template
	WaitingOctets   int    `json:"waiting_octets"` // the same
	Redefined       uint64 `json:"redefined"`      // templates that changed under their number
	Clamped         uint64 `json:"clamped"`        // records whose last was before first

	Sequence SequenceInfo  `json:"sequence"`
	Samples  SequenceInfo  `json:"samples"` // sFlow: what the numbers of its samples say, by data source
	Skew     time.Duration `json:"skew_ns"` // exporter's clock minus ours, latest
	Started  time.Time     `json:"started"` // when the exporter started, by its uptime; zero: unknown

	Sampling   []SamplingInfo    `json:"sampling"`
	Statistics map[string]uint64 `json:"statistics"` // what the exporter says of itself: notSentFlowTotalCount, …
	Losses     []flow.Loss       `json:"losses"`
}

// SequenceInfo is what sequence numbers say of one exporter's domain. The unit
// is records for v5 to v8 and IPFIX, datagrams for v9 and sFlow, none for v1.
type SequenceInfo struct {
	Unit       string `json:"unit"`
	Lost       uint64 `json:"lost"`       // never came
	Missing    uint64 `json:"missing"`    // did not come yet, may be reordered
	Gaps       uint64 `json:"gaps"`       // holes that were seen, filled later or not
	Reordered  uint64 `json:"reordered"`  // datagrams that came late and filled a hole
	Duplicates uint64 `json:"duplicates"` // datagrams that came again (they are decoded: only the store knows flows)
	Restarts   uint64 `json:"restarts"`   // the exporter began anew; nothing is claimed lost
}

// SamplingInfo is one sampling rate an exporter announced.
type SamplingInfo struct {
	Sampler   uint32 `json:"sampler"`   // IE 48 or 302; 0: none named
	Interface uint32 `json:"interface"` // ifIndex it is for; 0: all
	Rate      uint32 `json:"rate"`      // one packet in so many
}

// TemplateInfo is one template now known.
type TemplateInfo struct {
	Addr    netip.Addr  `json:"addr"`
	Port    uint16      `json:"port"`
	Version uint8       `json:"version"`
	Domain  uint32      `json:"domain"`
	ID      uint16      `json:"id"`
	Kind    string      `json:"kind"`  // data, options
	Scope   int         `json:"scope"` // so many fields in front are the scope
	Fields  []FieldSpec `json:"fields"`
	Seen    time.Time   `json:"seen"` // when it was last sent
}

// InterfaceName is what an exporter calls one of its interfaces.
type InterfaceName struct {
	Addr        netip.Addr `json:"addr"`
	Domain      uint32     `json:"domain"`
	Index       uint32     `json:"index"` // ifIndex
	Name        string     `json:"name"`
	Description string     `json:"description"`
}

func at(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}

// Exporters lists the exporters' domains by address, domain, version and port.
func (d *Decoder) Exporters() []ExporterInfo {
	all := make([]ExporterInfo, 0, d.count)
	for _, s := range d.sorted() {
		e := ExporterInfo{
			Addr: s.key.addr.Netip(), Port: s.port, Version: s.key.version, Domain: s.key.domain,
			First: at(s.first), Last: at(s.last),
			Datagrams: s.n.datagrams, Bytes: s.n.octets, Sets: s.n.sets, Records: s.n.records,
			OptionRecords: s.n.options, TemplateRecords: s.n.templates, Templates: len(s.templates),
			WaitingSets: len(s.waiting), WaitingOctets: s.waitingOctets,
			Redefined: s.n.redefined, Clamped: s.n.clamped,
			Sequence: s.seq.info, Samples: s.samples, Skew: time.Duration(s.skew), Sampling: []SamplingInfo{},
			Statistics: map[string]uint64{}, Losses: s.lost.Losses(),
		}
		e.Sequence.Unit, e.Samples.Unit = unit(s.key.version), unit(flow.VersionIPFIX)
		if s.started != 0 && s.started <= maxMs {
			e.Started = at(s.started * 1e6)
		}
		for _, o := range s.samplers {
			e.Sampling = append(e.Sampling, SamplingInfo{Sampler: o.id, Interface: o.ifx, Rate: o.rate})
		}
		e.Sampling = append(e.Sampling, s.sourceRates()...)
		for id, v := range s.stats {
			el, _ := ie.Lookup(0, id)
			e.Statistics[el.Name] = v
		}
		all = append(all, e)
	}
	return all
}

// sourceRates are the rates at which an sFlow agent's interfaces sample.
func (s *session) sourceRates() []SamplingInfo {
	var all []SamplingInfo
	for k, o := range s.sources {
		if k.class == 0 && k.kind == flowSamples && o.rate != 0 {
			all = append(all, SamplingInfo{Interface: k.index, Rate: o.rate})
		}
	}
	slices.SortFunc(all, func(a, b SamplingInfo) int { return cmp.Compare(a.Interface, b.Interface) })
	return all
}

// Templates lists the templates now known, by exporter and number.
func (d *Decoder) Templates() []TemplateInfo {
	var all []TemplateInfo
	for _, s := range d.sorted() {
		for _, id := range slices.Sorted(maps.Keys(s.templates)) {
			t := s.templates[id]
			kind := "data"
			if t.opts {
				kind = "options"
			}
			all = append(all, TemplateInfo{
				Addr: s.key.addr.Netip(), Port: s.port, Version: s.key.version,
				Domain: s.key.domain, ID: id, Kind: kind, Scope: t.Scope, Fields: t.Fields, Seen: at(t.seen),
			})
		}
	}
	return all
}

// Interfaces lists the interface names that exporters sent.
func (d *Decoder) Interfaces() []InterfaceName {
	var all []InterfaceName
	for _, s := range d.sorted() {
		for _, ifx := range slices.Sorted(maps.Keys(s.interfaces)) {
			n := s.interfaces[ifx]
			all = append(all, InterfaceName{
				Addr: s.key.addr.Netip(), Domain: s.key.domain, Index: ifx,
				Name: n.name, Description: n.description,
			})
		}
	}
	return all
}

// Sequences sums up what the sequence numbers of all sessions say: in records,
// and in datagrams (v9, sFlow).
func (d *Decoder) Sequences() (records, datagrams SequenceInfo) {
	records.Unit, datagrams.Unit = unit(flow.VersionIPFIX), unit(flow.VersionV9)
	records.Add(d.gone.records)
	datagrams.Add(d.gone.datagrams)
	for s := range d.each {
		s.addTo(&records, &datagrams)
	}
	return records, datagrams
}

// addTo adds what s's sequence numbers say to the sum of their unit. sFlow's
// samples have some, too.
func (s *session) addTo(records, datagrams *SequenceInfo) {
	if countsDatagrams(s.key.version) {
		datagrams.Add(s.seq.info)
		records.Add(s.samples)
	} else {
		records.Add(s.seq.info)
	}
}

// Add adds o's counts to i's.
func (i *SequenceInfo) Add(o SequenceInfo) {
	i.Lost += o.Lost
	i.Missing += o.Missing
	i.Gaps += o.Gaps
	i.Reordered += o.Reordered
	i.Duplicates += o.Duplicates
	i.Restarts += o.Restarts
}
