package guard

import (
	"math"
	"math/bits"
)

// baselines are what the largest host of each hostgroup did, second by second: of each
// measure that has a threshold, a histogram with bins an eighth of a power of two wide.
type baselines struct {
	groups []groupBaseline
}

const baselineBins = 48 * 8

type groupBaseline struct {
	seconds uint64
	bins    [NumMeasures][baselineBins]uint32
	most    Counts
}

func newBaselines(groups int) *baselines { return &baselines{make([]groupBaseline, groups)} }

// baselineBin is where a value is counted: exact below 8.
func baselineBin(v uint64) int {
	if v < 8 {
		return int(v)
	}
	n := bits.Len64(v) - 1 // at least 3
	return min(baselineBins-1, (n-2)*8+int(v>>(n-3)&7))
}

// binTop is the largest value of a bin.
func binTop(b int) uint64 {
	if b < 8 {
		return uint64(b)
	}
	n := b/8 + 2
	return uint64(b%8+9)<<(n-3) - 1
}

// note takes a group's largest rates in one second.
func (b *baselines) note(group int, top *Counts) {
	g := &b.groups[group]
	g.seconds++
	for m := range top {
		g.bins[m][baselineBin(top[m])]++
		g.most[m] = max(g.most[m], top[m])
	}
}

// Baseline is what has been learned of one threshold, and what is proposed. It is never
// in force by itself: somebody has to write it into the configuration.
type Baseline struct {
	Group    string  `json:"group"`
	Name     string  `json:"threshold"`
	Seconds  uint64  `json:"seconds"` // learned for so long
	Median   uint64  `json:"median"`  // of the largest host's rate in each second; bit/s for octets
	High     uint64  `json:"p999"`    // not exceeded in 999 of 1000 seconds
	Most     uint64  `json:"most"`
	Current  *uint64 `json:"current"`  // in force; nil: none
	Proposed uint64  `json:"proposed"` // three times what was high
	Enough   bool    `json:"enough"`   // learned for a day or longer
}

// Baselines are proposals for the thresholds of hosts, of what was learned until now.
func (e *Engine) Baselines() (list []Baseline) {
	e.feed.Lock()
	defer e.feed.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.learned == nil {
		return nil
	}
	for i := range e.policy.Groups {
		g, b := &e.policy.Groups[i], &e.learned.groups[i]
		if b.seconds == 0 {
			continue
		}
		for _, n := range limitNames {
			l := Limit{Measure: n.measure}
			if b.most[n.measure] == 0 {
				continue
			}
			x := Baseline{
				Group: g.Name, Name: l.Name(), Seconds: b.seconds, Enough: b.seconds >= 86400,
				Median: l.shown(b.quantile(n.measure, 0.5)), High: l.shown(b.quantile(n.measure, 0.999)), Most: l.shown(b.most[n.measure]),
			}
			for _, in := range g.Hosts {
				if in.Measure == n.measure && in.Window == Second {
					v := in.Value()
					x.Current = &v
				}
			}
			x.Proposed = round(3 * x.High)
			list = append(list, x)
		}
	}
	return list
}

// quantile is an upper bound of it, at most an eighth too high.
func (b *groupBaseline) quantile(m Measure, q float64) uint64 {
	want := uint64(math.Ceil(q * float64(b.seconds)))
	sum := uint64(0)
	for i, n := range b.bins[m] {
		if sum += uint64(n); sum >= want {
			return min(binTop(i), b.most[m])
		}
	}
	return b.most[m]
}

// round goes up to two digits.
func round(v uint64) uint64 {
	step := uint64(1)
	for v/step >= 100 {
		step *= 10
	}
	return (v + step - 1) / step * step
}
