package export

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"weir/flow"
	"weir/wire"
)

// Destination is one collector and how to speak to it. ParseDestination reads
// it from a URL; the zero value of each field means its default.
type Destination struct {
	Network string // udp, tcp, tls or dtls; empty: udp
	Host    string // name or address
	Port    uint16

	Version uint8       // flow.VersionV1, V5, V7, V8, V9 or IPFIX; 0: DefaultVersion, IPFIX where there is a connection
	V8      wire.FormV8 // of V8: what its records are aggregates of
	Apart   bool        // biflows go out as two records, also where IPFIX could join them
	Domain  uint32      // observation domain; v9 source ID; v5 engine_type*256+engine_id; 0 in the struct: 1
	Preset  wire.Preset
	Fields  wire.Fields // instead of Preset, if any are chosen
	Filter  string      // which records go there (Options.Filter reads it); empty: all

	// Balance and FailOver name the group that the destination belongs to, of one
	// kind at most. Without, it gets every record. A group's destinations share the
	// flows by a hash of their key, or the best one that is well gets all: that of
	// the least Priority, and among equals the one that stands first. One that was
	// away must have been well for Hold to be used again; 0: DefaultHold.
	Balance, FailOver string
	Priority          int
	Hold              time.Duration

	// MTU of the way to the collector, IP header included. A datagram is never
	// longer, nor longer than the kernel knows the path to carry. 0: DefaultMTU.
	MTU int

	// Data never travels more than RefreshPackets datagrams after its
	// template, and every template is sent again each RefreshTime. 0: 20
	// datagrams; 30 min for v9, 10 min for IPFIX.
	RefreshPackets int
	RefreshTime    time.Duration
	// OptionsTime is how often statistics and interface names go out. 0: 1 min.
	OptionsTime time.Duration
	// Flush is how long a record may wait for its datagram to fill. 0: 500 ms;
	// not above 1 s.
	Flush time.Duration

	Source netip.Addr // local address to send from; invalid: the route's
	// Rate limits bursts, in datagrams a second. 0: DefaultRate; negative: no
	// limit.
	Rate int
	// Queue is how many datagrams may wait to be sent; where there is a connection
	// they wait for it, too. 0: DefaultQueue.
	Queue int

	// Of multicast: how many routers may pass a datagram on, and the interface it
	// leaves by. 0, empty: 1, the route's.
	TTL       int
	Interface string

	// Of connections, in TLS and DTLS: files in PEM with our certificate and key,
	// and with the authorities that may vouch for the collector (empty: the
	// system's), and the name that its certificate must have (empty: Host).
	Cert, Key, CA, Name string

	// Of connections: a folder where datagrams wait that Queue has no room for, and
	// what it may hold, in octets. Empty: none; 0: DefaultSpoolSize.
	Spool     string
	SpoolSize int64
}

// Connected says that there is a connection, over which IPFIX alone goes.
func (d Destination) Connected() bool { return d.Network != "" && d.Network != "udp" }

// stream says that the connection is an octet stream.
func (d Destination) stream() bool { return d.Network == "tcp" || d.Network == "tls" }

// Defaults of a Destination.
const (
	DefaultVersion        = flow.VersionV9
	DefaultPreset         = wire.Compact
	DefaultMTU            = 1500
	DefaultRefreshPackets = 20
	DefaultRate           = 5000
	DefaultQueue          = 4096
	DefaultHold           = 30 * time.Second
	DefaultSpoolSize      = 1 << 30

	minMTU = 400
)

// Param is a parameter of a destination's URL, for people to read.
type Param struct {
	Name, Value, Default, Help string
}

// param is a Param with what reads and what prints it.
type param struct {
	Param
	set func(d *Destination, v string) error
	get func(d *Destination) string // "" if it is the default
}

