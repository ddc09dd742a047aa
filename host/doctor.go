package host

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"weir/config"
)

// State of a Finding.
type State string

const (
	OK   State = "ok"
	Warn State = "warn" // it works, but not as well as it could
	Fail State = "fail" // something asked for will not work
)

// Finding is one thing the doctor looked at.
type Finding struct {
	Check string // what was looked at
	State State
	Found string
	Fix   string // what to do; empty when all is well
}

// Doctor looks at the machine with the configuration in mind.
func Doctor(c *config.Config) []Finding {
	f := []Finding{kernel(), btf(), privileges()}
	f = append(f, interfaces(c)...)
	f = append(f, receiveBuffer(c), clock(), memory(c), disk(c))
	return append(f, ports(c)...)
}

func kernel() Finding {
	f := Finding{Check: "kernel", State: OK}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return Finding{Check: "kernel", State: Warn, Found: err.Error()}
	}
	f.Found = unix.ByteSliceToString(u.Release[:]) + " " + unix.ByteSliceToString(u.Machine[:])
	var major, minor int
	if _, err := fmt.Sscanf(f.Found, "%d.%d", &major, &minor); err != nil || major < 5 || major == 5 && minor < 15 {
		f.State, f.Fix = Warn, "the kernel datapath wants 5.15 or later; AF_PACKET metering works from 3.19 on"
	}
	return f
}

func btf() Finding {
	const path = "/sys/kernel/btf/vmlinux"
	if _, err := os.Stat(path); err != nil {
		return Finding{"BTF", OK, path + " is not there: weir does without", ""}
	}
	return Finding{"BTF", OK, path, ""}
}

// Capabilities reads the effective set of this process, one bit each.
func Capabilities() uint64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(status) {
		if hex, ok := bytes.CutPrefix(line, []byte("CapEff:")); ok {
			set, _ := strconv.ParseUint(strings.TrimSpace(string(hex)), 16, 64)
			return set
		}
	}
	return 0
}

// CanMeter says whether this process may open packet sockets.
func CanMeter() bool { return Capabilities()&(1<<unix.CAP_NET_RAW) != 0 }

func privileges() Finding {
	f := Finding{Check: "privileges", State: OK}
	have := Capabilities()
	var missing []string
	for _, c := range []struct {
		bit  uint
		name string
	}{{unix.CAP_NET_RAW, "CAP_NET_RAW"}, {unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"}, {unix.CAP_BPF, "CAP_BPF"}, {unix.CAP_PERFMON, "CAP_PERFMON"}} {
		if have&(1<<c.bit) == 0 {
			missing = append(missing, c.name)
		}
	}
	f.Found = "may meter and load programs"
	if len(missing) > 0 {
		f.State, f.Found = Warn, "without "+strings.Join(missing, ", ")
		f.Fix = "run as root to meter interfaces; collecting, querying and the console need no privileges"
	}
	return f
}

// Chosen are the interfaces that would be metered by the configuration, by
// name, and what is wrong with its choice.
func Chosen(c *config.Config) (chosen []Interface, found []Finding) {
	all, err := Interfaces()
	if err != nil {
		return nil, []Finding{{"interfaces", Fail, err.Error(), "run with access to netlink"}}
	}
	if len(c.Interfaces) == 0 {
		chosen = Default(all)
		if len(chosen) == 0 {
			return nil, []Finding{{"interfaces", Warn, "none is up with a route", "name those to meter: weir up -i IF, or interfaces: in the configuration"}}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Interfaces)) {
		i, err := Find(all, []string{name})
		if err != nil {
			found = append(found, Finding{"interface " + name, Fail, err.Error(), "correct interfaces: in the configuration"})
		} else if c.Interfaces[name].Meter {
			chosen = append(chosen, i...)
		}
	}
	return chosen, found
}

func interfaces(c *config.Config) []Finding {
	chosen, found := Chosen(c)
	for _, i := range chosen {
		f := Finding{Check: "interface " + i.Name, State: OK, Found: i.Kind}
		if i.Driver != "" {
			f.Found += ", driver " + i.Driver
		}
		f.Found += ", MTU " + strconv.Itoa(i.MTU)
		if !i.Up {
			f.State, f.Fix = Warn, "it is down: ip link set "+i.Name+" up"
		}
		found = append(found, f)
	}
	return found
}

func receiveBuffer(c *config.Config) Finding {
	f := Finding{Check: "receive buffer", State: OK}
	limit, err := readUint("/proc/sys/net/core/rmem_max")
	if err != nil {
		return Finding{"receive buffer", Warn, err.Error(), ""}
	}
	f.Found = fmt.Sprintf("net.core.rmem_max is %s", config.Size(limit))
	if limit < uint64(c.Collect.ReceiveBuffer) {
		if Capabilities()&(1<<unix.CAP_NET_ADMIN) != 0 {
			f.Found += "; as root weir goes beyond it"
			return f
		}
		f.State = Warn
		f.Fix = fmt.Sprintf("a burst of datagrams may be lost: sysctl -w net.core.rmem_max=%d", uint64(c.Collect.ReceiveBuffer))
	}
	return f
}

func clock() Finding {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	if err != nil {
		return Finding{"clock", Warn, err.Error(), ""}
	}
	if state == unix.TIME_ERROR || t.Status&unix.STA_UNSYNC != 0 {
		return Finding{"clock", Warn, "not synchronised", "times of flows from several machines will not agree: run chrony or systemd-timesyncd"}
	}
	return Finding{"clock", OK, fmt.Sprintf("synchronised, estimated error %d µs", t.Esterror), ""}
}

// entrySize is what one cache entry costs with all that belongs to it, octets.
const entrySize = 160

func memory(c *config.Config) Finding {
	want := uint64(c.Cache.Entries) * entrySize
	info, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return Finding{"memory", Warn, err.Error(), ""}
	}
	var free uint64
	for line := range strings.Lines(string(info)) {
		if rest, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			kb, _ := strconv.ParseUint(strings.Fields(rest)[0], 10, 64)
			free = kb << 10
		}
	}
	f := Finding{"memory", OK, fmt.Sprintf("%d MiB available, a full flow cache takes %d MiB an interface", free>>20, want>>20), ""}
	if want > free/2 {
		f.State, f.Fix = Warn, "make cache.entries smaller"
	}
	return f
}

