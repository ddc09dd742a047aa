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
	"weir/flow"
)

// DefaultPath is read when it is there and no -c says otherwise.
const DefaultPath = "/etc/weir/weir.yaml"

// Config is the file. Field names are its keys; a `reserved` key is known but
// belongs to a part of weir that this version does not have.
type Config struct {
	Interfaces map[string]Interface `yaml:"interfaces"`
	Cache      Cache                `yaml:"cache"`
	// Aggregation are aggregation caches, by their scheme.
	Aggregation map[string]Aggregation `yaml:"flow-aggregation"`
	Export      []Destination          `yaml:"export"`
	Collect     Collect                `yaml:"collect"`
	Store       Store                  `yaml:"store"`
	Console     Console                `yaml:"console"`
	ACL         ACL                    `yaml:"acl"`
	Forward     Forward                `yaml:"forward"`
	Guard       Guard                  `yaml:"guard"`
	Enrich      any                    `yaml:"enrich" reserved:"enrichment"`
	Billing     any                    `yaml:"billing" reserved:"billing"`
	Control     string                 `yaml:"control"`
	Log         Log                    `yaml:"log"`
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
	Filter   string       `yaml:"filter"` // tcpdump's language
	Prefixes []Prefix     `yaml:"prefixes"`
	ACL      InterfaceACL `yaml:"acl"`
	// Forward is whether the flow cache forwards what comes in, URPF what must lead
	// back to its source: strict, loose; empty or off: nothing.
	Forward Forwards       `yaml:"forward"`
	URPF    string         `yaml:"urpf"`
	Guard   InterfaceGuard `yaml:"guard"`
}

// Cache is the flow cache.
type Cache struct {
	Entries Count    `yaml:"entries"`
	Idle    Duration `yaml:"idle"`    // 0: never
	Active  Duration `yaml:"active"`  // 0: never
	TCPEnd  bool     `yaml:"tcp-end"` // FIN or RST ends a flow within 2 s
	Key     string   `yaml:"key"`     // what makes a flow: names as flow.ParseKey reads them
	Collect string   `yaml:"collect"` // what more is told of it: as flow.ParseCollect; empty: nothing
	Biflow  bool     `yaml:"biflow"`  // both directions are one flow
	Tunnel  string   `yaml:"tunnel"`  // outer, inner: which header is looked at
	// SampleFlows takes one flow in so many.
	SampleFlows Sample `yaml:"sample-flows"`
}

// Selection is what the cache's keys, facts, biflows and tunnels come to, as the meter
// wants it, for a configuration that was checked. Zero where the key is one that the
// kernel's programs know and nothing else is asked for.
func (c *Cache) Selection() (s flow.Selection) {
	key, _ := flow.ParseKey(c.Key)
	s.Biflow, s.Inner = c.Biflow, c.Tunnel == "inner"
	if c.Collect != "" {
		s.Collect, _ = flow.ParseCollect(c.Collect)
	}
	if s.Plain() && (key == flow.FactsCisco || key == flow.Facts5Tuple) {
		return s
	}
	s.Key = key
	return s
}

// BeyondKernel says what of the configuration the kernel's programs do not have; empty:
// nothing.
func (c *Cache) BeyondKernel() string {
	key, _ := flow.ParseKey(c.Key)
	var list []string
	if key != flow.FactsCisco && key != flow.Facts5Tuple {
		list = append(list, "the key "+c.Key)
	}
	if c.Collect != "" {
		list = append(list, "collected fields")
	}
	if c.Biflow {
		list = append(list, "biflows")
	}
	if c.Tunnel == "inner" {
		list = append(list, "looking into tunnels")
	}
	if c.SampleFlows.Rate() > 1 {
		list = append(list, "sampling of flows")
	}
	return strings.Join(list, ", ")
}

func (c *Cache) check(report func(key, msg string)) {
	if _, err := flow.ParseKey(c.Key); err != nil {
		report("key", err.Error()+didYouMean(c.Key, flow.KeyNames()))
		return
	}
	if c.Collect != "" {
		if _, err := flow.ParseCollect(c.Collect); err != nil {
			report("collect", err.Error()+didYouMean(c.Collect, flow.CollectNames()))
			return
		}
	}
	oneOf(func(key, msg string) { report(key, msg) }, "tunnel", c.Tunnel, "outer", "inner")
	s := c.Selection()
	if err := s.Validate(); err != nil {
		msg := c.Key + ": " + err.Error()
		if !s.Inner && s.Key&flow.ByTunnel != 0 {
			msg += "; accepted with tunnel: inner"
		}
		report("key", msg)
	}
}

// Destination is where flow records are exported to. In the file it may be the
// bare URL, as on the command line.
type Destination struct {
	To     string `yaml:"to"`     // udp://HOST:PORT?version=5|9|10&…
	Filter string `yaml:"filter"` // which flows go there, in weir query's language; empty: all, or what To says
}