var params = []param{
	{
		Param{"version", "5|9|10", "9; 10 over tcp, tls and dtls", "NetFlow v5, v9 or IPFIX; also 1 and 7, and of aggregation caches 8"},
		func(d *Destination, v string) error {
			n, ok := versions[strings.TrimPrefix(strings.ToLower(v), "v")]
			if !ok {
				return errors.New("accepted: 5, 9, 10 (also ipfix, 1, 7; 8 of an aggregation cache)")
			}
			d.Version = n
			return nil
		}, func(d *Destination) string { return unless(int64(d.Version), DefaultVersion) },
	},
	{
		Param{"template", "compact|cisco|full|minimal|security", "compact", "which elements v9 and IPFIX carry: compact uses the fewest octets that hold each value; cisco has 8-octet counters, 4-octet interfaces, end reason and direction (older collectors, pmacct among them, need it); full adds absolute times, the flow id, by which a weir collector knows records that come again after a kill -9, and what access lists dropped, by which rule; minimal has addresses, ports, protocol, counters and times alone; security has the key, TCP flags, interfaces, end reason and what access lists did, nothing of routing"},
		func(d *Destination, v string) (err error) {
			d.Preset, err = wire.ParsePreset(v)
			return err
		}, func(d *Destination) string {
			if d.Preset == DefaultPreset {
				return ""
			}
			return d.Preset.String()
		},
	},
	{
		Param{"fields", "NAME,…", "the template's", "which fields v9 and IPFIX carry, by the names of flow columns (" + strings.Join(wire.FieldNames(), ", ") + ") or of IANA's elements; those that a record knows are sent, in weir's order"},
		func(d *Destination, v string) (err error) {
			d.Fields, err = wire.ParseFields(v)
			return err
		}, func(d *Destination) string { return d.Fields.String() },
	},
	{
		Param{"filter", "FILTER", "all", "which flows go there, in the language of weir query (see: weir help filter); in a URL a space is + and & is %26: filter=dst+port+53"},
		textParam(func(d *Destination) *string { return &d.Filter }),
		func(d *Destination) string { return d.Filter },
	},
	{
		Param{"balance", "GROUP", "none", "the destinations of a group share the flows, by a hash of addresses, ports and protocol that both directions have in common"},
		nameParam(func(d *Destination) *string { return &d.Balance }),
		func(d *Destination) string { return d.Balance },
	},
	{
		Param{"failover", "GROUP", "none", "of the destinations of a group one gets the flows: the first that is well, by priority"},
		nameParam(func(d *Destination) *string { return &d.FailOver }),
		func(d *Destination) string { return d.FailOver },
	},
	{
		Param{"priority", "N", "0", "in a failover group: the lower number is used first"},
		intParam(0, 1000, func(d *Destination) *int { return &d.Priority }),
		func(d *Destination) string { return unless(int64(d.Priority), 0) },
	},
	{
		Param{"hold", "DURATION", "30s", "in a failover group: how long a destination that was away must be well before it is used again"},
		timeParam(10*time.Millisecond, 24*time.Hour, func(d *Destination) *time.Duration { return &d.Hold }),
		func(d *Destination) string {
			if d.Hold == DefaultHold {
				return ""
			}
			return d.Hold.String()
		},
	},
	{
		Param{"domain", "N", "1", "observation domain (IPFIX), source ID (v9), engine_type*256+engine_id (v5); each weir on a machine needs its own"},
		func(d *Destination, v string) error {
			n, err := strconv.ParseUint(v, 10, 32)
			if err != nil || n == 0 {
				return errors.New("accepted: 1 to 4294967295")
			}
			d.Domain = uint32(n)
			return nil
		}, func(d *Destination) string { return unless(int64(d.Domain), 1) },
	},
	{
		Param{"mtu", "OCTETS", "1500", "longest IP packet to send; the UDP payload is 28 (IPv6: 48) less"},
		intParam(minMTU, 65535, func(d *Destination) *int { return &d.MTU }),
		func(d *Destination) string { return unless(int64(d.MTU), DefaultMTU) },
	},
	{
		Param{"refresh-packets", "N", "20", "data travels at most so many datagrams after its template"},
		intParam(1, 1_000_000, func(d *Destination) *int { return &d.RefreshPackets }),
		func(d *Destination) string { return unless(int64(d.RefreshPackets), DefaultRefreshPackets) },
	},
	{
		Param{"refresh-time", "DURATION", "30m (v9), 10m (IPFIX)", "all templates go out again so often"},
		timeParam(time.Second, 24*time.Hour, func(d *Destination) *time.Duration { return &d.RefreshTime }),
		func(d *Destination) string {
			if d.RefreshTime == defaultRefreshTime(d.Version) {
				return ""
			}
			return d.RefreshTime.String()
		},
	},
	{
		Param{"options-time", "DURATION", "1m", "statistics and interface names go out so often"},
		timeParam(time.Second, 24*time.Hour, func(d *Destination) *time.Duration { return &d.OptionsTime }),
		func(d *Destination) string {
			if d.OptionsTime == defaultOptionsTime {
				return ""
			}
			return d.OptionsTime.String()
		},
	},
	{
		Param{"flush", "DURATION", "500ms", "longest wait of a record for its datagram to fill"},
		timeParam(time.Millisecond, time.Second, func(d *Destination) *time.Duration { return &d.Flush }),
		func(d *Destination) string {
			if d.Flush == defaultFlush {
				return ""
			}
			return d.Flush.String()
		},
	},
	{
		Param{"biflow", "joined|apart", "joined", "of biflows over IPFIX: one record with the other direction's elements (RFC 5103), or two records, as other versions have them"},
		func(d *Destination, v string) error {
			if d.Apart = v == "apart"; !d.Apart && v != "joined" {
				return errors.New("accepted: joined, apart")
			}
			return nil
		}, func(d *Destination) string {
			if d.Apart {
				return "apart"
			}
			return ""
		},
	},
	{
		Param{"v8-masks", "source|destination", "source", "of version 8: which mask stands first in records with two; flow-tools has the destination's"},
		func(d *Destination, v string) error {
			if d.V8.DestinationMaskFirst = v == "destination"; !d.V8.DestinationMaskFirst && v != "source" {
				return errors.New("accepted: source, destination")
			}
			return nil
		}, func(d *Destination) string {
			if d.V8.DestinationMaskFirst {
				return "destination"
			}
			return ""
		},
	},
	{
		Param{"source", "ADDRESS", "the route's", "local address to send from"},
		func(d *Destination, v string) (err error) {
			if d.Source, err = netip.ParseAddr(v); err != nil {
				return errors.New("accepted: an IPv4 or IPv6 address of this machine")
			}
			return nil
		}, func(d *Destination) string {
			if !d.Source.IsValid() {
				return ""
			}
			return d.Source.String()
		},
	},
	{
		Param{"rate", "N|off", "5000", "datagrams a second: a burst, such as a drained cache, goes out at this pace"},
		func(d *Destination, v string) error {
			if v == "off" {
				d.Rate = -1
				return nil
			}
			n, err := strconv.Atoi(v)
			if err != nil || n < 1 || n > 10_000_000 {
				return errors.New("accepted: 1 to 10000000, or off")
			}
			d.Rate = n
			return nil
		}, func(d *Destination) string {
			if d.Rate < 0 {
				return "off"
			}
			return unless(int64(d.Rate), DefaultRate)
		},
	},
	{
		Param{"queue", "N", "4096", "datagrams that may wait to be sent; over tcp, tls and dtls they also wait while the collector is away"},
		intParam(16, 1<<20, func(d *Destination) *int { return &d.Queue }),
		func(d *Destination) string { return unless(int64(d.Queue), DefaultQueue) },
	},
	{
		Param{"ttl", "N", "1", "of multicast over udp: how many networks a datagram may reach"},
		intParam(1, 255, func(d *Destination) *int { return &d.TTL }),
		func(d *Destination) string { return unless(int64(d.TTL), 0) },
	},
	{
		Param{"interface", "IF", "the route's", "of multicast over udp: the interface that datagrams leave by"},
		textParam(func(d *Destination) *string { return &d.Interface }),
		func(d *Destination) string { return d.Interface },
	},
	{
		Param{"cert", "FILE", "none", "tls and dtls: our certificate, and those between it and the authority, in PEM; with key"},
		textParam(func(d *Destination) *string { return &d.Cert }),
		func(d *Destination) string { return d.Cert },
	},
	{
		Param{"key", "FILE", "none", "tls and dtls: the key of cert, in PEM"},
		textParam(func(d *Destination) *string { return &d.Key }),
		func(d *Destination) string { return d.Key },
	},
	{
		Param{"ca", "FILE", "the system's", "tls and dtls: the authorities that may vouch for the collector, in PEM"},
		textParam(func(d *Destination) *string { return &d.CA }),
		func(d *Destination) string { return d.CA },
	},
	{
		Param{"name", "NAME", "HOST", "tls and dtls: the name or address that the collector's certificate must be for"},
		textParam(func(d *Destination) *string { return &d.Name }),
		func(d *Destination) string { return d.Name },
	},
	{
		Param{"spool", "DIR", "none", "tcp, tls and dtls: a folder where what queue has no room for waits, also over a restart of weir"},
		textParam(func(d *Destination) *string { return &d.Spool }),
		func(d *Destination) string { return d.Spool },
	},
	{
		Param{"spool-size", "SIZE", "1GiB", "what the folder may hold, in octets (Ki, Mi, Gi)"},
		func(d *Destination, v string) error {
			n, err := parseSize(v)
			if err != nil || n < 1<<20 || n > 1<<50 {
				return errors.New("accepted: 1MiB or more, such as 500MiB or 10GiB")
			}
			d.SpoolSize = n
			return nil
		}, func(d *Destination) string { return unless(d.SpoolSize, DefaultSpoolSize) },
	},
}

