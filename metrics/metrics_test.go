package metrics

import (
	"io"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"weir/flow"
)

func TestExposition(t *testing.T) {
	losses := func() []flow.Loss {
		return []flow.Loss{{Stage: "store", Reason: "store-full", Records: 3}, {Stage: "packet", Reason: "non-ip"}}
	}
	h := New("v1", time.Unix(100, 5e8), Losses(losses), func(emit func(Sample)) {
		emit(Sample{Name: "weir_cache_entries", Help: "Flows in the cache.", Gauge: true, Labels: []string{"interface", "et\"h\n0"}, Value: 7})
	})
	extra := prometheus.NewCounter(prometheus.CounterOpts{Name: "weir_extra_total", Help: "A part's own."})
	if err := h.Add(extra); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	body, _ := io.ReadAll(w.Body)
	for _, want := range []string{
		`weir_build_info{version="v1"} 1`,
		`weir_start_time_seconds 100.5`,
		`weir_lost_records_total{reason="store-full",stage="store"} 3`,
		`weir_lost_packets_total{reason="non-ip",stage="packet"} 0`,
		`# TYPE weir_lost_records_total counter`,
		`# TYPE weir_cache_entries gauge`,
		`weir_cache_entries{interface="et\"h\n0"} 7`,
		`process_cpu_seconds_total`,
		`weir_extra_total 0`,
	} {
		if !strings.Contains(string(body), want+"\n") && !strings.Contains(string(body), want+" ") {
			t.Errorf("no %s in\n%s", want, body)
		}
	}
}
