package console

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"strings"
	"time"

	"weir/query"
)

// budget bounds how many queries run at once. Who finds it full waits a little
// and is then told to come again, rather than making everyone slow.
type budget struct {
	slots chan struct{}
}

// patience is how long a query may wait for its turn.
const patience = 5 * time.Second

func newBudget(n int) *budget { return &budget{slots: make(chan struct{}, n)} }

// take waits for a slot. The caller calls release once.
func (b *budget) take(ctx context.Context) (release func(), err error) {
	wait := time.NewTimer(patience)
	defer wait.Stop()
	select {
	case b.slots <- struct{}{}:
		return func() { <-b.slots }, nil
	default:
	}
	select {
	case b.slots <- struct{}{}:
		return func() { <-b.slots }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-wait.C:
		return nil, &apiError{Status: http.StatusServiceUnavailable, Message: "too many queries are running; try again in a moment", retry: true}
	}
}

// limited runs f as one query of the budget: with its time-out, and ended when
// ctx (the client's request) ends.
func (s *Server) limited(ctx context.Context, f func(context.Context) error) error {
	if s.opt.Engine == nil {
		return absent("store to ask; start one with: weir up, or weir collect --store DIR")
	}
	release, err := s.queries.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	ctx, cancel := context.WithTimeout(ctx, s.opt.QueryTimeout)
	defer cancel()
	err = f(ctx)
	if err != nil && ctx.Err() != nil {
		return ctx.Err() // the engine's own words for it vary
	}
	return err
}

// blame says whose mistake an engine's error is: a request that cannot even be
// planned is the client's.
func (s *Server) blame(req query.Request, err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if _, ours := errors.AsType[*apiError](err); ours {
		return err
	}
	if _, io := errors.AsType[*fs.PathError](err); io {
		return err
	}
	if _, unplanned := s.opt.Engine.Explain(req); unplanned != nil {
		return badRequest("%s", strings.TrimPrefix(unplanned.Error(), "query: "))
	}
	return err
}