// parseSize reads octets: 1048576, 512Ki, 512KiB, 10G (10^9).
func parseSize(v string) (int64, error) {
	v = strings.TrimSuffix(v, "B")
	unit := int64(1)
	for _, u := range []struct {
		end string
		n   int64
	}{{"Ki", 1 << 10}, {"Mi", 1 << 20}, {"Gi", 1 << 30}, {"Ti", 1 << 40}, {"k", 1e3}, {"M", 1e6}, {"G", 1e9}, {"T", 1e12}} {
		if rest, ok := strings.CutSuffix(v, u.end); ok {
			v, unit = rest, u.n
			break
		}
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 0 || n > (1<<62)/unit {
		return 0, errors.New("not a size")
	}
	return n * unit, nil
}

func textParam(at func(*Destination) *string) func(*Destination, string) error {
	return func(d *Destination, v string) error {
		*at(d) = v
		return nil
	}
}

// nameParam reads a group's name.
func nameParam(at func(*Destination) *string) func(*Destination, string) error {
	return func(d *Destination, v string) error {
		if strings.ContainsFunc(v, func(c rune) bool { return c <= ' ' || c == 0x7f }) || len(v) > 64 {
			return errors.New("accepted: a name of up to 64 characters, without spaces")
		}
		*at(d) = v
		return nil
	}
}

var versions = map[string]uint8{
	"1": flow.VersionV1, "5": flow.VersionV5, "7": flow.VersionV7, "8": flow.VersionV8,
	"9": flow.VersionV9, "10": flow.VersionIPFIX, "ipfix": flow.VersionIPFIX,
}

const (
	defaultOptionsTime = time.Minute
	defaultFlush       = 500 * time.Millisecond
)

func defaultRefreshTime(version uint8) time.Duration {
	if version == flow.VersionIPFIX {
		return 10 * time.Minute // RFC 7011 section 10.3.6: 600 s
	}
	return 30 * time.Minute
}

func unless(v, def int64) string {
	if v == def {
		return ""
	}
	return strconv.FormatInt(v, 10)
}

func intParam(lo, hi int, at func(*Destination) *int) func(*Destination, string) error {
	return func(d *Destination, v string) error {
		n, err := strconv.Atoi(v)
		if err != nil || n < lo || n > hi {
			return fmt.Errorf("accepted: %d to %d", lo, hi)
		}
		*at(d) = n
		return nil
	}
}

func timeParam(lo, hi time.Duration, at func(*Destination) *time.Duration) func(*Destination, string) error {
	return func(d *Destination, v string) error {
		t, err := time.ParseDuration(v)
		if err != nil || t < lo || t > hi {
			return fmt.Errorf("accepted: a duration from %v to %v, such as 90s or 5m", lo, hi)
		}
		*at(d) = t
		return nil
	}
}

// joins says that records tell both directions of a biflow.
func (d *Destination) joins() bool {
	return d.Version == flow.VersionIPFIX && !d.Apart && !d.Fields.Chosen()
}

// Params lists what may stand behind the ? of a destination.
func Params() []Param {
	list := make([]Param, len(params))
	for i, p := range params {
		list[i] = p.Param
	}
	return list
}

// ParseDestination reads udp://HOST:PORT?version=5|9|10&… and the like; see Params. Errors
// name the parameter, what was found and what would be accepted.
func ParseDestination(s string) (Destination, error) {
	var d Destination
	fail := func(format string, a ...any) (Destination, error) {
		return Destination{}, fmt.Errorf("%q: %s", s, fmt.Sprintf(format, a...))
	}
	const form = "udp://HOST:PORT?version=5|9|10, tcp://…, tls://…, dtls://…"
	scheme, rest, found := strings.Cut(s, "://")
	if !found {
		return fail("no scheme; accepted: %s", form)
	}
	if !slices.Contains([]string{"udp", "tcp", "tls", "dtls"}, scheme) {
		return fail("scheme %q; accepted: udp, tcp, tls, dtls", scheme)
	}
	hostport, query, _ := strings.Cut(rest, "?")
	host, port, err := net.SplitHostPort(strings.TrimSuffix(hostport, "/"))
	if err != nil {
		return fail("%q is not HOST:PORT (an IPv6 address stands in brackets); accepted: %s", hostport, form)
	}
	if host == "" || strings.ContainsAny(host, "/@# ") {
		return fail("host %q; accepted: a name or an address", host)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return fail("port %q; accepted: 1 to 65535", port)
	}
	d.Network, d.Host, d.Port = scheme, host, uint16(n)

	seen := map[string]bool{}
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		if pair == "" {
			continue
		}
		rawName, rawValue, hasValue := strings.Cut(pair, "=")
		name, err1 := url.QueryUnescape(rawName)
		value, err2 := url.QueryUnescape(rawValue)
		if err := errors.Join(err1, err2); err != nil {
			return fail("%s: %v", pair, err)
		}
		i := slices.IndexFunc(params, func(p param) bool { return p.Name == name })
		switch {
		case i < 0:
			return fail("%s: unknown parameter; accepted: %s%s", name, paramNames(), didYouMean(name))
		case !hasValue || value == "":
			return fail("%s: no value; accepted: %s=%s", name, name, params[i].Value)
		case seen[name]:
			return fail("%s: given twice", name)
		}
		seen[name] = true
		if err := params[i].set(&d, value); err != nil {
			return fail("%s: found %q; %v", name, value, err)
		}
	}
	d = d.withDefaults()
	if err := d.check(seen); err != nil {
		return fail("%v", err)
	}
	return d, nil
}

