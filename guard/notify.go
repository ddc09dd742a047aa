package guard

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// NotifyOptions say who is told of events, beside the log.
type NotifyOptions struct {
	Script  string        // called without a shell; "": none
	Webhook string        // gets POSTs of JSON; "": none
	Syslog  string        // udp://HOST:514, tcp://HOST:514, unix:///dev/log; "": none
	Timeout time.Duration // of each; zero: 10 s
	Log     *slog.Logger
}

// Notifier tells others what happened. Nothing that they do, or fail to do, holds up who
// tells it: what waits is bounded, and beyond that lost and counted.
//
// The script is called as FastNetMon's notify_about_attack.sh:
//
//	argv: the target's address, incoming or outgoing, packets a second, ban or unban;
//	      attack_details for everything else
//	stdin: one JSON object (Notice)
//
// It gets no shell, an environment of PATH alone, and Timeout; then it is killed with
// whatever it started.
type Notifier struct {
	o            NotifyOptions
	queue        chan Event
	client       *http.Client
	sent, failed atomic.Uint64
	lost         atomic.Uint64
}

// Notice is what others are told: the script on its standard input, the webhook in a
// POST's body.
type Notice struct {
	Event   string        `json:"event"`
	At      string        `json:"at"` // RFC 3339, UTC
	By      string        `json:"by"`
	Host    string        `json:"host"`
	Summary string        `json:"summary"` // one line; says who is victim and what is done to whom
	Attack  *AttackStatus `json:"attack,omitempty"`
	Action  *ActionStatus `json:"action,omitempty"`
}

const notifyQueue = 256

// NewNotifier returns one that does nothing until Run.
func NewNotifier(o NotifyOptions) *Notifier {
	if o.Timeout <= 0 {
		o.Timeout = 10 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	client := &http.Client{
		Timeout: o.Timeout, Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, MaxIdleConns: 2, IdleConnTimeout: time.Minute},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return &Notifier{o: o, queue: make(chan Event, notifyQueue), client: client}
}

// Tell takes an event; it does not wait.
func (n *Notifier) Tell(ev Event) {
	if n.o.Script == "" && n.o.Webhook == "" && n.o.Syslog == "" {
		return
	}
	select {
	case n.queue <- ev:
	default:
		n.lost.Add(1)
	}
}

// Counters are notices that were sent, that failed, and events that were lost because too
// many waited.
func (n *Notifier) Counters() (sent, failed, lost uint64) {
	return n.sent.Load(), n.failed.Load(), n.lost.Load()
}

// Run tells until ctx ends, and then what waits still, each for as long as Timeout, all
// together for twice that.
func (n *Notifier) Run(ctx context.Context) {
	for {
		select {
		case ev := <-n.queue:
			n.all(context.WithoutCancel(ctx), ev)
		case <-ctx.Done():
			rest, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*n.o.Timeout)
			defer cancel()
			for {
				select {
				case ev := <-n.queue:
					if rest.Err() != nil {
						n.lost.Add(1)
						continue
					}
					n.all(rest, ev)
				default:
					n.client.CloseIdleConnections()
					return
				}
			}
		}
	}
}

func (n *Notifier) all(ctx context.Context, ev Event) {
	notice := newNotice(ev)
	body, err := json.Marshal(notice)
	if err != nil {
		n.o.Log.Error("a notice cannot be written", "error", err)
		n.failed.Add(1)
		return
	}
	for _, to := range []struct {
		name, where string
		send        func(context.Context) error
	}{
		{"script", n.o.Script, func(ctx context.Context) error { return n.script(ctx, ev, body) }},
		{"webhook", n.o.Webhook, func(ctx context.Context) error { return n.webhook(ctx, body) }},
		{"syslog", n.o.Syslog, func(ctx context.Context) error { return n.syslog(ctx, &notice) }},
	} {
		if to.where == "" {
			continue
		}
		limit, cancel := context.WithTimeout(ctx, n.o.Timeout)
		err := to.send(limit)
		cancel()
		if err != nil {
			n.failed.Add(1)
			n.o.Log.Warn("a notice failed", "to", to.name, "event", ev.What, "error", err)
			continue
		}
		n.sent.Add(1)
	}
}

func newNotice(ev Event) Notice {
	host, _ := os.Hostname() // "" says as much
	x := Notice{Event: ev.What, At: time.Unix(0, ev.At).UTC().Format("2006-01-02T15:04:05.000000Z07:00"), By: ev.By, Host: host, Summary: summary(ev)}
	if ev.Attack != nil {
		v := ev.Attack.View()
		x.Attack = &v
	}
	if ev.Action != nil {
		v := ev.Action.View(ev.At)
		x.Action = &v
	}
	return x
}

