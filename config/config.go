// Package config is weir's one configuration file: YAML, strict, with errors
// that name the place (file:line:col), what was found and what would be
// accepted.
//
// In: a file, or nothing (the defaults are a working system). Out: a Config
// whose every value has been checked. All errors of a file come at once.
package config

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"weir/capture"
)

// DefaultPath is read when it is there and no -c says otherwise.
const DefaultPath = "/etc/weir/weir.yaml"

// Config is the file. Field names are its keys; a `reserved` key is known but
// belongs to a part of weir that this version does not have.
type Config struct {
	Interfaces map[string]Interface `yaml:"interfaces"`
	Cache      Cache                `yaml:"cache"`
	Export     []Destination        `yaml:"export"`
	Collect    Collect              `yaml:"collect"`
	Store      Store                `yaml:"store"`
	Console    Console              `yaml:"console"`
	ACL        ACL                  `yaml:"acl"`
	Guard      Guard                `yaml:"guard"`
	Enrich     any                  `yaml:"enrich" reserved:"enrichment"`
	Billing    any                  `yaml:"billing" reserved:"billing"`
	Control    string               `yaml:"control"`
	Log        Log                  `yaml:"log"`
}

// Interface says what is done at one interface. Naming any interface replaces
// the default choice (those with a route and no master).
type Interface struct {
	Meter       bool   `yaml:"meter"`
	Mode        string `yaml:"mode"` // auto, xdp, tc, afpacket; empty: auto
	Sample      Sample `yaml:"sample"`
	Promiscuous bool   `yaml:"promiscuous"`
	// Filter and Prefixes choose what is metered: packets that the expression
	// matches, and of which source or destination is in a prefix. Empty: all.
	Filter   string         `yaml:"filter"` // tcpdump's language
	Prefixes []Prefix       `yaml:"prefixes"`
	ACL      InterfaceACL   `yaml:"acl"`
	Forward  any            `yaml:"forward" reserved:"forwarding"`
	Guard    InterfaceGuard `yaml:"guard"`
}

// Cache is the flow cache.
type Cache struct {
	Entries Count    `yaml:"entries"`
	Idle    Duration `yaml:"idle"`    // 0: never
	Active  Duration `yaml:"active"`  // 0: never
	TCPEnd  bool     `yaml:"tcp-end"` // FIN or RST ends a flow within 2 s
	Key     string   `yaml:"key"`     // cisco, 5tuple
}

// Destination is where flow records are exported to. In the file it may be the
// bare URL, as on the command line.
type Destination struct {
	To string `yaml:"to"` // udp://HOST:PORT?version=5|9|10&…
}

// Collect is the collecting process.
type Collect struct {
	Listen        []string `yaml:"listen"`
	ReceiveBuffer Size     `yaml:"receive-buffer"` // of each socket, octets
}

// Store is where records are kept.
type Store struct {
	Dir     string   `yaml:"dir"`
	MaxSize Size     `yaml:"max-size"` // oldest records go first; 0: no limit
	MaxAge  Duration `yaml:"max-age"`  // 0: no limit
	Compact bool     `yaml:"compact"`  // merge small segments in the background
}

// Console is the web console, its API and the metrics.
type Console struct {
	Listen string   `yaml:"listen"` // HOST:PORT; empty: no console
	Hosts  []string `yaml:"hosts"`  // names it may be asked for, beside localhost: a reverse proxy's
}

// Log is what weir says of itself, on stderr.
type Log struct {
	Level  string `yaml:"level"`  // debug, info, warn, error
	Format string `yaml:"format"` // text, json
}

// Default is the configuration of a machine that has no file.
func Default() *Config {
	return &Config{
		Cache: Cache{Entries: 1 << 20, Idle: Duration(15 * time.Second), Active: Duration(30 * time.Minute), TCPEnd: true, Key: "cisco"},
		Collect: Collect{
			Listen:        []string{"udp://127.0.0.1:2055", "udp://127.0.0.1:4739", "udp://127.0.0.1:6343", "udp://127.0.0.1:9995"},
			ReceiveBuffer: 64 << 20,
		},
		Store:   Store{Dir: defaultStore(), MaxSize: 20 << 30, MaxAge: Duration(90 * 24 * time.Hour), Compact: true},
		Console: Console{Listen: "127.0.0.1:8642", Hosts: []string{}},
		ACL:     defaultACL(),
		Guard:   defaultGuard(),
		Control: defaultControl(),
		Log:     Log{Level: "info", Format: "text"},
	}
}

// defaultStore is /var/lib/weir for root, else a folder of the user's own.
func defaultStore() string {
	if os.Geteuid() == 0 {
		return "/var/lib/weir"
	}
	return filepath.Join(stateHome(), "weir")
}

func defaultControl() string {
	if os.Geteuid() == 0 {
		return "/run/weir/weir.sock"
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "weir", "weir.sock")
	}
	return filepath.Join(stateHome(), "weir", "weir.sock")
}

func stateHome() string {
	if dir := os.Getenv("XDG_STATE_HOME"); dir != "" {
		return dir
	}
	home, err := os.UserHomeDir()
	if err != nil {
		home = os.TempDir()
	}
	return filepath.Join(home, ".local", "state")
}

