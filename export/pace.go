package export

import (
	"context"
	"time"
)

// pace spreads a burst so that it does not overrun the collector: a token
// bucket by datagrams. Where the collector's socket is on this machine its
// queue can be seen, and is kept from filling.
type pace struct {
	rate     float64 // datagrams a second; below 0: no limit
	tokens   float64
	at       time.Time
	receiver *receiver

	waited time.Duration
}

// Where the receiver's queue is seen, the bucket is a second line only.
const visibleFactor = 4

// most is how many datagrams may go at once: no more than a small receive
// buffer swallows.
func (p *pace) most() int {
	if p.rate < 0 && p.receiver == nil {
		return batchMax
	}
	return batchMax / 2
}

// wait blocks until some of n datagrams may go, and says how many; none when
// ctx ends. With hurry it does not wait.
func (p *pace) wait(ctx context.Context, n int, hurry bool) int {
	if hurry {
		return n
	}
	began := time.Now()
	n = p.bucket(ctx, n)
	n = p.receiver.wait(ctx, n)
	if d := time.Since(began); d > 100*time.Microsecond {
		p.waited += d
	}
	return n
}

func (p *pace) bucket(ctx context.Context, n int) int {
	if p.rate < 0 {
		return n
	}
	rate := p.rate
	if p.receiver.visible() {
		rate *= visibleFactor
	}
	for {
		now := time.Now()
		burst := max(rate/100, batchMax) // 10 ms worth
		p.tokens = min(burst, p.tokens+now.Sub(p.at).Seconds()*rate)
		p.at = now
		if p.tokens >= 1 {
			n = min(n, int(p.tokens))
			p.tokens -= float64(n)
			return n
		}
		sleep(ctx, time.Duration(min(float64(n), burst)/rate*float64(time.Second)))
		if ctx.Err() != nil {
			return 0
		}
	}
}

// sleep waits for d or the end of ctx.
func sleep(ctx context.Context, d time.Duration) {
	d = max(d, 50*time.Microsecond)
	if d < time.Millisecond {
		time.Sleep(d)
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