// summary is an event in one line.
func summary(ev Event) string {
	var s string
	if a := ev.Attack; a != nil {
		role := "victim"
		if a.Scope == ScopeSource || a.Scope == ScopeOutgoing {
			role = "attacker"
		}
		s = fmt.Sprintf("%s of %s %s in %s: %s, threshold %s", a.Kind, role, a.Name(), a.Group, a.Measured(), a.Limit)
	}
	if act := ev.Action; act != nil {
		if s != "" {
			s += "; "
		}
		s += fmt.Sprintf("action %d %s: %s", act.ID, act.State, act.What())
		if act.Note != "" {
			s += " (" + act.Note + ")"
		}
		if act.State == StateActive {
			s += "; undo: " + act.Undo
		}
	}
	switch ev.What {
	case "off", "on":
		s = "the kill switch is " + ev.What
	}
	return "guard " + ev.What + ": " + s
}

// argv are FastNetMon's arguments.
func argv(ev Event) []string {
	target, direction, pps := "0.0.0.0", "incoming", uint64(0)
	if a := ev.Attack; a != nil {
		if a.Target.IsValid() {
			target = prefixText(a.Target)
		}
		if a.Scope == ScopeOutgoing {
			direction = "outgoing"
		}
		pps = a.Rate[Packets]
	} else if act := ev.Action; act != nil {
		if m := act.Match; m.Dst.IsValid() {
			target = prefixText(m.Dst)
		} else if m.Src.IsValid() {
			target, direction = prefixText(m.Src), "outgoing"
		}
	}
	what := "attack_details"
	switch ev.What {
	case "active":
		what = "ban"
	case "ended", "lifted":
		what = "unban"
	}
	return []string{target, direction, strconv.FormatUint(pps, 10), what}
}

// maxScriptOutput is how much of a script's output is kept for the log, in octets.
const maxScriptOutput = 4096

func (n *Notifier) script(ctx context.Context, ev Event, body []byte) error {
	cmd := exec.CommandContext(ctx, n.o.Script, argv(ev)...)
	cmd.Stdin = bytes.NewReader(append(body, '\n'))
	var out bounded
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if ctx.Err() != nil {
		return fmt.Errorf("it was ended after %v", n.o.Timeout)
	}
	// A script that does not read its input has done nothing wrong.
	if errors.Is(err, syscall.EPIPE) {
		err = nil
	}
	if err != nil && out.b.Len() > 0 {
		return fmt.Errorf("%w: %s", err, strings.ToValidUTF8(out.b.String(), "?"))
	}
	return err
}

// bounded keeps the first octets.
type bounded struct{ b bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	if room := maxScriptOutput - b.b.Len(); room > 0 {
		b.b.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

func (n *Notifier) webhook(ctx context.Context, body []byte) error {
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, n.o.Webhook, bytes.NewReader(body))
	if err != nil {
		return err
	}
	q.Header.Set("Content-Type", "application/json")
	q.Header.Set("User-Agent", "weir")
	r, err := n.client.Do(q)
	if err != nil {
		if u := (*url.Error)(nil); errors.As(err, &u) {
			err = u.Err // a webhook's address is often its secret
		}
		return err
	}
	defer r.Body.Close()
	io.Copy(io.Discard, io.LimitReader(r.Body, 64<<10)) // so that the connection can be used again
	if r.StatusCode/100 != 2 {
		return fmt.Errorf("it answered %s", r.Status)
	}
	return nil
}

// syslog sends one message of RFC 5424, facility daemon; to a local socket in the older
// form that every syslogd takes there.
func (n *Notifier) syslog(ctx context.Context, x *Notice) error {
	u, err := url.Parse(n.o.Syslog)
	if err != nil {
		return err
	}
	const daemon, warning, notice = 3, 4, 5
	pri := daemon<<3 | notice
	if x.Event == "attack" || x.Event == "active" {
		pri = daemon<<3 | warning
	}
	text := strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f {
			return ' '
		}
		return r
	}, x.Summary)
	network, address := u.Scheme, u.Host
	message := fmt.Sprintf("<%d>1 %s %s weir %d %s - %s", pri, x.At, orDash(x.Host), os.Getpid(), x.Event, text)
	switch network {
	case "unix":
		network, address = "unixgram", u.Path
		message = fmt.Sprintf("<%d>%s weir[%d]: %s", pri, time.Now().Format(time.Stamp), os.Getpid(), text)
	case "tcp": // RFC 6587, octet counting
		message = fmt.Sprintf("%d %s", len(message), message)
	}
	c, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return err
	}
	defer c.Close()
	if t, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(t); err != nil {
			return err
		}
	}
	_, err = io.WriteString(c, message)
	return err
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
