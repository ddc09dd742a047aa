package console

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// meters counts what the console did. A Server is a prometheus.Collector of
// them, for whoever owns the registry.
type meters struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	queries  prometheus.Histogram
	shared   prometheus.Counter
}

func newMeters() *meters {
	buckets := []float64{.001, .005, .025, .1, .5, 2, 10, 30}
	return &meters{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_console_requests_total",
			Help: "API requests by route and status.",
		}, []string{"route", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "weir_console_request_seconds",
			Help: "Time to answer an API request.", Buckets: buckets,
		}, []string{"route"}),
		queries: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "weir_console_query_seconds",
			Help: "Time of the queries that requests made.", Buckets: buckets,
		}),
		shared: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weir_console_now_shared_total",
			Help: "Answers for the Now screen that another caller had paid for.",
		}),
	}
}

func (m *meters) request(route string, status int, took time.Duration) {
	m.requests.WithLabelValues(route, strconv.Itoa(status)).Inc()
	m.seconds.WithLabelValues(route).Observe(took.Seconds())
}

func (m *meters) query(took time.Duration) { m.queries.Observe(took.Seconds()) }

// Describe implements prometheus.Collector.
func (s *Server) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range s.metrics.all() {
		c.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (s *Server) Collect(ch chan<- prometheus.Metric) {
	for _, c := range s.metrics.all() {
		c.Collect(ch)
	}
}

func (m *meters) all() []prometheus.Collector {
	return []prometheus.Collector{m.requests, m.seconds, m.queries, m.shared}
}
