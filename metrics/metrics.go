// Package metrics shows weir's counters to Prometheus.
//
// In: functions that list the samples of the moment, one for each room. Out:
// the exposition format. Names begin with weir_, carry their unit, counters
// end in _total; labels never hold addresses, ports or AS numbers of traffic.
package metrics

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"weir/flow"
)

// Sample is one value of the moment.
type Sample struct {
	Name   string // weir_…
	Help   string
	Gauge  bool     // else it only grows
	Labels []string // name, value, name, value, …
	Value  float64
}

// Source lists samples; called for each scrape, from any goroutine.
type Source func(emit func(Sample))

// Registry is what is shown.
type Registry struct{ r *prometheus.Registry }

// New shows what the sources list, with the process's and the build's own.
func New(version string, started time.Time, sources ...Source) *Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	build := func(emit func(Sample)) {
		emit(Sample{Name: "weir_build_info", Help: "The version that runs.", Gauge: true, Labels: []string{"version", version}, Value: 1})
		emit(Sample{Name: "weir_start_time_seconds", Help: "When it started, Unix time.", Gauge: true, Value: float64(started.UnixNano()) / 1e9})
	}
	r.MustRegister(collector(append([]Source{build}, sources...)))
	return &Registry{r}
}

// Add shows one more part's own metrics.
func (r *Registry) Add(c prometheus.Collector) error { return r.r.Register(c) }

// ServeHTTP answers a scrape.
func (r *Registry) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	promhttp.HandlerFor(r.r, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}).ServeHTTP(w, q)
}

// collector is unchecked: what there is to tell changes as rooms come and go.
type collector []Source

func (c collector) Describe(chan<- *prometheus.Desc) {}

func (c collector) Collect(out chan<- prometheus.Metric) {
	for _, source := range c {
		source(func(s Sample) {
			var names, values []string
			for i := 0; i+1 < len(s.Labels); i += 2 {
				names, values = append(names, s.Labels[i]), append(values, s.Labels[i+1])
			}
			kind := prometheus.CounterValue
			if s.Gauge {
				kind = prometheus.GaugeValue
			}
			m, err := prometheus.NewConstMetric(prometheus.NewDesc(s.Name, s.Help, names, nil), kind, s.Value, values...)
			if err != nil {
				m = prometheus.NewInvalidMetric(prometheus.NewInvalidDesc(err), err)
			}
			out <- m
		})
	}
}

// Losses turns the ledger into samples, zeros included.
func Losses(list func() []flow.Loss) Source {
	return func(emit func(Sample)) {
		for _, l := range list() {
			labels := []string{"stage", l.Stage, "reason", l.Reason}
			for _, u := range []struct {
				unit  string
				value uint64
			}{{"records", l.Records}, {"packets", l.Packets}, {"bytes", l.Bytes}, {"datagrams", l.Datagrams}} {
				emit(Sample{
					Name: "weir_lost_" + u.unit + "_total", Help: "What each stage gave up, by reason; see `weir show loss`.",
					Labels: labels, Value: float64(u.value),
				})
			}
		}
	}
}
