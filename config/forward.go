package config

import (
	"fmt"
	"strings"
)

// Forward is forwarding by the flow cache, of all interfaces that are asked to.
type Forward struct {
	// Watchdog is how long the programs forward without a sign of life from weir:
	// then the kernel does. 0: for ever.
	Watchdog Duration `yaml:"watchdog"`
}

// Forwards says whether an interface forwards.
type Forwards string

const (
	ForwardsOff   Forwards = ""      // the kernel does
	ForwardsOn    Forwards = "on"    // what it can; refused where that bypasses something
	ForwardsForce Forwards = "force" // whatever it bypasses
)

// UnmarshalText reads on, off, force.
func (f *Forwards) UnmarshalText(b []byte) error {
	switch strings.ToLower(string(b)) {
	case "", "off", "no", "false":
		*f = ForwardsOff
	case "on", "yes", "true":
		*f = ForwardsOn
	case "force":
		*f = ForwardsForce
	default:
		return fmt.Errorf("%q: accepted: on, off, force%s", b, didYouMean(string(b), []string{"on", "off", "force"}))
	}
	return nil
}

// MarshalText is the word for it.
func (f Forwards) MarshalText() ([]byte, error) {
	if f == ForwardsOff {
		return []byte("off"), nil
	}
	return []byte(f), nil
}

// checkForward tests what forwarding needs of an interface.
func (c *Config) checkForward(name string, report func(key, msg string)) {
	i := c.Interfaces[name]
	if i.URPF != "" {
		oneOf(func(_, msg string) { report("urpf", msg) }, "", i.URPF, "strict", "loose", "off")
	}
	if i.Forward == ForwardsOff {
		return
	}
	switch {
	case !i.Meter:
		report("forward", "on, and `meter` is off: the flow cache forwards what it meters; accepted: both on")
	case i.Mode == "tc" || i.Mode == "afpacket":
		report("forward", fmt.Sprintf("on, and the mode is %s: forwarding needs XDP; accepted: mode auto or xdp", i.Mode))
	case c.Cache.Key != "cisco":
		report("forward", fmt.Sprintf("on, and `cache.key` is %s, which leaves out what routing may look at; accepted: key cisco", c.Cache.Key))
	}
}
