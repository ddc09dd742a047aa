package config

import (
	"bufio"
	"errors"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// Prefix is a network, written as 192.0.2.0/24 or 2001:db8::/32; an address
// alone is itself.
type Prefix netip.Prefix

// MaxPrefixes bounds a list of them.
const MaxPrefixes = 1 << 20

// ParsePrefix refuses what has bits set outside the network: it may be meant
// otherwise.
func ParsePrefix(s string) (Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" {
			return Prefix{}, errorf("%.60q is no network; accepted: 192.0.2.0/24, 2001:db8::/32, or an address", s)
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	if p.Addr().Is4In6() {
		return Prefix{}, errorf("%.60q: accepted: IPv4 written as IPv4, such as 192.0.2.0/24", s)
	}
	if m := p.Masked(); m != p {
		return Prefix{}, errorf("%.60q has bits set outside the network; accepted: %s, or %s/%d", s, m, p.Addr(), p.Addr().BitLen())
	}
	return Prefix(p), nil
}

func (p *Prefix) UnmarshalText(b []byte) (err error) {
	*p, err = ParsePrefix(string(b))
	return err
}

func (p Prefix) String() string            { return netip.Prefix(p).String() }
func (p Prefix) MarshalYAML() (any, error) { return p.String(), nil }

// Netips are the networks as others know them.
func Netips(list []Prefix) []netip.Prefix {
	all := make([]netip.Prefix, len(list))
	for i, p := range list {
		all[i] = netip.Prefix(p)
	}
	return all
}

// LoadPrefixes reads a list from a file: one on a line, # begins a comment. The
// error is an Errors.
func LoadPrefixes(path string) ([]netip.Prefix, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, Errors{{File: path, Msg: plainOS(err)}}
	}
	defer f.Close()
	return readPrefixes(path, f)
}

// manyErrors is how many lines of a list are complained of.
const manyErrors = 10

func readPrefixes(name string, r io.Reader) ([]netip.Prefix, error) {
	var all []netip.Prefix
	var errs Errors
	lines := bufio.NewScanner(r)
	number := 0
	for lines.Scan() {
		number++
		text, _, _ := strings.Cut(lines.Text(), "#")
		word := strings.TrimSpace(text)
		if word == "" {
			continue
		}
		col := 1 + strings.Index(text, word)
		p, err := ParsePrefix(word)
		switch {
		case err != nil && len(errs) == manyErrors:
			return nil, append(errs, &Error{File: name, Line: number, Col: col, Msg: "and so on: accepted: one network on a line, # before a comment"})
		case err != nil:
			errs = append(errs, &Error{File: name, Line: number, Col: col, Msg: err.Error()})
		case len(all) == MaxPrefixes:
			return nil, append(errs, &Error{File: name, Line: number, Col: col, Msg: "more than " + strconv.Itoa(MaxPrefixes) + " networks"})
		default:
			all = append(all, netip.Prefix(p))
		}
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		errs = append(errs, &Error{File: name, Line: number + 1, Col: 1, Msg: "a line of more than 64 KiB: no list of networks"})
	case err != nil:
		errs = append(errs, &Error{File: name, Msg: plainOS(err)})
	case len(errs) == 0 && len(all) == 0:
		errs = append(errs, &Error{File: name, Msg: "no network in it: nothing would be metered"})
	}
	if len(errs) > 0 {
		return nil, errs
	}
	return all, nil
}
