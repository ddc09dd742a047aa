package config

import (
	"strings"
	"testing"
	"time"

	"weir/guard"
)

func TestGuard(t *testing.T) {
	c, err := Parse("weir.yaml", []byte(`guard:
  networks: [192.0.2.0/24]
  thresholds: {threshold_pps: 50000, threshold_mbps: 100}
  hostgroups:
    dns: {networks: [192.0.2.53], mode: automatic, action: drop, thresholds: {udp-pps-10s: 9k}}
    web: {networks: [192.0.2.80], hold: 2h}
  flows: {any: {pps: 200kpps, action: police}}
  bgp: {communities: [blackhole, '65000:666']}
`))
	if err != nil {
		t.Fatal(err)
	}
	if !c.Guard.Enabled || Default().Guard.Enabled {
		t.Error("naming it is wanting it; not naming it is not")
	}
	p, err := c.Guard.Policy(nil)
	if err != nil {
		t.Fatal(err)
	}
	main, dns, web := p.Groups[0], p.Groups[1], p.Groups[2]
	if main.Mode != guard.Observe || len(main.Hosts) != 2 || main.PPS != 5000 || main.Hold != time.Minute {
		t.Errorf("main %+v", main)
	}
	if dns.Mode != guard.Automatic || dns.Do != guard.Drop || dns.PPS != 0 || len(dns.Hosts) != 1 || dns.Hosts[0].Window != guard.TenSeconds || len(dns.Outgoing) != 3 {
		t.Errorf("dns %+v", dns)
	}
	if web.Mode != guard.Observe || web.Hold != 2*time.Hour || web.MaxHold != 2*time.Hour || len(web.Hosts) != 2 {
		t.Errorf("web %+v", web)
	}
	if list, err := c.Guard.BGP.CommunityList(); err != nil || len(list) != 2 || list[0] != 0xffff029a {
		t.Errorf("communities %x, %v", list, err)
	}
	if f, err := c.Guard.Profiles(); err != nil || len(f) != 1 || f[0].PPS != 200_000 || f[0].Do != guard.Police {
		t.Errorf("profiles %+v, %v", f, err)
	}
	for in, want := range map[string]string{
		"guard: {mode: agressive}":                          "f:1:15: guard.mode: ",
		"guard: {thresholds: {ppps: 1}}":                    `f:1:21: guard.thresholds: "ppps" is no threshold`,
		"guard: {hostgroups: {x: {networks: []}}}":          "hostgroup x has no networks",
		"guard: {hostgroups: {x: {thresholds: {pps: 0}}}}":  "guard.hostgroups.x.thresholds: pps: 0",
		"guard: {notify: {script: notify.sh}}":              "f:1:26: guard.notify.script: ",
		"guard: {notify: {webhook: 'ftp://x'}}":             "guard.notify.webhook: ",
		"guard: {notify: {syslog: 'udp://x'}}":              "guard.notify.syslog: ",
		"guard: {announce: rtbh}":                           "guard.announce: rtbh needs guard.bgp.neighbours",
		"guard: {bgp: {neighbours: [{address: x, as: 1}]}}": "guard.bgp.neighbours[0].address: ",
		"guard: {max-innocent: 120%}":                       `guard.max-innocent: "120%" is no share`,
		"guard: {police-pps: fast}":                         "guard.police-pps: ",
		"guard: {action: block}":                            "guard.action: ",
		"guard: {flows: {a: {pps: 1}, b: {bps: 1}}}":        "f:1:33: guard.flows.b: bps 1: accepted: 8000 and more",
		"guard: {flows: {b: {bps: 1}, c: {}}}":              "guard.flows.c: no rate",
		"guard: {flows: {a: {pps: 1, rules: [WORLD]}}}":     `guard.flows.a: rules: "WORLD": accepted: LIST/SEQUENCE`,
		"guard: {new-flows: {per-cpu: lots}}":               `guard.new-flows.per-cpu: "lots" is no rate`,
	} {
		if _, err := Parse("f", []byte(in)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", in, err, want)
		}
	}
}
