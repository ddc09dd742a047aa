// Package control is the private door to a running weir: HTTP over a Unix
// socket, for `weir show` and whatever runs beside it.
//
// In: an http.Handler. Out: its answers, to processes of root or of the user
// weir runs as (peer credentials, unix(7)); nobody else gets one.
package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Server listens on one socket.
type Server struct {
	path    string
	handler http.Handler
	log     *slog.Logger
}

// New prepares a server; Run starts it.
func New(path string, handler http.Handler, log *slog.Logger) *Server {
	return &Server{path: path, handler: handler, log: log}
}

// ErrRunning means that another weir answers at the socket.
var ErrRunning = errors.New("another weir is running")

// Run serves until ctx ends, then removes the socket.
func (s *Server) Run(ctx context.Context) error {
	if err := os.MkdirAll(filepath.Dir(s.path), 0o755); err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	if c, err := net.Dial("unix", s.path); err == nil {
		c.Close()
		return fmt.Errorf("control socket %s: %w", s.path, ErrRunning)
	} else if errors.Is(err, syscall.ECONNREFUSED) {
		os.Remove(s.path) // left behind by one that was killed
	}
	old := syscall.Umask(0o117) // the socket is 0660 from its first moment
	l, err := net.Listen("unix", s.path)
	syscall.Umask(old)
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	server := &http.Server{
		Handler: s.handler, ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	stopped := context.AfterFunc(ctx, func() {
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if server.Shutdown(limit) != nil {
			server.Close()
		}
	})
	defer stopped()
	err = server.Serve(&guarded{Listener: l, log: s.log})
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("control socket: %w", err)
}

// guarded accepts connections of root and of our own user.
type guarded struct {
	net.Listener
	log *slog.Logger
}

func (g *guarded) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		uid, err := peer(c)
		if err == nil && (uid == 0 || uid == uint32(os.Geteuid())) {
			return c, nil
		}
		g.log.Warn("control connection refused", "uid", uid, "error", err)
		c.Close()
	}
}

// peer is the user at the other end.
func peer(c net.Conn) (uint32, error) {
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var inner error
	err = raw.Control(func(fd uintptr) {
		cred, inner = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, inner); err != nil {
		return 0, err
	}
	return cred.Uid, nil
}

// Client is an HTTP client of the weir at path. URLs begin with http://localhost/.
func Client(path string) *http.Client {
	return &http.Client{
		Timeout: 30 * time.Second,
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			c, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
			switch {
			case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ECONNREFUSED):
				return nil, fmt.Errorf("no weir is running here (nobody answers at %s); start one with `weir up`", path)
			case errors.Is(err, syscall.EACCES):
				return nil, fmt.Errorf("%s: permission denied; it answers root and the user that weir runs as", path)
			}
			return c, err
		}},
	}
}
