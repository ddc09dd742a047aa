package config

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

func errorf(format string, args ...any) error { return fmt.Errorf(format, args...) }

// Duration is a time.Duration written as 15s, 30m, 1h30m or 90d.
type Duration time.Duration

// ParseDuration also knows days, d, and a bare 0.
func ParseDuration(s string) (Duration, error) {
	accepted := fmt.Errorf("%q is no duration; accepted: 15s, 500ms, 30m, 12h, 90d, 0", s)
	if d, ok := strings.CutSuffix(s, "d"); ok {
		f, err := strconv.ParseFloat(d, 64)
		if err != nil || f < 0 || f > 36500 {
			return 0, accepted
		}
		return Duration(f * float64(24*time.Hour)), nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, accepted
	}
	return Duration(d), nil
}

func (d *Duration) UnmarshalText(b []byte) (err error) {
	*d, err = ParseDuration(string(b))
	return err
}

// Seconds is d as a number.
func (d Duration) Seconds() float64 { return time.Duration(d).Seconds() }

func (d Duration) String() string {
	const day = 24 * time.Hour
	if v := time.Duration(d); v >= day && v%day == 0 {
		return strconv.Itoa(int(v/day)) + "d"
	}
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// MarshalYAML writes what UnmarshalText reads.
func (d Duration) MarshalYAML() (any, error) { return d.String(), nil }

// Size is a number of octets, written as 64MiB, 20GB or 1500.
type Size uint64

// Count is a number of things, written as 1Mi, 64k or 4096.
type Count uint64

var factors = []struct {
	suffix string
	factor float64
}{{"Ki", 1 << 10}, {"Mi", 1 << 20}, {"Gi", 1 << 30}, {"Ti", 1 << 40}, {"k", 1e3}, {"K", 1e3}, {"M", 1e6}, {"G", 1e9}, {"T", 1e12}, {"", 1}}

func scaled(s string) (uint64, bool) {
	for _, f := range factors {
		n, ok := strings.CutSuffix(s, f.suffix)
		if !ok {
			continue
		}
		if u, err := strconv.ParseUint(n, 10, 64); err == nil && f.factor == 1 {
			return u, true
		}
		v, err := strconv.ParseFloat(n, 64)
		v *= f.factor
		if err != nil || v < 0 || v >= math.MaxInt64 || math.IsNaN(v) {
			return 0, false
		}
		return uint64(v), true
	}
	return 0, false
}

// scale writes n with the largest binary unit that divides it.
func scale(n uint64, unit string) string {
	for i := 3; i >= 0; i-- {
		if f := uint64(factors[i].factor); n >= f && n%f == 0 {
			return strconv.FormatUint(n/f, 10) + factors[i].suffix + unit
		}
	}
	return strconv.FormatUint(n, 10)
}

// ParseSize reads octets.
func ParseSize(s string) (Size, error) {
	n, ok := scaled(strings.TrimSuffix(s, "B"))
	if !ok {
		return 0, fmt.Errorf("%q is no size; accepted: 1500, 64KiB, 64MiB, 20GiB, 20GB", s)
	}
	return Size(n), nil
}

func (s *Size) UnmarshalText(b []byte) (err error) {
	*s, err = ParseSize(string(b))
	return err
}

func (s Size) String() string             { return scale(uint64(s), "B") }
func (s Size) MarshalYAML() (any, error)  { return s.String(), nil }
func (c Count) String() string            { return scale(uint64(c), "") }
func (c Count) MarshalYAML() (any, error) { return c.String(), nil }

// UnmarshalText reads a count.
func (c *Count) UnmarshalText(b []byte) error {
	n, ok := scaled(string(b))
	if !ok {
		return fmt.Errorf("%q is no count; accepted: 4096, 64k, 64Ki, 1Mi", b)
	}
	*c = Count(n)
	return nil
}

// Sample is a sampling rate, 1:N; the zero value and 1:1 take every packet.
type Sample uint32

// ErrSample says how a sampling rate is written.
var ErrSample = errors.New("accepted: 1:N with N from 1 to 16777215, e.g. 1:100")

func (s *Sample) UnmarshalText(b []byte) error {
	one, n, ok := strings.Cut(string(b), ":")
	if !ok {
		one, n = "1", one
	}
	v, err := strconv.ParseUint(n, 10, 24)
	if one != "1" || err != nil || v == 0 {
		return fmt.Errorf("%q is no sampling rate; %w", b, ErrSample)
	}
	*s = Sample(v)
	return nil
}

// Rate is one packet in so many, never 0.
func (s Sample) Rate() uint32 { return max(1, uint32(s)) }

func (s Sample) String() string            { return "1:" + strconv.FormatUint(uint64(s.Rate()), 10) }
func (s Sample) MarshalYAML() (any, error) { return s.String(), nil }
