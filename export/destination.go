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
	Host string // name or address
	Port uint16

	Version uint8  // flow.VersionV1, V5, V7, V9 or IPFIX; 0: DefaultVersion
	Domain  uint32 // observation domain; v9 source ID; v5 engine_type*256+engine_id; 0 in the struct: 1
	Preset  wire.Preset

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
	// Queue is how many datagrams may wait to be sent. 0: DefaultQueue.
	Queue int
}

// Defaults of a Destination.
const (
	DefaultVersion        = flow.VersionV9
	DefaultPreset         = wire.Compact
	DefaultMTU            = 1500
	DefaultRefreshPackets = 20
	DefaultRate           = 5000
	DefaultQueue          = 4096

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
		Param{"version", "5|9|10", "9", "NetFlow v5, v9 or IPFIX; also 1 and 7"},
		func(d *Destination, v string) error {
			n, ok := versions[strings.TrimPrefix(strings.ToLower(v), "v")]
			if !ok {
				return errors.New("accepted: 5, 9, 10 (also ipfix, 1, 7)")
			}
			d.Version = n
			return nil
		}, func(d *Destination) string { return unless(int64(d.Version), DefaultVersion) },
	},
	{
		Param{"template", "compact|cisco|full", "compact", "which elements v9 and IPFIX carry: compact uses the fewest octets that hold each value; cisco has 8-octet counters, 4-octet interfaces, end reason and direction (older collectors, pmacct among them, need it); full adds absolute times, the flow id, by which a weir collector knows records that come again after a kill -9, and what access lists dropped, by which rule"},
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
		Param{"queue", "N", "4096", "datagrams that may wait to be sent"},
		intParam(16, 1<<20, func(d *Destination) *int { return &d.Queue }),
		func(d *Destination) string { return unless(int64(d.Queue), DefaultQueue) },
	},
}

var versions = map[string]uint8{
	"1": flow.VersionV1, "5": flow.VersionV5, "7": flow.VersionV7,
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

// Params lists what may stand behind the ? of a destination.
func Params() []Param {
	list := make([]Param, len(params))
	for i, p := range params {
		list[i] = p.Param
	}
	return list
}

// ParseDestination reads udp://HOST:PORT?version=5|9|10&…; see Params. Errors
// name the parameter, what was found and what would be accepted.
func ParseDestination(s string) (Destination, error) {
	var d Destination
	fail := func(format string, a ...any) (Destination, error) {
		return Destination{}, fmt.Errorf("%q: %s", s, fmt.Sprintf(format, a...))
	}
	const form = "udp://HOST:PORT?version=5|9|10"
	scheme, rest, found := strings.Cut(s, "://")
	if !found {
		return fail("no scheme; accepted: %s", form)
	}
	if scheme != "udp" {
		return fail("scheme %q; accepted: udp", scheme)
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
	d.Host, d.Port = host, uint16(n)

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
	if a, err := netip.ParseAddr(host); err == nil && d.Source.IsValid() && a.Unmap().Is4() != d.Source.Unmap().Is4() {
		return fail("source: %v and %v are not of one family; accepted: an address like the destination's", d.Source, a)
	}
	if d.Version < flow.VersionV9 && d.Domain > 0xffff {
		return fail("domain: found %d; NetFlow v%d has engine_type*256+engine_id: accepted: 1 to 65535", d.Domain, d.Version)
	}
	return d, nil
}

// withDefaults fills what is zero.
func (d Destination) withDefaults() Destination {
	d.Version = cmp.Or(d.Version, DefaultVersion)
	d.Domain = cmp.Or(d.Domain, 1)
	d.MTU = cmp.Or(d.MTU, DefaultMTU)
	d.RefreshPackets = cmp.Or(d.RefreshPackets, DefaultRefreshPackets)
	d.RefreshTime = cmp.Or(d.RefreshTime, defaultRefreshTime(d.Version))
	d.OptionsTime = cmp.Or(d.OptionsTime, defaultOptionsTime)
	d.Flush = cmp.Or(d.Flush, defaultFlush)
	d.Rate = cmp.Or(d.Rate, DefaultRate)
	d.Queue = cmp.Or(d.Queue, DefaultQueue)
	return d
}

// String is d as ParseDestination reads it, defaults left out (the version is
// always said).
func (d Destination) String() string {
	d = d.withDefaults()
	var b strings.Builder
	fmt.Fprintf(&b, "udp://%s?version=%d", net.JoinHostPort(d.Host, strconv.Itoa(int(d.Port))), d.Version)
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
