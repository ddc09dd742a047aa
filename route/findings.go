package route

import (
	"errors"
	"fmt"
	"strings"

	"weir/host"
)

// concerns says whether an obstacle is one for an interface.
func (o Obstacle) concerns(ifname string) bool { return o.Interface == "" || o.Interface == ifname }

// Refusal is why forwarding is not begun on an interface unless it is forced;
// nil: nothing speaks against it.
func Refusal(found []Obstacle, ifname string) error {
	for _, o := range found {
		if o.Refuses && o.concerns(ifname) {
			return fmt.Errorf("interface %s: forwarding in XDP is refused: %s (forward: force does it all the same)", ifname, o.Text)
		}
	}
	return nil
}

// Findings are of the interfaces that forward, for `weir doctor`. forced says
// which do so whatever is passed by; err is Obstacles'.
func Findings(found []Obstacle, err error, forward []string, forced func(ifname string) bool) (list []host.Finding) {
	if len(forward) == 0 {
		return nil
	}
	for _, o := range found {
		var at []string
		refused := false
		for _, name := range forward {
			if o.concerns(name) {
				at = append(at, name)
				refused = refused || o.Refuses && !forced(name)
			}
		}
		if len(at) == 0 {
			continue
		}
		f := host.Finding{Check: "forwarding by " + strings.Join(at, ", "), State: host.Warn, Found: string(o.Kind) + ": " + o.Name, Fix: o.Text}
		if refused {
			f.State = host.Fail
			f.Fix += "; or forward: force"
		}
		list = append(list, f)
	}
	for _, e := range parts(err) {
		list = append(list, host.Finding{Check: "forwarding", State: host.Warn, Found: strings.ReplaceAll(e.Error(), "\n", "; "), Fix: "run as root: what would be passed by is not known"})
	}
	if len(list) == 0 {
		list = append(list, host.Finding{Check: "forwarding by " + strings.Join(forward, ", "), State: host.OK, Found: "nothing is passed by"})
	}
	return list
}

// parts takes joined errors apart.
func parts(err error) []error {
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		var all []error
		for _, e := range joined.Unwrap() {
			all = append(all, parts(e)...)
		}
		return all
	}
	if err == nil {
		return nil
	}
	return []error{err}
}
