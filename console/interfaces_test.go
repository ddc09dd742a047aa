package console

import (
	"strings"
	"testing"
)

// TestInterfacesScreen: what is metered, the share that is forwarded, and why the rest
// is not; also on a phone.
func TestInterfacesScreen(t *testing.T) {
	forwarded, none, tick := uint64(9_750_000), uint64(0), uint64(0)
	at := serve(t, Options{Interfaces: func() []Interface {
		tick++
		return []Interface{
			{
				Index: 2, Name: "eth0", Alias: "uplink", Mode: "xdp", Why: "native, driver ixgbe", PacketsIn: 10_000_000 + 2_000_000*tick, BytesIn: 1e9 * (8 + tick), PacketsOut: 7, BytesOut: 900,
				Ignored: []Count{{"arp", 12}}, Forwarded: &forwarded, Slow: []Count{{"ttl", 3}, {"fragment", 200_000}, {"local", 49_997}, {"lost", 17}},
			},
			{Index: 3, Name: "eth1", Mode: "tc", Why: "as asked", PacketsIn: 5, BytesIn: 400, Dropped: 3},
			{Index: 4, Name: "eth2", Mode: "xdp", Why: "native, driver ixgbe", Forwarded: &none},
			{Exporter: "192.0.2.1", Index: 17, Name: "Gi0/0/1", Alias: "<b>to the lab</b>"},
		}
	}})
	tb := openTab(t)
	tb.size(1440, 900, "light")
	tb.open(at + "/interfaces")
	tb.until("document.querySelectorAll('[data-forwards]').length === 2")
	if s := tb.text("[data-forwards='eth0'] .share"); !strings.Contains(s, "97.5") {
		t.Errorf("the share that is forwarded: %q", s) // 9.75 of 10 million; lost is no part of that
	}
	if s := tb.text("[data-forwards='eth0'] .reasons"); !strings.HasPrefix(s, "fragment") || !strings.Contains(s, "lost") {
		t.Errorf("reasons: %q", s)
	}
	if s := tb.text("[data-forwards='eth2'] .share"); s != "–" {
		t.Errorf("the share of nothing: %q", s)
	}
	tb.until("document.querySelector('[data-interface=eth0]').textContent.includes('bit/s')")
	if n := eval[int](tb, "document.querySelectorAll('.interfaces td b b').length"); n != 0 {
		t.Error("an exporter's text is taken as markup")
	}
	tb.shot("interfaces-light", true)
	tb.size(1440, 900, "dark")
	tb.shot("interfaces-dark", true)
	tb.size(390, 800, "light")
	tb.shot("interfaces-phone", true)
	if w := eval[int](tb, "document.documentElement.scrollWidth"); w > 390 {
		t.Errorf("the page is %d wide on a phone of 390", w)
	}
}
