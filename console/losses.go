package console

import (
	"context"
	"net/http"
	"sync"
	"time"

	"weir/flow"
)

// LossLine is a counter of loss and what was added to it lately.
type LossLine struct {
	flow.Loss
	Recent uint64 `json:"recent"` // growth within the last minute, in the counter's own unit
}

// LossesAnswer lists every counter of loss in the order of the data's way.
type LossesAnswer struct {
	Losses []LossLine `json:"losses"`
}

// amount of a loss in its own unit: the first that is known of it.
func amount(l flow.Loss) uint64 {
	for _, n := range []uint64{l.Records, l.Packets, l.Datagrams, l.Bytes} {
		if n > 0 {
			return n
		}
	}
	return 0
}

// lossHistory remembers the counters of the last minute.
type lossHistory struct {
	mu      sync.Mutex
	samples []lossSample // oldest first
}

type lossSample struct {
	at     time.Time
	amount map[[2]string]uint64
}

const (
	lossEvery  = 5 * time.Second
	lossWindow = time.Minute
)

// sampleLosses notes the counters every few seconds until ctx ends.
func (s *Server) sampleLosses(ctx context.Context) {
	if s.opt.Losses == nil {
		return
	}
	tick := time.NewTicker(lossEvery)
	defer tick.Stop()
	for {
		s.losses.note(time.Now(), s.opt.Losses())
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (h *lossHistory) note(now time.Time, losses []flow.Loss) {
	sample := lossSample{now, make(map[[2]string]uint64, len(losses))}
	for _, l := range losses {
		sample.amount[[2]string{l.Stage, l.Reason}] = amount(l)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.samples = append(h.samples, sample)
	// Keep one that is a window old, to compare with.
	for len(h.samples) > 1 && now.Sub(h.samples[1].at) >= lossWindow {
		h.samples = h.samples[1:]
	}
}

// lines adds the growth since the oldest sample; without one, none.
func (h *lossHistory) lines(losses []flow.Loss) []LossLine {
	h.mu.Lock()
	defer h.mu.Unlock()
	lines := make([]LossLine, len(losses))
	for i, l := range losses {
		lines[i].Loss = l
		if len(h.samples) > 0 {
			n := amount(l)
			lines[i].Recent = n - min(n, h.samples[0].amount[[2]string{l.Stage, l.Reason}])
		}
	}
	return lines
}

func (s *Server) lossLines() []LossLine {
	if s.opt.Losses == nil {
		return []LossLine{}
	}
	return s.losses.lines(s.opt.Losses())
}

func (s *Server) lossesPage(w http.ResponseWriter, r *http.Request) error {
	if s.opt.Losses == nil {
		return absent("loss counters")
	}
	return writeJSON(w, r, &LossesAnswer{s.lossLines()})
}