// check tests what parameters say together; given are the names of those that
// were said.
func (d *Destination) check(given map[string]bool) error {
	only := func(allowed bool, where string, names ...string) error {
		for _, n := range names {
			if given[n] && !allowed {
				return fmt.Errorf("%s: accepted with %s only", n, where)
			}
		}
		return nil
	}
	secure := d.Network == "tls" || d.Network == "dtls"
	err := errors.Join(
		only(!d.Connected(), "udp", "ttl", "interface"),
		only(d.Connected(), "tcp, tls and dtls", "spool", "spool-size"),
		only(secure, "tls and dtls", "cert", "key", "ca", "name"),
		only(d.FailOver != "", "failover", "priority", "hold"),
		only(d.Spool != "", "spool", "spool-size"),
		only(d.Version >= flow.VersionV9, "version 9 and 10", "fields"),
		only(d.Version >= flow.VersionV9 || d.Preset == wire.Cisco, "version 9 and 10", "template"), // the fixed formats are Cisco's
		only(d.Version == flow.VersionV8, "version 8", "v8-masks"),
		only(d.Version == flow.VersionIPFIX, "version 10", "biflow"),
		only(!d.stream(), "udp and dtls", "refresh-packets", "refresh-time", "mtu"),
	)
	a, addrErr := netip.ParseAddr(d.Host)
	switch {
	case err != nil:
		return err
	case addrErr == nil && d.Source.IsValid() && a.Unmap().Is4() != d.Source.Unmap().Is4():
		return fmt.Errorf("source: %v and %v are not of one family; accepted: an address like the destination's", d.Source, a)
	case d.Version < flow.VersionV9 && d.Domain > 0xffff:
		return fmt.Errorf("domain: found %d; NetFlow v%d has engine_type*256+engine_id: accepted: 1 to 65535", d.Domain, d.Version)
	case d.Connected() && d.Version != flow.VersionIPFIX:
		return fmt.Errorf("version: found %d; over %s goes IPFIX: accepted: 10", d.Version, d.Network)
	case given["fields"] && given["template"]:
		return errors.New("fields and template: accepted: one of them")
	case d.Fields.Uptime() && d.Version == flow.VersionIPFIX:
		return errors.New("fields: times in sysUptime are v9's; accepted: first, last, flowStartMilliseconds, flowEndMilliseconds")
	case d.Balance != "" && d.FailOver != "":
		return errors.New("balance and failover: accepted: one of them")
	case d.Network == "dtls" && d.MTU > 8192:
		return fmt.Errorf("mtu: found %d; over dtls: accepted: 400 to 8192", d.MTU)
	case (d.Cert == "") != (d.Key == ""):
		return errors.New("cert and key: accepted: both, or neither")
	}
	return nil
}

