package console

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// guarded is a guard with an attack, a proposal and an action in force.
type guarded struct {
	mu   sync.Mutex
	act  bool
	asks []string
}

func (g *guarded) do(what string, id uint64, by string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.act {
		return errors.New("the console only shows")
	}
	g.asks = append(g.asks, fmt.Sprintf("%s %d", what, id))
	return nil
}

func (g *guarded) answer() *GuardAnswer {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now().UTC()
	at := func(ago time.Duration) string { return now.Add(-ago).Format(time.RFC3339Nano) }
	share := func(list ...any) (out []GuardShare) {
		for i := 0; i < len(list); i += 2 {
			out = append(out, GuardShare{list[i].(string), list[i+1].(float64)})
		}
		return out
	}
	evidence := &GuardEvidence{
		At: at(time.Second), Sampled: 4021, Packets: 812345, Sources: 3977, Established: 0.03,
		TopSources: share("203.0.113.7", 0.12, "198.51.100.0", 0.05, "2001:db8:ffff::/64", 0.01), Protocols: share("udp", 0.96, "tcp", 0.04),
		SourcePorts: share("53 dns", 0.61, "123 ntp", 0.30, "51820", 0.02), DestPorts: share("443", 0.7, "1024", 0.01), Sizes: share("<= 1500", 0.9, "<= 64", 0.1),
		TCPFlags: share("SA", 1.0), Headers: []GuardHeader{{"203.0.113.7:53", "192.0.2.10:443", 17, 0, 0, false, 30, 42000}, {"198.51.100.9:123", "192.0.2.10:443", 17, 0, 0, true, 12, 5616}},
	}
	attack := GuardAttack{
		ID: 7, Group: "web", Scope: "host", Target: "192.0.2.10", Kind: "udp-amplification", Threshold: "pps 20kpps", Rate: "812kpps", Peak: "904kpps", PPS: 812345, BPS: 9_100_000_000,
		PeakPPS: 904000, PeakBPS: 10_400_000_000, Began: at(95 * time.Second), Seen: at(0), Times: 3, Evidence: evidence,
	}
	crowd := attack
	crowd.ID, crowd.Target, crowd.Kind, crowd.Times = 9, "2001:db8:1::80", "established", 1
	over := attack
	over.ID, over.Target, over.Kind, over.Ended, over.Seen, over.Evidence = 3, "192.0.2.0/24", "syn-flood", at(time.Hour), at(time.Hour+time.Minute), nil
	over.Began, over.Scope = at(2*time.Hour), "network"
	return &GuardAnswer{
		On: true, MayAct: g.act, Now: at(0),
		Groups: []GuardGroup{
			{Group: "default", Mode: "observe", Networks: 0, PPS: 1200, BPS: 9_000_000, Flows: 40, Thresholds: []string{"pps 20kpps", "bps 1Gbps", "flows 3.5kflows/s"}},
			{Group: "web", Mode: "automatic", Networks: 2, PPS: 812345, BPS: 9_100_000_000, Flows: 12000, SYNRatio: 0.1, DroppedPPS: 780000, Thresholds: []string{"pps 20kpps"}},
		},
		Limits: []GuardLimit{
			{Name: "flows.voice", Beyond: 48_211, Dropped: 48_211},
			{Name: "flows.any", Beyond: 9_120_331, Dropped: 8_001_200, Held: 4},
			{Name: "new-flows.per-cpu"},
			{Name: "new-flows.per-source"},
			{Name: "new-flows.per-destination", Beyond: 1_200_345},
		},
		Attacks: []GuardAttack{attack, crowd, over},
		Actions: []GuardAction{
			{ID: 8, Attack: 7, Group: "web", What: "police 5kpps: udp sport 53,123 to 192.0.2.10", State: "active", By: "automatic", Why: "udp-amplification of 192.0.2.10: 812kpps over pps 20kpps", Created: at(95 * time.Second), Started: at(95 * time.Second), Ends: at(-145 * time.Second), Left: 145, HoldSeconds: 240, Hit: 0.93, Innocent: 0.004, Packets: 70_000_000, DroppedPackets: 69_500_000, Undo: "weir guard lift 8", Here: true},
			{ID: 10, Attack: 9, Group: "web", What: "police 5kpps: tcp to 2001:db8:1::80 dport 443", State: "proposed", By: "automatic", Why: "established of 2001:db8:1::80: 812kpps over pps 20kpps", Note: "not by automatism: it looks like established traffic", Created: at(time.Minute), HoldSeconds: 60, Hit: 0.99, Innocent: 0.98, Undo: "weir guard lift 10"},
			{ID: 4, Attack: 3, Group: "default", What: "drop: tcp syn to 192.0.2.0/24", State: "ended", By: "automatic", Why: "x", Created: at(2 * time.Hour), Started: at(2 * time.Hour), Note: "the attack is over"},
		},
	}
}

