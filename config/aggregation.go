package config

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"weir/aggregate"
)

// Aggregation is an aggregation cache, IOS's `ip flow-aggregation cache SCHEME`.
type Aggregation struct {
	Entries Count         `yaml:"entries"`
	Idle    Duration      `yaml:"idle"`   // 0: never
	Active  Duration      `yaml:"active"` // 0: never
	Mask    Masks         `yaml:"mask"`
	Export  []Destination `yaml:"export"` // its own
}

// Masks are the shortest prefixes that are told apart; a longer mask of the route wins.
type Masks struct {
	Source       Bits `yaml:"source"`
	Destination  Bits `yaml:"destination"`
	Source6      Bits `yaml:"source6"` // of IPv6
	Destination6 Bits `yaml:"destination6"`
}

// Bits is a length of a prefix, written as 24 or /24.
type Bits uint8

func (b *Bits) UnmarshalText(text []byte) error {
	n, err := strconv.ParseUint(strings.TrimPrefix(string(text), "/"), 10, 8)
	if err != nil || n > 128 {
		return fmt.Errorf("%q is no length of a prefix; accepted: 0 to 32, of IPv6 to 128", text)
	}
	*b = Bits(n)
	return nil
}

func (b Bits) MarshalYAML() (any, error) { return uint8(b), nil }

// defaultAggregation has IOS's entries and timers.
func defaultAggregation() Aggregation {
	return Aggregation{Entries: aggregate.DefaultEntries, Idle: Duration(aggregate.DefaultIdle), Active: Duration(aggregate.DefaultActive), Export: []Destination{}}
}

// Config is the cache that is asked for.
func (a *Aggregation) Config(name string) (aggregate.Config, error) {
	scheme, err := aggregate.ParseScheme(name)
	if err != nil {
		return aggregate.Config{}, err
	}
	c := aggregate.Config{
		Scheme: scheme, Entries: int(a.Entries), Idle: time.Duration(a.Idle), Active: time.Duration(a.Active),
		Masks: aggregate.Masks{Src4: uint8(a.Mask.Source), Dst4: uint8(a.Mask.Destination), Src6: uint8(a.Mask.Source6), Dst6: uint8(a.Mask.Destination6)},
	}
	return c, c.Validate()
}

func (c *Config) checkAggregation(report func(path, msg string)) {
	for _, name := range slices.Sorted(maps.Keys(c.Aggregation)) {
		path := "flow-aggregation." + name
		a := c.Aggregation[name]
		if _, err := aggregate.ParseScheme(name); err != nil {
			report(path, err.Error()+didYouMean(name, aggregate.Names()))
		} else if _, err := a.Config(name); err != nil {
			report(path, strings.TrimPrefix(err.Error(), "aggregate: "))
		}
		if a.Entries == 0 {
			report(path+".entries", "0: accepted: 1 or more")
		}
		for i, d := range a.Export {
			if u, err := url.Parse(d.To); err != nil || u.Scheme == "" || u.Host == "" {
				report(path+".export["+strconv.Itoa(i)+"]", strconv.Quote(d.To)+": accepted: udp://HOST:PORT?version=8|9|10")
			}
		}
	}
}

// ParseAggregation reads a cache from a command line: its scheme and, behind commas,
// what differs from the defaults: entries=, idle=, active=, mask= (both of IPv4),
// source=, destination=, mask6=, source6=, destination6= and, last, export=URL.
func ParseAggregation(s string) (name string, a Aggregation, err error) {
	a = defaultAggregation()
	name, rest, _ := strings.Cut(s, ",")
	if _, err := aggregate.ParseScheme(name); err != nil {
		return "", a, err
	}
	for rest != "" {
		var part string
		if strings.HasPrefix(rest, "export=") {
			part, rest = rest, ""
		} else {
			part, rest, _ = strings.Cut(rest, ",")
		}
		key, value, _ := strings.Cut(part, "=")
		var err error
		switch key {
		case "entries":
			err = a.Entries.UnmarshalText([]byte(value))
		case "idle", "inactive":
			err = a.Idle.UnmarshalText([]byte(value))
		case "active":
			err = a.Active.UnmarshalText([]byte(value))
		case "mask":
			err = a.Mask.Source.UnmarshalText([]byte(value))
			a.Mask.Destination = a.Mask.Source
		case "mask6":
			err = a.Mask.Source6.UnmarshalText([]byte(value))
			a.Mask.Destination6 = a.Mask.Source6
		case "source":
			err = a.Mask.Source.UnmarshalText([]byte(value))
		case "destination":
			err = a.Mask.Destination.UnmarshalText([]byte(value))
		case "source6":
			err = a.Mask.Source6.UnmarshalText([]byte(value))
		case "destination6":
			err = a.Mask.Destination6.UnmarshalText([]byte(value))
		case "export":
			a.Export = append(a.Export, Destination{To: value})
		default:
			err = errorf("accepted: entries, idle, active, mask, source, destination, mask6, source6, destination6, and last export=URL")
		}
		if err != nil {
			return "", a, errorf("%q: %s: %w", s, key, err)
		}
	}
	return name, a, nil
}