// withDefaults fills what is zero.
func (d Destination) withDefaults() Destination {
	d.Network = cmp.Or(d.Network, "udp")
	if d.Connected() {
		d.Version = cmp.Or(d.Version, flow.VersionIPFIX)
	}
	d.Version = cmp.Or(d.Version, DefaultVersion)
	d.Domain = cmp.Or(d.Domain, 1)
	d.MTU = cmp.Or(d.MTU, DefaultMTU)
	d.RefreshPackets = cmp.Or(d.RefreshPackets, DefaultRefreshPackets)
	d.RefreshTime = cmp.Or(d.RefreshTime, defaultRefreshTime(d.Version))
	d.OptionsTime = cmp.Or(d.OptionsTime, defaultOptionsTime)
	d.Flush = cmp.Or(d.Flush, defaultFlush)
	d.Rate = cmp.Or(d.Rate, DefaultRate)
	d.Queue = cmp.Or(d.Queue, DefaultQueue)
	d.Hold = cmp.Or(d.Hold, DefaultHold)
	d.SpoolSize = cmp.Or(d.SpoolSize, DefaultSpoolSize)
	return d
}

// String is d as ParseDestination reads it, defaults left out (the version is
// always said).
func (d Destination) String() string {
	d = d.withDefaults()
	var b strings.Builder
	fmt.Fprintf(&b, "%s://%s?version=%d", d.Network, net.JoinHostPort(d.Host, strconv.Itoa(int(d.Port))), d.Version)
	for _, p := range params[1:] {
		if v := p.get(&d); v != "" {
			fmt.Fprintf(&b, "&%s=%s", p.Name, url.QueryEscape(v))
		}
	}
	return b.String()
}

func paramNames() string {
	names := make([]string, len(params))
	for i, p := range params {
		names[i] = p.Name
	}
	return strings.Join(names, ", ")
}

// didYouMean proposes the parameter that is spelt most like name.
func didYouMean(name string) string {
	best, at := len(name)/2+1, ""
	for _, p := range params {
		if strings.HasPrefix(p.Name, name) && len(name) >= 2 {
			return fmt.Sprintf(" (did you mean %q?)", p.Name)
		}
		if n := editDistance(strings.ToLower(name), p.Name); n < best {
			best, at = n, p.Name
		}
	}
	if at == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %q?)", at)
}

// editDistance is Levenshtein's.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
