package host

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"weir/config"
)

func TestInterfacesOfThisMachine(t *testing.T) {
	all, err := Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	std, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range std {
		i := slices.IndexFunc(all, func(x Interface) bool { return x.Name == want.Name })
		if i < 0 {
			t.Errorf("%s is missing", want.Name)
			continue
		}
		if got := all[i]; int(got.Index) != want.Index || got.MTU != want.MTU || got.Up != (want.Flags&net.FlagUp != 0) {
			t.Errorf("%s: %+v, want %+v", want.Name, got, want)
		}
	}
}

func TestDefaultCountsAPacketOnce(t *testing.T) {
	all := []Interface{
		{Name: "lo", Up: true},
		{Name: "eth0", Up: true, Routed: true},
		{Name: "eth1", Up: true, Routed: true, Master: "br0"},
		{Name: "br0", Up: true, Routed: true},
		{Name: "eth2", Routed: true},
	}
	var names []string
	for _, i := range Default(all) {
		names = append(names, i.Name)
	}
	if got := strings.Join(names, " "); got != "eth0 br0" {
		t.Errorf("Default = %s, want eth0 br0", got)
	}
	if _, err := Find(all, []string{"eht0"}); err == nil || !strings.Contains(err.Error(), `did you mean "eth0"?`) {
		t.Errorf("Find(eht0): %v", err)
	}
	if list, err := Find(all, []string{"br0", "lo"}); err != nil || len(list) != 2 || list[0].Name != "br0" {
		t.Errorf("Find = %v, %v", list, err)
	}
}

func find(list []Finding, check string) *Finding {
	for i := range list {
		if list[i].Check == check {
			return &list[i]
		}
	}
	return nil
}

func TestDoctorFindsWhatIsWrong(t *testing.T) {
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	c := config.Default()
	c.Collect.Listen = []string{"udp://" + udp.LocalAddr().String()}
	c.Console.Listen = tcp.Addr().String()
	c.Store.Dir = filepath.Join(t.TempDir(), "not", "made", "yet")
	c.Store.MaxSize = 1 << 60
	c.Cache.Entries = 1 << 40
	c.Collect.ReceiveBuffer = 1 << 50
	c.Interfaces = map[string]config.Interface{"weir-none0": {Meter: true}}
	list := Doctor(c)
	for check, want := range map[string]State{
		"listen " + c.Collect.Listen[0]: Warn,
		"console " + c.Console.Listen:   Warn,
		"interface weir-none0":          Fail,
		"memory":                        Warn,
		"store":                         Warn,
		"kernel":                        OK,
	} {
		f := find(list, check)
		if f == nil {
			t.Errorf("%s was not looked at", check)
		} else if f.State != want || f.State != OK && f.Fix == "" {
			t.Errorf("%s: %+v, want %s and a fix", check, *f, want)
		}
	}
	for _, f := range list {
		if f.Found == "" {
			t.Errorf("%s found nothing to say", f.Check)
		}
	}
	if _, err := os.Stat(c.Store.Dir); err == nil {
		t.Error("the doctor made the store's folder: it only looks")
	}
}

func TestDoctorIsContentWithAFreeMachine(t *testing.T) {
	c := config.Default()
	c.Collect.Listen = []string{"udp://127.0.0.1:0"}
	c.Console.Listen = "127.0.0.1:0"
	c.Store.Dir, c.Store.MaxSize = t.TempDir(), 1<<20
	c.Cache.Entries = 1024
	list := Doctor(c)
	for _, check := range []string{"listen udp://127.0.0.1:0", "console 127.0.0.1:0", "memory", "store"} {
		if f := find(list, check); f == nil || f.State != OK || f.Fix != "" {
			t.Errorf("%s: %+v", check, f)
		}
	}
}
