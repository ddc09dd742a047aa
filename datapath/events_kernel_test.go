package datapath

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weir/acl"
	"weir/cache"
	"weir/flow"
	"weir/hook"
	"weir/host"
	"weir/test/kernel"
)

// guardEnv makes a process of the test binary filter at interface vb until its input
// ends: it says in which mode. The lists are in guardLists. Everything it says is JSON.
const guardEnv, guardLists = "WEIR_TEST_GUARD", "WEIR_TEST_GUARD_LISTS"

func init() {
	mode := os.Getenv(guardEnv)
	if mode == "" {
		return
	}
	if err := standGuard(hook.Mode(mode), os.Getenv(guardLists)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// guardAccount is the last that a guard says.
type guardAccount struct {
	Losses []flow.Loss
	Rules  map[string]uint64 // packets by rule
}

func standGuard(mode hook.Mode, lists string) error {
	policy, err := acl.ReadCisco("lists", []byte(lists))
	if err != nil {
		return err
	}
	all, err := host.Interfaces()
	if err != nil {
		return err
	}
	vb, err := host.Find(all, []string{"vb"})
	if err != nil {
		return err
	}
	d, _, err := Open(Options{
		Interfaces: []Interface{{Interface: vb[0], Want: mode}}, Policy: policy, Filter: FilterOptions{LogEvery: 2 * time.Second},
		Cache: cache.Config{Entries: 1 << 12, Idle: 15 * time.Second, Active: time.Minute, TCPEnd: time.Second},
		Log:   slog.New(slog.NewJSONHandler(os.Stdout, nil)),
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx, discard{}) }()
	time.Sleep(300 * time.Millisecond) // the readers are there
	fmt.Println(`{"msg":"ready"}`)
	io.Copy(io.Discard, os.Stdin)
	state, err := d.FilterState()
	if err != nil {
		return err
	}
	cancel()
	if err := <-ended; err != nil {
		return err
	}
	last := guardAccount{d.Losses(), map[string]uint64{}}
	for _, l := range state.Lists {
		for _, r := range l.Rules {
			last.Rules[fmt.Sprint(l.List.Name, " ", r.Rule.Seq)] = r.Packets
		}
	}
	if err := d.Close(); err != nil {
		return err
	}
	if err := hook.DetachAll(hook.Options{}); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{"msg": "end", "account": last})
}

// street is two namespaces with a veth pair between them, va and vb, with 10.9.0.1 and
// 10.9.0.2, fd09::1 and fd09::2.
type street struct{ a, b string }

func newStreet(t testing.TB) street {
	t.Helper()
	kernel.Programs(t)
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("not tried: no ip command")
	}
	ip := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	s := street{fmt.Sprintf("weirevents-%d-a", os.Getpid()), fmt.Sprintf("weirevents-%d-b", os.Getpid())}
	for _, ns := range []string{s.a, s.b} {
		if out, err := exec.Command("ip", "netns", "add", ns).CombinedOutput(); err != nil {
			t.Skipf("not tried: no network namespace: %v: %s", err, out)
		}
		t.Cleanup(func() { exec.Command("ip", "netns", "del", ns).Run() })
	}
	ip("link", "add", "va", "netns", s.a, "type", "veth", "peer", "name", "vb", "netns", s.b)
	for _, end := range []struct{ ns, name, host string }{{s.a, "va", "1"}, {s.b, "vb", "2"}} {
		ip("-n", end.ns, "link", "set", "lo", "up")
		ip("-n", end.ns, "link", "set", end.name, "address", "02:00:00:00:00:0"+end.host, "up")
		ip("-n", end.ns, "addr", "add", "10.9.0."+end.host+"/24", "dev", end.name)
		ip("-n", end.ns, "addr", "add", "fd09::"+end.host+"/64", "dev", end.name, "nodad")
	}
	return s
}

