package guard

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

const fastnetmonConf = `
### Main configuration params
enable_ban = on
process_incoming_traffic = on
process_outgoing_traffic = on
ban_time = 1900
unban_only_if_attack_finished = on
networks_list_path = /etc/networks_list
white_list_path = /etc/networks_whitelist
ban_for_pps = on
ban_for_bandwidth = on
ban_for_flows = off
threshold_pps = 30000
threshold_mbps = 2000
threshold_flows = 3500
ban_for_udp_pps = on
threshold_udp_pps = 10000
threshold_icmp_pps = 5000
hostgroup = dns:198.51.100.53/32,198.51.100.54/32
hostgroup = hosts:198.51.100.53
dns_threshold_pps = 90000
dns_enable_ban = off
notify_script_path = /usr/local/bin/notify_about_attack.sh
netflow_port = 2055
gobgp = on
gobgp_next_hop = 192.0.2.1
gobgp_community_host = 65001:666
gobgp_announce_whole_subnet = on
colour_of_the_bike_shed = blue
nonsense
`

func TestImportOfFastNetMon(t *testing.T) {
	im, err := ReadFastNetMon(strings.NewReader(fastnetmonConf))
	if err != nil {
		t.Fatal(err)
	}
	want := "[pps 30kpps bps 2Gbps udp-pps 10kpps]"
	g := im.Policy.Groups[0]
	if got := names(g.Hosts); got != want || g.Mode != Observe || g.MaxHold != 1900*time.Second || !g.WhileAttacked || names(g.Outgoing) != want {
		t.Errorf("default group: %s, want %s; %+v", got, want, g)
	}
	if len(im.Policy.Groups) != 2 {
		t.Fatalf("%d groups", len(im.Policy.Groups))
	}
	dns := im.Policy.Groups[1]
	if dns.Name != "dns" || len(dns.Networks) != 2 || names(dns.Hosts) != "[pps 90kpps bps 2Gbps udp-pps 10kpps]" || dns.Mode != Observe {
		t.Errorf("dns: %+v", dns)
	}
	if im.NetworksPath != "/etc/networks_list" || im.WhiteListPath != "/etc/networks_whitelist" || im.NotifyScript == "" || !im.BGP.On || im.BGP.NextHop != netip.MustParseAddr("192.0.2.1") {
		t.Errorf("%+v", im)
	}
	fates := map[string]string{}
	for _, l := range im.Lines {
		if l.Fate == "" || l.Line == 0 {
			t.Errorf("line %d, %s: nothing is said of it", l.Line, l.Key)
		}
		fates[l.Key] = l.Fate
	}
	for key, want := range map[string]string{
		"enable_ban": FateChanged, "ban_time": FateChanged, "threshold_pps": FateTaken, "threshold_icmp_pps": FateIgnored, "threshold_flows": FateIgnored,
		"netflow_port": FateIgnored, "gobgp_announce_whole_subnet": FateUnsupported, "colour_of_the_bike_shed": FateUnsupported, "nonsense": FateUnsupported,
		"dns_enable_ban": FateChanged, "hostgroup": FateChanged, "dns_threshold_pps": FateTaken,
	} {
		if fates[key] != want {
			t.Errorf("%s: %s, want %s", key, fates[key], want)
		}
	}
}

func names(list []Limit) string {
	var s []string
	for _, l := range list {
		s = append(s, l.String())
	}
	return "[" + strings.Join(s, " ") + "]"
}

func TestReadNetworks(t *testing.T) {
	list, wrong := ReadNetworks(strings.NewReader("192.0.2.0/24\n# us\n2001:db8::/32 # six\n192.0.2.77/24\nfoo\n203.0.113.9\n"))
	if len(list) != 3 || len(wrong) != 1 || !strings.Contains(wrong[0].Error(), "line 5") {
		t.Errorf("%v, %v", list, wrong)
	}
}

func FuzzReadFastNetMon(f *testing.F) {
	f.Add(fastnetmonConf)
	f.Add("hostgroup = a:1.2.3.4/33\nhostgroup = a\nban_time = 0\nthreshold_pps = -1")
	f.Add("hostgroup = default:0.0.0.0/0\nban_time=99999999999")
	f.Fuzz(func(t *testing.T, text string) {
		im, err := ReadFastNetMon(strings.NewReader(text))
		if err == nil && im.Policy.Check() != nil {
			t.Errorf("a policy that does not hold: %v", im.Policy.Check())
		}
		for _, g := range func() []Group {
			if err != nil {
				return nil
			}
			return im.Policy.Groups
		}() {
			if g.Mode != Observe {
				t.Errorf("hostgroup %s begins in mode %s", g.Name, g.Mode)
			}
		}
	})
}
