package datapath

import (
	"testing"
	"time"
)

// Of what comes at every moment, the burst passes and then the rate; after a pause,
// the burst again, and not more.
func TestLimit(t *testing.T) {
	l := perSecond(10, 5)
	var state time.Time
	now := time.Unix(1000, 0)
	during := func(d time.Duration) (n int) {
		for end := now.Add(d); now.Before(end); now = now.Add(time.Millisecond) {
			for range 9 {
				if l.take(&state, now) {
					n++
				}
			}
		}
		return n
	}
	for _, c := range []struct {
		pause, last time.Duration
		want        int
	}{
		{0, time.Millisecond, 5},
		{0, 99 * time.Millisecond, 0},
		{0, 2 * time.Second, 20},
		{time.Hour, time.Millisecond, 5},
		{300 * time.Millisecond, time.Millisecond, 3},
	} {
		now = now.Add(c.pause)
		if got := during(c.last); got != c.want {
			t.Errorf("after a pause of %v, within %v: %d, want %d", c.pause, c.last, got, c.want)
		}
	}
}
