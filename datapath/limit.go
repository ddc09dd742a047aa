package datapath

import "time"

// limit lets through so many a second, and some more of them at once. It is the
// generic cell rate algorithm (ITU-T I.371), whose state is one moment: that at which
// all that was let through would have come, had it kept to the rate.
type limit struct {
	each  time.Duration // between two
	burst int           // at once, at least 1
}

func perSecond(n, burst int) limit { return limit{max(time.Second/time.Duration(n), 1), burst} }

// take says whether one more may pass at now, and notes it. The state is its
// owner's to guard.
func (l limit) take(state *time.Time, now time.Time) bool {
	at := *state
	if at.Before(now) {
		at = now
	}
	if at.Sub(now) > l.each*time.Duration(l.burst-1) {
		return false
	}
	*state = at.Add(l.each)
	return true
}
