package export

import (
	"strings"
	"testing"
	"time"

	"weir/flow"
	"weir/wire"
)

func TestParseDestination(t *testing.T) {
	d, err := ParseDestination("udp://[2001:db8::1]:4739?version=10&template=full&domain=77&mtu=1280&refresh-packets=5&refresh-time=90s&options-time=2m&flush=1s&source=2001:db8::2&rate=off&queue=100")
	if err != nil {
		t.Fatal(err)
	}
	if d.Host != "2001:db8::1" || d.Port != 4739 || d.Version != flow.VersionIPFIX || d.Preset != wire.Full || d.Domain != 77 || d.MTU != 1280 ||
		d.RefreshPackets != 5 || d.RefreshTime != 90*time.Second || d.OptionsTime != 2*time.Minute || d.Flush != time.Second ||
		d.Source.String() != "2001:db8::2" || d.Rate != -1 || d.Queue != 100 {
		t.Errorf("read as %+v", d)
	}
	if d, err := ParseDestination("udp://collector.example:2055"); err != nil || d.Version != DefaultVersion || d.RefreshTime != 30*time.Minute || d.MTU != 1500 || d.Domain != 1 {
		t.Errorf("defaults: %+v, %v", d, err)
	}
	if d, err := ParseDestination("udp://h:1?version=ipfix"); err != nil || d.RefreshTime != 10*time.Minute {
		t.Errorf("IPFIX refreshes each %v, %v; want 10m", d.RefreshTime, err)
	}
}

// What String prints reads back as the same destination.
func TestDestinationString(t *testing.T) {
	for _, s := range []string{
		"udp://192.0.2.1:2055?version=9",
		"udp://[2001:db8::1]:4739?version=10&template=full&domain=77&mtu=1280&refresh-packets=5&refresh-time=1m30s&source=2001%3Adb8%3A%3A2&rate=off&queue=100",
		"udp://h:9995?version=5&domain=257&flush=1s&rate=100",
	} {
		d, err := ParseDestination(s)
		if err != nil {
			t.Fatal(err)
		}
		if d.String() != s {
			t.Errorf("%s prints as %s", s, d)
		}
	}
}

func TestParseDestinationErrors(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"192.0.2.1:2055", "no scheme; accepted: udp://HOST:PORT?version=5|9|10"},
		{"sctp://h:1", `scheme "sctp"; accepted: udp, tcp, tls, dtls`},
		{"tcp://h:1?version=9", "over tcp goes IPFIX: accepted: 10"},
		{"tcp://h:1?mtu=1400", "mtu: accepted with udp and dtls only"},
		{"tcp://h:1?cert=a&key=b", "cert: accepted with tls and dtls only"},
		{"tls://h:1?cert=a", "cert and key: accepted: both"},
		{"tls://h:1?ttl=3", "ttl: accepted with udp only"},
		{"udp://h:1?spool=/x", "spool: accepted with tcp, tls and dtls only"},
		{"tcp://h:1?spool=/x&spool-size=3", `spool-size: found "3"; accepted: 1MiB or more`},
		{"tcp://h:1?spool-size=3GiB", "spool-size: accepted with spool only"},
		{"udp://h:1?priority=1", "priority: accepted with failover only"},
		{"udp://h:1?balance=a&failover=b", "balance and failover: accepted: one of them"},
		{"udp://h:1?failover=a+b", "failover: found"},
		{"udp://h:1?version=5&fields=src", "fields: accepted with version 9 and 10 only"},
		{"udp://h:1?fields=src&template=full", "fields and template: accepted: one of them"},
		{"udp://h:1?fields=src,srcport", `no field "srcport"; accepted: bgp_next_hop, bytes`},
		{"udp://h:1?version=10&fields=src,flowStartSysUpTime", "times in sysUptime are v9's"},
		{"udp://h", `"h" is not HOST:PORT`},
		{"udp://2001:db8::1:4739", "stands in brackets"},
		{"udp://:2055", `host ""`},
		{"udp://h:0", `port "0"; accepted: 1 to 65535`},
		{"udp://h:http", `port "http"`},
		{"udp://h:1?versoin=9", `versoin: unknown parameter; accepted: version, template`},
		{"udp://h:1?versoin=9", `did you mean "version"?`},
		{"udp://h:1?refresh_time=9", `did you mean "refresh-time"?`},
		{"udp://h:1?refresh=9", `did you mean "refresh-packets"?`},
		{"udp://h:1?version=6", `version: found "6"; accepted: 5, 9, 10`},
		{"udp://h:1?version", "version: no value; accepted: version=5|9|10"},
		{"udp://h:1?version=9&version=5", "version: given twice"},
		{"udp://h:1?template=cysco", `template: found "cysco"; accepted: compact, cisco, full, minimal, security`},
		{"udp://h:1?mtu=100", "accepted: 400 to 65535"},
		{"udp://h:1?mtu=%zz", "invalid URL escape"},
		{"udp://h:1?refresh-time=10", "accepted: a duration"},
		{"udp://h:1?flush=2s", "accepted: a duration from 1ms to 1s"},
		{"udp://h:1?domain=0", "domain: found"},
		{"udp://h:1?version=5&domain=65536", "engine_type*256+engine_id: accepted: 1 to 65535"},
		{"udp://h:1?source=eth0", "accepted: an IPv4 or IPv6 address"},
		{"udp://192.0.2.1:1?source=2001:db8::1", "not of one family"},
		{"udp://h:1?rate=0", "accepted: 1 to 10000000, or off"},
		{"udp://h:1?queue=1", "accepted: 16 to"},
	} {
		if _, err := ParseDestination(c.in); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q in it", c.in, err, c.want)
		}
	}
}

func FuzzParseDestination(f *testing.F) {
	f.Add("udp://192.0.2.1:2055?version=9")
	f.Add("udp://[::1]:1?mtu=1500&rate=off&source=::1")
	f.Add("tls://h:4740?cert=c&key=k&ca=a&name=n&spool=/s&spool-size=2GiB&failover=x&priority=2&hold=5s&filter=dst+port+53")
	f.Add("udp://239.1.1.1:2055?fields=src,dst,bytes&ttl=4&interface=eth0&balance=y")
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseDestination(s)
		if err != nil {
			return
		}
		again, err := ParseDestination(d.String())
		if err != nil || again != d {
			t.Fatalf("%q is %+v, printed %q, read %+v, %v", s, d, d.String(), again, err)
		}
	})
}