// within runs f on a thread in a namespace.
func (s street) within(t testing.TB, ns string, f func()) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		fd, err := os.Open("/run/netns/" + ns)
		if err == nil {
			err = unix.Setns(int(fd.Fd()), unix.CLONE_NEWNET)
			fd.Close()
		}
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// guarded starts a guard; stop ends it and gives what it has said.
func (s street) guarded(t testing.TB, mode, lists string) (stop func() (lines []map[string]any, last guardAccount)) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command("ip", "netns", "exec", s.b, self)
	c.Env = append(os.Environ(), guardEnv+"="+mode, guardLists+"="+lists)
	c.Stderr = os.Stderr
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var all []map[string]any
	var last guardAccount
	ready, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for r := bufio.NewScanner(out); r.Scan(); {
			var l map[string]any
			if json.Unmarshal(r.Bytes(), &l) != nil {
				continue
			}
			mu.Lock()
			all = append(all, l)
			mu.Unlock()
			switch l["msg"] {
			case "ready":
				close(ready)
			case "end":
				var e struct{ Account guardAccount }
				if json.Unmarshal(r.Bytes(), &e) == nil {
					last = e.Account
				}
			}
		}
	}()
	var once sync.Once
	end := func() {
		once.Do(func() {
			in.Close()
			select {
			case <-ended:
			case <-time.After(20 * time.Second):
				c.Process.Kill()
				<-ended
			}
			if err := c.Wait(); err != nil {
				t.Errorf("the guard: %v", err)
			}
		})
	}
	t.Cleanup(end)
	select {
	case <-ready:
	case <-ended:
		t.Fatalf("the guard has ended: %v", all)
	case <-time.After(30 * time.Second):
		t.Fatal("the guard is not ready")
	}
	return func() ([]map[string]any, guardAccount) {
		end()
		return all, last
	}
}

const guardedLists = `
ip access-list extended IN4
 10 reject tcp any any eq 81 log-input
 15 reject tcp any any eq 83 psh log
 20 reject udp any any eq 53 log
 30 permit udp any any eq 7000 log
 40 deny tcp any any eq 82 log
 50 permit ip any any
ip access-list extended OUT4
 10 reject tcp any any eq 90 log
 20 permit ip any any
ipv6 access-list IN6
 10 reject tcp any any eq 81 log
 20 reject udp any any eq 53 log
 30 permit ipv6 any any
interface vb
 ip access-group IN4 in
 ip access-group OUT4 out
 ipv6 traffic-filter IN6 in
`