// Check says what is wrong with a configuration that flags were laid over.
func (c *Config) Check() error {
	var errs []error
	c.check(func(path, msg string) { errs = append(errs, errorf("%s: %s", path, msg)) })
	return errors.Join(errs...)
}

// check tests what the types alone cannot, and reports by the keys' path.
func (c *Config) check(report func(path, msg string)) {
	if c.Cache.Entries < 1024 || c.Cache.Entries > 1<<28 {
		report("cache.entries", strconv.FormatUint(uint64(c.Cache.Entries), 10)+": accepted: 1Ki to 256Mi entries of 128 octets")
	}
	oneOf(report, "cache.key", c.Cache.Key, "cisco", "5tuple")
	rate := Sample(0)
	for _, name := range slices.Sorted(maps.Keys(c.Interfaces)) {
		i := c.Interfaces[name]
		i.ACL.check(func(key, msg string) { report("interfaces."+name+"."+key, msg) })
		i.checkChoice(func(key, msg string) { report("interfaces."+name+"."+key, msg) })
		if !i.Meter {
			continue
		}
		if i.Mode != "" {
			oneOf(report, "interfaces."+name+".mode", i.Mode, "auto", "xdp", "tc", "afpacket")
		}
		if rate != 0 && i.Sample.Rate() != rate.Rate() {
			report("interfaces."+name+".sample", i.Sample.String()+": another interface has "+rate.String()+"; accepted: the same rate for all")
		}
		rate = Sample(i.Sample.Rate())
	}
	if _, err := c.Policy(); err != nil {
		report("acl", err.Error())
	} else if c.Filters() && c.Cache.Key != "cisco" {
		report("cache.key", c.Cache.Key+": access lists need the key that has the input interface; accepted: cisco")
	}
	c.Guard.check(report)
	for i, l := range c.Collect.Listen {
		if _, err := ParseListen(l); err != nil {
			report("collect.listen["+strconv.Itoa(i)+"]", err.Error())
		}
	}
	for i, d := range c.Export {
		if u, err := url.Parse(d.To); err != nil || u.Scheme == "" || u.Host == "" {
			report("export["+strconv.Itoa(i)+"]", strconv.Quote(d.To)+": accepted: udp://HOST:PORT?version=5|9|10")
		}
	}
	if c.Console.Listen != "" {
		if _, _, err := net.SplitHostPort(c.Console.Listen); err != nil {
			report("console.listen", strconv.Quote(c.Console.Listen)+": accepted: HOST:PORT, or nothing for no console")
		}
	}
	if c.Store.Dir == "" {
		report("store.dir", "empty: accepted: a folder")
	}
	oneOf(report, "log.level", c.Log.Level, "debug", "info", "warn", "error")
	oneOf(report, "log.format", c.Log.Format, "text", "json")
}

// checkChoice tests what chooses packets.
func (i *Interface) checkChoice(report func(key, msg string)) {
	if _, err := capture.ParseExpression(i.Filter); err != nil {
		msg := err.Error()
		if fe := (*capture.FilterError)(nil); errors.As(err, &fe) {
			msg = fmt.Sprintf("%q: column %d: %s", i.Filter, fe.Column, fe.Msg)
		}
		report("filter", msg)
	}
	if len(i.Prefixes) > MaxPrefixes {
		report("prefixes", fmt.Sprintf("%d networks; up to %d would be accepted", len(i.Prefixes), MaxPrefixes))
	}
}

func oneOf(report func(path, msg string), path, got string, accepted ...string) {
	if !slices.Contains(accepted, got) {
		report(path, strconv.Quote(got)+": accepted: "+strings.Join(accepted, ", ")+didYouMean(got, accepted))
	}
}

// Listen is where a collector listens.
type Listen struct {
	Network string // udp, tcp (IPFIX)
	Addr    netip.AddrPort
}

func (l Listen) String() string { return l.Network + "://" + l.Addr.String() }

// ParseListen reads SCHEME://[HOST]:PORT; no host is every address.
func ParseListen(s string) (Listen, error) {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		scheme, rest = "udp", s
	}
	switch scheme {
	case "udp", "tcp":
	case "tls", "dtls", "kafka":
		return Listen{}, errorf("%q: %s is not supported by this version; accepted: udp://[HOST]:PORT, tcp://[HOST]:PORT", s, scheme)
	default:
		return Listen{}, errorf("%q: unknown scheme %q; accepted: udp://[HOST]:PORT, tcp://[HOST]:PORT%s", s, scheme, didYouMean(scheme, []string{"udp", "tcp"}))
	}
	host, port, err := net.SplitHostPort(rest)
	if err != nil {
		return Listen{}, errorf("%q: accepted: udp://[HOST]:PORT, tcp://[HOST]:PORT", s)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return Listen{}, errorf("%q: port %q is not a number from 0 to 65535", s, port)
	}
	addr := netip.IPv6Unspecified()
	switch {
	case host == "localhost":
		addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	case host != "" && host != "*":
		if addr, err = netip.ParseAddr(host); err != nil {
			return Listen{}, errorf("%q: %q is not an IP address of this machine", s, host)
		}
	}
	return Listen{Network: scheme, Addr: netip.AddrPortFrom(addr, uint16(n))}, nil
}
