package console

import (
	"math"
	"net/http"
	"time"
)

// StatusAnswer is the process and its parts; a part this process does not have
// is null.
type StatusAnswer struct {
	Version       string  `json:"version"`
	Started       string  `json:"started"`
	UptimeSeconds float64 `json:"uptime_seconds"`
	Parts         Parts   `json:"parts"`
	Cache         *Cache  `json:"cache"`
	Store         *Store  `json:"store"`
	// Exports are the destinations that records are sent to.
	Exports   []Destination  `json:"exports"`
	Exporters *ExporterCount `json:"exporters"`
}

// Parts says which parts this process has.
type Parts struct {
	Query      bool `json:"query"`
	Cache      bool `json:"cache"`
	Collector  bool `json:"collector"`
	Interfaces bool `json:"interfaces"`
	Exports    bool `json:"exports"`
	Store      bool `json:"store"`
	Losses     bool `json:"losses"`
	Metrics    bool `json:"metrics"`
}

// ExporterCount counts exporters.
type ExporterCount struct {
	Up   int `json:"up"`
	Late int `json:"late"`
}

// ExportersAnswer lists the senders of flow records.
type ExportersAnswer struct {
	Exporters []Exporter `json:"exporters"`
}

// InterfacesAnswer lists interfaces.
type InterfacesAnswer struct {
	Interfaces []Interface `json:"interfaces"`
}

func (s *Server) statusAnswer() *StatusAnswer {
	o := &s.opt
	a := &StatusAnswer{
		Version: o.Version, Started: stamp(o.Started), UptimeSeconds: math.Round(time.Since(o.Started).Seconds()),
		Parts: Parts{
			Query: o.Engine != nil, Cache: o.Cache != nil, Collector: o.Exporters != nil, Interfaces: o.Interfaces != nil,
			Exports: o.Exports != nil, Store: o.Store != nil, Losses: o.Losses != nil, Metrics: o.Metrics != nil,
		},
		Exports: []Destination{},
	}
	if o.Cache != nil {
		c := o.Cache()
		if c.Expired == nil {
			c.Expired = []Count{}
		}
		a.Cache = &c
	}
	if o.Store != nil {
		st := o.Store()
		a.Store = &st
	}
	if o.Exports != nil {
		a.Exports = append(a.Exports, o.Exports()...)
	}
	if o.Exporters != nil {
		a.Exporters = &ExporterCount{}
		for _, e := range o.Exporters() {
			if e.Late {
				a.Exporters.Late++
			} else {
				a.Exporters.Up++
			}
		}
	}
	return a
}

func (s *Server) status(w http.ResponseWriter, r *http.Request) error {
	return writeJSON(w, r, s.statusAnswer())
}

func (s *Server) exporters(w http.ResponseWriter, r *http.Request) error {
	if s.opt.Exporters == nil {
		return absent("collector")
	}
	return writeJSON(w, r, &ExportersAnswer{append([]Exporter{}, s.opt.Exporters()...)})
}

func (s *Server) interfaces(w http.ResponseWriter, r *http.Request) error {
	if s.opt.Interfaces == nil {
		return absent("interfaces")
	}
	return writeJSON(w, r, &InterfacesAnswer{append([]Interface{}, s.opt.Interfaces()...)})
}