func TestGuardRoute(t *testing.T) {
	g := &guarded{}
	at := serve(t, Options{Guard: g.answer, GuardDo: g.do})
	post := func(kind, body string, header ...string) (int, string) {
		q, _ := http.NewRequest(http.MethodPost, at+"/api/v1/guard", strings.NewReader(body))
		q.Header.Set("Content-Type", kind)
		for i := 0; i+1 < len(header); i += 2 {
			q.Header.Set(header[i], header[i+1])
		}
		r, err := http.DefaultClient.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		b, _ := io.ReadAll(r.Body)
		return r.StatusCode, string(b)
	}
	const good, kind = `{"do": "approve", "id": 10}`, "application/json"
	if status, body := post(kind, good); status != http.StatusConflict || !strings.Contains(body, "only shows") {
		t.Errorf("switched off: %d %s", status, body)
	}
	g.act = true
	for _, c := range []struct {
		kind, body string
		header     []string
		status     int
	}{
		{kind, good, nil, http.StatusOK},
		{kind, `{"do": "lift", "id": 8}`, nil, http.StatusOK},
		{kind, good, []string{"Sec-Fetch-Site", "cross-site"}, http.StatusForbidden},
		{kind, good, []string{"Origin", "http://evil.example"}, http.StatusForbidden},
		{"application/x-www-form-urlencoded", good, nil, http.StatusUnsupportedMediaType},
		{kind, `{"do": "off", "id": 1}`, nil, http.StatusBadRequest},
		{kind, `{"do": "lift", "id": -1}`, nil, http.StatusBadRequest},
		{kind, `{"do": "lift", "id": 1, "x": 1}`, nil, http.StatusBadRequest},
		{kind, strings.Repeat(" ", 5000) + good, nil, http.StatusBadRequest},
	} {
		if status, body := post(c.kind, c.body, c.header...); status != c.status {
			t.Errorf("%s %.40q %v: %d, want %d: %s", c.kind, c.body, c.header, status, c.status, body)
		}
	}
	if got := strings.Join(g.asks, ", "); got != "approve 10, lift 8" {
		t.Errorf("asked for: %s", got)
	}
	r, err := http.Get(at + "/api/v1/guard")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	var a GuardAnswer
	if err := json.NewDecoder(r.Body).Decode(&a); err != nil || len(a.Attacks) != 3 || a.Attacks[0].Evidence.Sources != 3977 {
		t.Errorf("%v: %+v", err, a)
	}
	none := serve(t, Options{Guard: func() *GuardAnswer { return nil }})
	if r, err := http.Get(none + "/api/v1/guard"); err != nil || r.StatusCode != http.StatusNotFound {
		t.Errorf("without a guard: %v %v", r, err)
	}
}

func TestGuardScreen(t *testing.T) {
	g := &guarded{}
	at := serve(t, Options{Guard: g.answer, GuardDo: g.do})
	tb := openTab(t)
	tb.size(1440, 900, "light")
	tb.open(at + "/guard")
	tb.until("document.querySelectorAll('section.attack').length === 2")
	if s := tb.text("[data-action='8'] .countdown"); !strings.Contains(s, "min") {
		t.Errorf("countdown %q", s)
	}
	// It only shows: commands to copy, no buttons.
	if n := eval[int](tb, "document.querySelectorAll('.action .buttons').length"); n != 0 || !strings.Contains(tb.text("[data-action='10'] code"), "weir guard approve 10") {
		t.Errorf("%d groups of buttons; %q", n, tb.text("[data-action='10'] code"))
	}
	tb.shot("guard-light", true)
	g.mu.Lock()
	g.act = true
	g.mu.Unlock()
	tb.until("document.querySelector('[data-action=\"10\"] .button.primary')")
	tb.click("[data-action='10'] .button.primary")
	tb.until("document.querySelector('[data-action=\"10\"] .button.primary').textContent.startsWith('Yes')")
	tb.shot("guard-approve", true)
	tb.click("[data-action='10'] .button.primary")
	tb.click("[data-action='8'] .buttons .button")
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		g.mu.Lock()
		got := strings.Join(g.asks, ", ")
		g.mu.Unlock()
		if got == "approve 10, lift 8" {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("asked for: %q", got)
		}
	}
	tb.size(1440, 900, "dark")
	tb.shot("guard-dark", true)
	tb.size(390, 800, "light")
	tb.shot("guard-phone", true)
	if w := eval[int](tb, "document.documentElement.scrollWidth"); w > 390 {
		t.Errorf("the page is %d wide on a phone of 390", w)
	}
}