// Collect is the collecting process.
type Collect struct {
	Listen        []string `yaml:"listen"`
	ReceiveBuffer Size     `yaml:"receive-buffer"` // of each socket, octets
	SplitBiflows  bool     `yaml:"split-biflows"`  // two records of one that tells of both directions
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
		Cache: Cache{Entries: 1 << 20, Idle: Duration(15 * time.Second), Active: Duration(30 * time.Minute), TCPEnd: true, Key: "cisco", Tunnel: "outer", SampleFlows: 1},
		Collect: Collect{
			Listen:        []string{"udp://127.0.0.1:2055", "udp://127.0.0.1:4739", "udp://127.0.0.1:6343", "udp://127.0.0.1:9995"},
			ReceiveBuffer: 64 << 20,
		},
		Store:   Store{Dir: defaultStore(), MaxSize: 20 << 30, MaxAge: Duration(90 * 24 * time.Hour), Compact: true},
		Console: Console{Listen: "127.0.0.1:8642", Hosts: []string{}},
		ACL:     defaultACL(),
		Forward: Forward{Watchdog: Duration(time.Minute)},
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
	c.Cache.check(func(key, msg string) { report("cache."+key, msg) })
	c.checkAggregation(report)
	rate := Sample(0)
	for _, name := range slices.Sorted(maps.Keys(c.Interfaces)) {
		i := c.Interfaces[name]
		i.ACL.check(func(key, msg string) { report("interfaces."+name+"."+key, msg) })
		i.checkChoice(func(key, msg string) { report("interfaces."+name+"."+key, msg) })
		c.checkForward(name, func(key, msg string) { report("interfaces."+name+"."+key, msg) })
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
	} else if what := c.Cache.BeyondKernel(); c.Filters() && what != "" {
		report("cache", "access lists are judged in the kernel, which does not have "+what)
	}
	c.Guard.check(report)
	for i, l := range c.Collect.Listen {
		if _, err := ParseListen(l); err != nil {
			report("collect.listen["+strconv.Itoa(i)+"]", err.Error())
		}
	}
	for i, d := range c.Export {
		if u, err := url.Parse(d.To); err != nil || u.Scheme == "" || u.Host == "" {
			report("export["+strconv.Itoa(i)+"]", strconv.Quote(d.To)+": accepted: udp://HOST:PORT?version=5|9|10, tcp://…, tls://…, dtls://…")
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
	Network string // udp; tcp, tls, dtls (IPFIX)
	Addr    netip.AddrPort
	Query   string // of tls and dtls: cert=FILE&key=FILE&ca=FILE&allow=NAME,…
}

func (l Listen) String() string {
	s := l.Network + "://" + l.Addr.String()
	if l.Query != "" {
		s += "?" + l.Query
	}
	return s
}

const listenForms = "udp://[HOST]:PORT, tcp://[HOST]:PORT, tls://[HOST]:PORT?cert=FILE&key=FILE&ca=FILE, dtls://…"

// ParseListen reads SCHEME://[HOST]:PORT; no host is every address.
func ParseListen(s string) (Listen, error) {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		scheme, rest = "udp", s
	}
	rest, query, found := strings.Cut(rest, "?")
	switch scheme {
	case "udp", "tcp":
		if found {
			return Listen{}, errorf("%q: nothing may follow the port; accepted: %s", s, listenForms)
		}
	case "tls", "dtls":
		if err := checkSecure(query); err != nil {
			return Listen{}, errorf("%q: %v; accepted: %s", s, err, listenForms)
		}
	case "kafka":
		return Listen{}, errorf("%q: %s is not supported by this version; accepted: %s", s, scheme, listenForms)
	default:
		return Listen{}, errorf("%q: unknown scheme %q; accepted: %s%s", s, scheme, listenForms, didYouMean(scheme, []string{"udp", "tcp", "tls", "dtls"}))
	}
	host, port, err := net.SplitHostPort(rest)
	if err != nil {
		return Listen{}, errorf("%q: accepted: %s", s, listenForms)
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
	return Listen{Network: scheme, Addr: netip.AddrPortFrom(addr, uint16(n)), Query: query}, nil
}

// checkSecure tests what follows an address of TLS or DTLS.
func checkSecure(query string) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return err
	}
	for name, v := range values {
		if !slices.Contains([]string{"cert", "key", "ca", "allow"}, name) {
			return fmt.Errorf("unknown parameter %s", name)
		}
		if len(v) > 1 || v[0] == "" {
			return fmt.Errorf("%s: one value", name)
		}
	}
	for _, name := range []string{"cert", "key", "ca"} {
		if !values.Has(name) {
			return fmt.Errorf("no %s", name)
		}
	}
	return nil
}
