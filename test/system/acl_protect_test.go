package system

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"weir/test/kernel"
)

const (
	open4 = `
ip access-list extended IN
 10 permit ip any any
ip access-list extended OUT
 10 permit ip any any
`
	closed4 = `
ip access-list extended IN
 10 deny ip any any
ip access-list extended OUT
 10 deny ip any any
`
)

// echo answers TCP connections to an address with what they say.
func echo(t testing.TB, ns, addr string) {
	t.Helper()
	var server net.Listener
	within(t, ns, func() (err error) { server, err = net.Listen("tcp4", addr); return err })
	t.Cleanup(func() { server.Close() })
	go func() {
		for {
			c, err := server.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(c, c); c.Close() }()
		}
	}()
}

// echoes says whether an echo comes back within a time.
func echoes(c net.Conn, patience time.Duration) bool {
	c.SetDeadline(time.Now().Add(patience))
	_, err := c.Write([]byte("x"))
	if err == nil {
		_, err = io.ReadFull(c, make([]byte, 1))
	}
	return err == nil
}

// connect opens a connection from a namespace; nil: it is not answered.
func connect(t testing.TB, ns, addr string, patience time.Duration) (c net.Conn) {
	t.Helper()
	within(t, ns, func() error {
		var err error
		c, err = net.DialTimeout("tcp4", addr, patience)
		if err != nil {
			c = nil
		}
		return nil
	})
	if c != nil {
		t.Cleanup(func() { c.Close() })
	}
	return c
}

// Lists that deny everything do not cut off who looks after the machine, nor its
// exports; told not to protect, they do cut sessions, and still no exports: also where
// a filter leaves those out of the metering.
func TestListsProtect(t *testing.T) {
	kernel.Programs(t)
	t.Parallel()
	l := newLine(t, true)
	const patience = 300 * time.Millisecond
	echo(t, l.b, "10.9.0.2:22")
	echo(t, l.b, "10.9.0.2:80")
	var exports [2]atomic.Int64 // datagrams that came to each collector
	for i := range exports {
		within(t, l.a, func() error {
			c, err := net.ListenPacket("udp4", fmt.Sprint("10.9.0.1:", 2055+i))
			if err != nil {
				return err
			}
			t.Cleanup(func() { c.Close() })
			go func() {
				for b := make([]byte, 2000); ; {
					if _, _, err := c.ReadFrom(b); err != nil {
						return
					}
					exports[i].Add(1)
				}
			}()
			return nil
		})
	}
	const conf = `
interfaces: {vb: {meter: true, mode: MODE, acl: {in: IN, out: OUT}FILTER}}
cache: {entries: 1Ki, idle: 1s, active: 1s}
export: ['udp://10.9.0.1:2055?version=9', 'udp://10.9.0.1:2056?version=9']
`
	config := func(filter, protect string) string {
		return strings.Replace(conf, "FILTER", filter, 1) + "acl: {file: LISTS, protect: " + protect + "}"
	}
	j := startJudged(t, l.b, "xdp", config("", "on"), open4)
	ssh, web := connect(t, l.a, "10.9.0.2:22", 5*time.Second), connect(t, l.a, "10.9.0.2:80", 5*time.Second)
	if ssh == nil || web == nil || !echoes(ssh, 5*time.Second) || !echoes(web, 5*time.Second) {
		t.Fatal("with all permitted there is no session")
	}
	// exported waits for datagrams that leave while lists deny everything.
	exported := func(how string) {
		t.Helper()
		before := [2]int64{exports[0].Load(), exports[1].Load()}
		f := udp4("10.9.0.1", "10.9.0.2", 1, 9, 10)
		out := newSender(t, l.a, "va")
		until(t, 10*time.Second, how+": exports leave", func() bool {
			out.send(t, f.octets)
			return exports[0].Load() > before[0]+1 && exports[1].Load() > before[1]+1
		})
	}

	j.apply(t, closed4, "--now")
	if !echoes(ssh, 5*time.Second) {
		t.Error("a session to port 22 was cut off by a list that denies everything")
	}
	if echoes(web, patience) {
		t.Error("another session goes on under a list that denies everything")
	}
	if c := connect(t, l.a, "10.9.0.2:22", patience); c != nil {
		t.Error("a new session begins under a list that denies everything")
	}
	exported("protected")
	if got := j.hits(t)["ipv4 IN protected"]; got.Packets == 0 {
		t.Error("nothing is shown to have been protected")
	}
	// Who may is found out by asking: neighbours are no matter for lists of IP.
	must(t, l.b, "ip", "neigh", "del", "10.9.0.1", "dev", "vb")
	must(t, l.b, "ip", "neigh", "flush", "dev", "vb")
	if !echoes(ssh, 5*time.Second) {
		t.Error("ARP does not work under a list that denies everything")
	}

	// Of the exports one is metered and one is not: both pass.
	j.configure(t, config(", filter: not port 2055", "off"))
	j.hangUp(t, true)
	if echoes(ssh, patience) {
		t.Error("protect: off, and the session goes on")
	}
	exported("not protected")
	if got := j.hits(t)["ipv4 IN protected"]; got.Packets != 0 {
		t.Errorf("protect: off, and %+v are protected", got)
	}

	// Permitted again, all goes on: nothing of what was said is left behind.
	j.write(t, open4)
	j.hangUp(t, true)
	if c := connect(t, l.a, "10.9.0.2:80", 5*time.Second); c == nil || !echoes(c, 5*time.Second) {
		t.Error("permitted again, and no session begins")
	}
	j.stop(t)
}
