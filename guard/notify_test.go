package guard

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func attackEvent(what string, s State) Event {
	a := &Attack{ID: 1, Group: "web", Scope: ScopeHost, Target: netip.MustParsePrefix("192.0.2.1/32"), Kind: KindSYN, Limit: Limit{Packets, 20_000, Second}, Began: began}
	a.Rate[Packets] = 31_337
	act := &Action{ID: 2, Attack: 1, Match: Match{Dst: a.Target, Proto: 6, SYN: true}, Do: Drop, State: s, Undo: undo(2), Ends: began + int64(time.Minute)}
	return Event{What: what, At: began, By: "automatic", Attack: a, Action: act}
}

// runNotifier tells events, and returns when all has been told.
func runNotifier(n *Notifier, events ...Event) {
	for _, ev := range events {
		n.Tell(ev)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	n.Run(ctx)
}

func TestScriptGetsArgumentsAndJSONAndNoShell(t *testing.T) {
	dir := t.TempDir()
	script := filepath.Join(dir, "notify; touch oops")
	out := filepath.Join(dir, "out")
	if err := os.WriteFile(script, []byte("#!/bin/sh\nprintf '%s|' \"$@\" >>"+out+"\ncat >>"+out+"\nenv | grep -c SECRET >>"+out+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SECRET", "x")
	n := NewNotifier(NotifyOptions{Script: script})
	runNotifier(n, attackEvent("active", StateActive))
	if sent, failed, _ := n.Counters(); sent+failed != 1 { // grep -c says 1 when it counts none
		t.Errorf("%d sent, %d failed", sent, failed)
	}
	got, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	args, rest, _ := bytes.Cut(got, []byte("|{"))
	if string(args) != "192.0.2.1|incoming|31337|ban" || !bytes.HasSuffix(got, []byte("\n0\n")) {
		t.Errorf("arguments %q, %s", args, got)
	}
	var x Notice
	line, _, _ := bytes.Cut(append([]byte{'{'}, rest...), []byte("\n"))
	if err := json.Unmarshal(line, &x); err != nil || x.Event != "active" || x.Attack.Name != "192.0.2.1" || x.Action.ID != 2 || !strings.Contains(x.Summary, "victim 192.0.2.1") {
		t.Errorf("%v: %+v", err, x)
	}
	for what, want := range map[string]string{"ended": "unban", "lifted": "unban", "attack": "attack_details", "active": "ban"} {
		if got := argv(attackEvent(what, StateEnded))[3]; got != want {
			t.Errorf("%s is told as %s, want %s", what, got, want)
		}
	}
}

func TestScriptsThatMisbehave(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct {
		text string
		sent uint64
	}{
		"hangs":         {"sleep 100 & sleep 100", 0},
		"does not read": {"exec 0<&-; exit 0", 1},
		"fails":         {"echo why; exit 3", 0},
		"floods":        {"head -c 10000000 /dev/zero", 1},
	} {
		t.Run(name, func(t *testing.T) {
			script := filepath.Join(dir, name)
			if err := os.WriteFile(script, []byte("#!/bin/sh\n"+c.text+"\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			n := NewNotifier(NotifyOptions{Script: script, Timeout: time.Second})
			runNotifier(n, attackEvent("active", StateActive))
			if sent, failed, _ := n.Counters(); sent != c.sent || failed != 1-c.sent {
				t.Errorf("%d sent, %d failed", sent, failed)
			}
		})
	}
}

func TestWebhookAndSyslog(t *testing.T) {
	got := make(chan Notice, 8)
	status := http.StatusNoContent
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var x Notice
		if err := json.NewDecoder(r.Body).Decode(&x); err != nil || r.Method != http.MethodPost {
			t.Errorf("%s: %v", r.Method, err)
		}
		got <- x
		w.WriteHeader(status)
	}))
	defer server.Close()
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	n := NewNotifier(NotifyOptions{Webhook: server.URL, Syslog: "udp://" + udp.LocalAddr().String()})
	runNotifier(n, attackEvent("attack", StateProposed))
	if x := <-got; x.Event != "attack" || x.Attack.Kind != KindSYN {
		t.Errorf("%+v", x)
	}
	buf := make([]byte, 2048)
	udp.SetReadDeadline(time.Now().Add(10 * time.Second))
	size, _, err := udp.ReadFrom(buf)
	if text := string(buf[:size]); err != nil || !strings.HasPrefix(text, "<28>1 2027-01-15T08:00:00.000000Z ") || !strings.Contains(text, " weir ") || !strings.Contains(text, "syn-flood of victim 192.0.2.1") {
		t.Errorf("%v: %q", err, text)
	}
	status = http.StatusInternalServerError
	runNotifier(n, attackEvent("attack", StateProposed))
	if sent, failed, _ := n.Counters(); sent != 3 || failed != 1 {
		t.Errorf("%d sent, %d failed; want 3, 1", sent, failed)
	}
	// A local socket, in the older form; TCP counts octets.
	path := filepath.Join(t.TempDir(), "log")
	local, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	runNotifier(NewNotifier(NotifyOptions{Syslog: "unix://" + path}), attackEvent("active", StateActive))
	if size, err = local.Read(buf); err != nil || !strings.HasPrefix(string(buf[:size]), "<28>") || !strings.Contains(string(buf[:size]), " weir[") {
		t.Errorf("%v: %q", err, buf[:size])
	}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	text := make(chan string, 1)
	go func() {
		c, err := tcp.Accept()
		if err != nil {
			text <- err.Error()
			return
		}
		defer c.Close()
		b, _ := io.ReadAll(c)
		text <- string(b)
	}()
	runNotifier(NewNotifier(NotifyOptions{Syslog: "tcp://" + tcp.Addr().String()}), attackEvent("off", StateActive))
	if s := <-text; !strings.Contains(s, "the kill switch is off") || !strings.Contains(s, " <29>1 ") {
		t.Errorf("%q", s)
	}
}

func TestNobodyWaitsForANotifier(t *testing.T) {
	n := NewNotifier(NotifyOptions{Script: "/nowhere"})
	for range notifyQueue + 10 {
		n.Tell(attackEvent("attack", StateProposed))
	}
	if _, _, lost := n.Counters(); lost != 10 {
		t.Errorf("%d lost, want 10", lost)
	}
	if runNotifier(n); n.failed.Load() != notifyQueue {
		t.Errorf("%d failed", n.failed.Load())
	}
}
