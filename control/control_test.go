package control

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// start runs a server and returns once it answers.
func start(t *testing.T, path string) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	answer := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "here") })
	s := New(path, answer, slog.New(slog.DiscardHandler))
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	for {
		if c, err := net.Dial("unix", path); err == nil {
			c.Close()
			break
		}
		select {
		case err := <-ended:
			t.Fatal(err)
		default:
		}
	}
	return func() error {
		cancel()
		return <-ended
	}
}

func get(path string) (string, error) {
	r, err := Client(path).Get("http://localhost/")
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	return string(b), err
}

func TestSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "weir.sock")
	if _, err := get(path); err == nil || !strings.Contains(err.Error(), "no weir is running here") {
		t.Errorf("without a server: %v", err)
	}
	stop := start(t, path)
	if got, err := get(path); got != "here" || err != nil {
		t.Errorf("answer = %q, %v", got, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("socket: %v, mode %v, want 0660", err, info.Mode().Perm())
	}
	second := New(path, http.NotFoundHandler(), slog.New(slog.DiscardHandler)).Run(context.Background())
	if !errors.Is(second, ErrRunning) {
		t.Errorf("a second server: %v", second)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket stays behind: %v", err)
	}
}

func TestSocketOfAKilledServerIsTakenOver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "weir.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close() // the file stays, nobody listens
	stop := start(t, path)
	if got, err := get(path); got != "here" {
		t.Errorf("answer = %q, %v", got, err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}