func disk(c *config.Config) Finding {
	f := Finding{Check: "store", State: OK}
	dir := c.Store.Dir
	at := dir
	for {
		if _, err := os.Stat(at); err == nil || at == filepath.Dir(at) {
			break
		}
		at = filepath.Dir(at) // not made yet: look at where it will be
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(at, &fs); err != nil {
		return Finding{"store", Fail, fmt.Sprintf("%s: %v", at, err), "choose another folder: --store DIR, or store.dir in the configuration"}
	}
	free := fs.Bavail * uint64(fs.Bsize)
	f.Found = fmt.Sprintf("%s, %d GiB free", dir, free>>30)
	switch {
	case unix.Access(at, unix.W_OK) != nil:
		f.State, f.Fix = Fail, at+" is not writable for this user: choose another folder, or run as its owner"
	case c.Store.MaxSize > 0 && free < uint64(c.Store.MaxSize):
		f.State, f.Fix = Warn, fmt.Sprintf("store.max-size is %s: make it smaller, or give more room", c.Store.MaxSize)
	}
	return f
}

func ports(c *config.Config) []Finding {
	var found []Finding
	for _, s := range c.Collect.Listen {
		l, err := config.ParseListen(s)
		if err != nil {
			continue // config check has said so
		}
		f := Finding{"listen " + s, OK, "free", ""}
		conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(l.Addr))
		if err != nil {
			f.State, f.Found, f.Fix = Warn, reason(err), "a collector is there already (weir itself, when it runs); choose other ports with --listen"
		} else {
			conn.Close()
		}
		found = append(found, f)
	}
	if c.Console.Listen != "" {
		f := Finding{"console " + c.Console.Listen, OK, "free", ""}
		l, err := net.Listen("tcp", c.Console.Listen)
		if err != nil {
			f.State, f.Found, f.Fix = Warn, reason(err), "weir runs already, or choose another address: console.listen in the configuration"
		} else {
			l.Close()
		}
		found = append(found, f)
	}
	return found
}

// reason is the system's word for a network error, without the address.
func reason(err error) string {
	var se *os.SyscallError
	if errors.As(err, &se) {
		return se.Err.Error()
	}
	return err.Error()
}

func readUint(path string) (uint64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
}