// Who is rejected learns it at once, by the error that a host of the Internet gives;
// who is denied does not. A flood is answered now and then. The log has the first
// packet of each flow, and of all of them the sum.
func TestKernelTells(t *testing.T) {
	s := newStreet(t)
	for _, mode := range []string{"xdp", "tc"} {
		t.Run(mode, func(t *testing.T) {
			stop := s.guarded(t, mode, guardedLists)
			sent := map[string]int{} // by rule
			refused := func(ns, network, addr, rule string, want error) {
				t.Helper()
				time.Sleep(5 * time.Millisecond) // a CPU tells of eight packets a tick
				s.within(t, ns, func() {
					c, err := (&net.Dialer{Timeout: 5 * time.Second}).Dial(network, addr)
					if err == nil {
						defer c.Close()
						c.SetDeadline(time.Now().Add(5 * time.Second))
						if _, err = c.Write([]byte("hello")); err == nil {
							_, err = c.Read(make([]byte, 1))
						}
					}
					if !errors.Is(err, want) {
						t.Errorf("%s %s: %v; want %v", network, addr, err, want)
					}
					sent[rule]++ // were the first not answered, there would be more
				})
			}
			for range 3 {
				refused(s.a, "tcp", "10.9.0.2:81", "IN4 10", syscall.ECONNREFUSED)
				refused(s.a, "udp", "10.9.0.2:53", "IN4 20", syscall.EHOSTUNREACH)
				refused(s.a, "tcp", "[fd09::2]:81", "IN6 10", syscall.ECONNREFUSED)
				refused(s.a, "udp", "[fd09::2]:53", "IN6 20", syscall.EACCES)
				refused(s.b, "tcp", "10.9.0.1:90", "OUT4 10", syscall.ECONNREFUSED)
			}
			s.within(t, s.a, func() {
				if _, err := net.DialTimeout("tcp", "10.9.0.2:82", 300*time.Millisecond); err == nil || !err.(net.Error).Timeout() {
					t.Errorf("denied: %v", err)
				}
				sent["IN4 40"]++
			})
			write := func(addr string, packets int) (n int) {
				s.within(t, s.a, func() {
					c, err := net.Dial("udp", addr)
					if err != nil {
						t.Error(err)
						return
					}
					defer c.Close()
					for n < packets {
						if _, err := c.Write([]byte("hello")); err == nil { // else it is an answer's
							n++
						}
					}
				})
				return n
			}
			s.within(t, s.b, func() {
				u, err := net.ListenPacket("udp4", "10.9.0.2:7000")
				if err != nil {
					t.Error(err)
					return
				}
				t.Cleanup(func() { u.Close() })
				l, err := net.Listen("tcp4", "10.9.0.2:83") // nobody accepts: the kernel does
				if err != nil {
					t.Error(err)
					return
				}
				t.Cleanup(func() { l.Close() })
			})
			refused(s.a, "tcp", "10.9.0.2:83", "IN4 15", syscall.ECONNRESET) // amid a connection
			sent["IN4 30"] += write("10.9.0.2:7000", 40)

			before, began := s.unreachable(t), time.Now()
			sent["IN4 20"] += write("10.9.0.2:53", 100000)
			time.Sleep(200 * time.Millisecond)
			answers := s.unreachable(t) - before
			took := time.Since(began)
			if most := answersEach + int(took.Seconds()*answersEach) + 1; answers < 1 || answers > most {
				t.Errorf("%d answers to a flood of %v, want at most %d", answers, took, most)
			}
			t.Logf("a flood of %v, %d answers", took, answers)
			time.Sleep(2500 * time.Millisecond) // sums come once while it runs

			lines, last := stop()
			told, first := map[string]int{}, map[string]map[string]any{}
			for _, l := range lines {
				if l["msg"] != "access list" {
					continue
				}
				rule := fmt.Sprintf("%v %v", l["list"], l["seq"])
				if first[rule] == nil {
					first[rule] = l
				}
				told[rule] += int(l["packets"].(float64))
			}
			for rule, n := range sent {
				if told[rule] != n || last.Rules[rule] != uint64(n) {
					t.Errorf("%s: lines tell of %d packets, its counter of %d, %d were sent", rule, told[rule], last.Rules[rule], n)
				}
			}
			for rule, want := range map[string]map[string]any{
				"IN4 10":  {"rule": "reject tcp any any eq 81 log-input", "action": "reject", "proto": "tcp", "src": "10.9.0.1", "dst": "10.9.0.2", "dport": 81., "interface": "vb", "direction": "in", "packets": 1., "input": "vb", "mac": "02:00:00:00:00:01"},
				"IN4 30":  {"action": "permit", "proto": "udp", "dport": 7000., "packets": 1.},
				"IN6 20":  {"action": "reject", "proto": "udp", "src": "fd09::1", "dst": "fd09::2", "packets": 1.},
				"OUT4 10": {"action": "reject", "src": "10.9.0.2", "direction": "out", "interface": "vb"},
			} {
				for k, v := range want {
					if got := first[rule][k]; got != v {
						t.Errorf("%s: %s is %v, want %v", rule, k, got, v)
					}
				}
			}
			lost := map[string]uint64{}
			for _, l := range last.Losses {
				if l.Stage == "acl" {
					lost[l.Reason] = l.Packets
				}
			}
			// Each rejected packet was answered, or not, or not told of.
			rejected := uint64(sent["IN4 10"] + sent["IN4 15"] + sent["IN4 20"] + sent["IN6 10"] + sent["IN6 20"] + sent["OUT4 10"])
			if sum := lost["untold"] + lost["unanswered"] + uint64(answers) + 16; sum != rejected {
				t.Errorf("of %d rejected packets %d were answered, %d not, %d not told of", rejected, answers+16, lost["unanswered"], lost["untold"])
			}
		})
	}
}

// unreachable is how often va's namespace was told that something is not to be reached.
func (s street) unreachable(t testing.TB) int {
	t.Helper()
	out, err := exec.Command("ip", "netns", "exec", s.a, "cat", "/proc/net/snmp").Output()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range strings.Split(string(out), "\n") {
		f := strings.Fields(l)
		if len(f) == 0 || f[0] != "Icmp:" {
			continue
		}
		if names == nil {
			names = f
			continue
		}
		for i, n := range names {
			if n == "InDestUnreachs" {
				v, err := strconv.Atoi(f[i])
				if err != nil {
					t.Fatal(err)
				}
				return v
			}
		}
	}
	t.Fatal("no counters of ICMP")
	return 0
}
