package system

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"weir/test/kernel"
)

// tagged is n frames with none to three VLAN tags of several kinds.
func tagged(n int, r *rand.Rand) (frames []frame) {
	for range n {
		var tags []uint16
		for range r.IntN(4) {
			tags = append(tags, uint16(r.IntN(8))<<13|uint16([]int{0, 1, 100, 4094, 4095}[r.IntN(5)]))
		}
		f := udp4("10.7.0.1", "10.8.0.2", uint16(100+r.IntN(3)), 200, r.IntN(1000), tags...)
		if r.IntN(2) == 0 {
			p := ipv6("2001:db8::7", "2001:db8::8", 6, 0x10, tcp(uint16(100+r.IntN(3)), 443, 16, r.IntN(1000)))
			f = frame{ethernet(0x86dd, p, tags...), flowKey("2001:db8::7", "2001:db8::8", 6, int(be.Uint16(p[40:])), 443, 0x10, vlanText(tags)), uint64(len(p)), ""}
		}
		if len(tags) > 1 && r.IntN(2) == 0 {
			be.PutUint16(f.octets[12:], 0x88a8) // 802.1ad, the provider's
		}
		frames = append(frames, f)
	}
	return frames
}

// What is sent is what is metered, to the packet and the octet, whatever it is
// and however often flows expire meanwhile; what makes no flow is told by
// reason; what came just before the end is in.
// However it is metered, by packet sockets or in the kernel, in and out.
func TestLiveIsExact(t *testing.T) {
	kernel.Programs(t)
	t.Parallel()
	for _, mode := range allModes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			l := newLine(t, false)
			out, back := newSender(t, l.a, "va"), newSender(t, l.b, "vb")
			p := meterStart(t, l.b, mode, "vb", "-o", "csv", "--summary", "--idle", "1s", "--active", "2s", "--cache", "64Ki")
			r := rand.New(rand.NewPCG(11, 12))
			frames := append(mixed(19_000, r), tagged(1_000, r)...)
			r.Shuffle(len(frames), func(i, j int) { frames[i], frames[j] = frames[j], frames[i] })
			for part := range 4 {
				some := frames[part*5_000 : (part+1)*5_000]
				out.send(t, octets(some[:4000])...)
				back.send(t, octets(some[4000:])...)
				time.Sleep(time.Duration(part%3) * 700 * time.Millisecond) // some flows expire between, some do not
			}
			settle()
			p.stop(t)
			index := indexOf(t, l.b, "vb")
			want := map[flowAt]count{}
			for part := range 4 {
				some := frames[part*5_000 : (part+1)*5_000]
				expect(some[:4000]).seenAt(want, "0", index, "")
				expect(some[4000:]).seenAt(want, "1", "", index)
			}
			all := account(t, p, expect(frames))
			samePoints(t, byPoint(t, all), want)
			if mode == "afpacket" {
				if left := pins(t, l.b); len(left) > 0 {
					t.Errorf("pins: %v", left)
				}
				return
			}
			hooks := map[string]string{"xdp": "egress xdp", "tc": "egress ingress", "clsact": "clsact egress ingress"}[mode]
			if got := points(t, l.b, index); got != hooks {
				t.Errorf("hooks %q, want %q", got, hooks)
			}
			link := must(t, l.b, "ip", "-d", "link", "show", "dev", "vb").stdout
			if has := strings.Contains(link, "xdp"); has != (mode == "xdp") {
				t.Errorf("an XDP program: %v: %s", has, link)
			}
			if filters := must(t, l.b, "tc", "filter", "show", "dev", "vb", "egress").stdout; strings.Contains(filters, "weir") != (mode == "clsact") {
				t.Errorf("egress filters: %q", filters)
			}
			detach(t, l.b)
			if link := must(t, l.b, "ip", "-d", "link", "show", "dev", "vb").stdout; strings.Contains(link, "xdp") {
				t.Errorf("after --detach: %s", link)
			}
			if q := must(t, l.b, "tc", "qdisc", "show", "dev", "vb").stdout; strings.Contains(q, "clsact") {
				t.Errorf("after --detach: %s", q)
			}
		})
	}
}

// auto takes the best there is and says why; what was asked for and cannot be
// had is an error that says why, and what to do.
func TestModeChosen(t *testing.T) {
	kernel.Programs(t)
	t.Parallel()
	ns := newLine(t, false).b
	without := func(what string, args ...string) []string {
		return append([]string{"env", "WEIR_WITHOUT=" + what, weir, "meter"}, args...)
	}
	oneLine(t, do(t, ns, without("", "-i", "lo", "--mode", "xdp")...), 1, "lo", "no XDP", "--mode tc")
	oneLine(t, do(t, ns, without("xdp", "-i", "vb", "--mode", "xdp")...), 1, "vb", "XDP", "option", "--mode tc")
	oneLine(t, do(t, ns, without("bpf", "-i", "vb", "--mode", "tc")...), 1, "vb", "eBPF", "--mode afpacket")
	oneLine(t, do(t, ns, without("", "-i", "vb", "--mode", "native")...), 2, "native", "auto, xdp, tc, afpacket")
	if left := pins(t, ns); len(left) > 0 {
		t.Errorf("refused, and left behind: %v", left)
	}
	for _, c := range []struct{ without, interfaces, want string }{
		{"", "vb", `interface=vb mode=xdp why="native, driver veth"`},
		{"xdp", "vb", `interface=vb mode=tc why="XDP is switched off by option"`},
		{"xdp tcx", "vb", `interface=vb mode=tc why="XDP is switched off by option"`},
		{"bpf", "vb", `interface=vb mode=afpacket why="eBPF is switched off by option"`},
		{"", "lo", `interface=lo mode=tc why="lo has no XDP"`},
	} {
		p := start(t, ns, without(c.without, "-i", c.interfaces, "--cache", "1Ki", "-o", "csv")...)
		metering(t, p, ns, "auto", 1)
		if log := p.stderr.String(); !strings.Contains(log, c.want) {
			t.Errorf("without %q: %s, want %s", c.without, log, c.want)
		}
		p.stop(t)
		if c.without == "bpf" {
			if !strings.Contains(p.stderr.String(), "programs of an earlier weir still count here") {
				t.Errorf("it does not say that programs are still there: %s", p.stderr.String())
			}
		} else if links(t, ns) == nil {
			t.Errorf("without %q: nothing is pinned", c.without)
		}
	}
	detach(t, ns)
	// Two, of which one cannot be had: nothing is left of the other.
	oneLine(t, do(t, ns, without("", "-i", "vb", "-i", "lo", "--mode", "xdp")...), 1, "lo", "no XDP")
	if left := pins(t, ns); len(left) > 0 {
		t.Errorf("refused, and left behind: %v", left)
	}
}

// passing is a program that lets everything pass.
func passing(t testing.TB, name string, kind ebpf.ProgramType, verdict int32) *ebpf.Program {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: name, Type: kind, License: "MIT",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, verdict), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// Programs of others stay where they are, are named, and go on after weir.
func TestModeForeign(t *testing.T) {
	kernel.Programs(t)
	t.Parallel()
	l := newLine(t, false)
	xdp, tcx := passing(t, "lb_xdp", ebpf.XDP, 2), passing(t, "fw_tcx", ebpf.SchedCLS, -1)
	id := func(p *ebpf.Program) string {
		info, err := p.Info()
		if err != nil {
			t.Fatal(err)
		}
		n, _ := info.ID()
		return fmt.Sprint(n)
	}
	var held []link.Link
	within(t, l.b, func() error {
		ifc, err := net.InterfaceByName("vb")
		if err != nil {
			return err
		}
		k, err := link.AttachXDP(link.XDPOptions{Program: xdp, Interface: ifc.Index})
		if err != nil {
			return err
		}
		held = append(held, k)
		k, err = link.AttachTCX(link.TCXOptions{Program: tcx, Interface: ifc.Index, Attach: ebpf.AttachTCXEgress})
		if err != nil {
			t.Logf("left out: a program of others at TCX: %v", err)
			return nil
		}
		held = append(held, k)
		return nil
	})
	defer func() {
		for _, k := range held {
			k.Close()
		}
	}()
	oneLine(t, do(t, l.b, weir, "meter", "-i", "vb", "--mode", "xdp"), 1, "vb", "XDP program lb_xdp (id "+id(xdp), "is there already", "--mode tc")
	p := start(t, l.b, weir, "meter", "-i", "vb", "--cache", "1Ki", "-o", "csv", "--summary")
	metering(t, p, l.b, "auto", 1)
	want := []string{"mode=tc", "XDP program lb_xdp (id " + id(xdp), "is there already"}
	if len(held) > 1 {
		want = append(want, "TC egress program fw_tcx (id "+id(tcx))
	}
	for _, w := range want {
		if !strings.Contains(p.stderr.String(), w) {
			t.Errorf("it does not say %q: %s", w, p.stderr.String())
		}
	}
	frames := everyKind()
	newSender(t, l.a, "va").send(t, octets(frames)...)
	newSender(t, l.b, "vb").send(t, octets(frames)...)
	settle()
	p.stop(t)
	account(t, p, expect(append(frames, frames...)))
	detach(t, l.b)
	for _, k := range held {
		info, err := k.Info()
		if err != nil {
			t.Fatal(err)
		}
		if x := info.XDP(); x != nil && x.Ifindex == 0 {
			t.Error("the other's XDP program is gone")
		}
		if x := info.TCX(); x != nil && x.Ifindex == 0 {
			t.Error("the other's TCX program is gone")
		}
	}
}

// What lo sends it also receives: one packet, counted once.
func TestModeLoopback(t *testing.T) {
	kernel.Programs(t)
	t.Parallel()
	for _, mode := range []string{"tc", "clsact"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			ns := namespace(t)
			p := meterStart(t, ns, mode, "lo", "-o", "csv", "--summary", "--cache", "1Ki")
			var c net.Conn
			within(t, ns, func() error {
				sink, err := net.ListenPacket("udp4", "127.0.0.1:7777")
				if err != nil {
					return err
				}
				t.Cleanup(func() { sink.Close() })
				c, err = net.Dial("udp4", "127.0.0.1:7777")
				return err
			})
			defer c.Close()
			for range 500 {
				c.Write(make([]byte, 100))
			}
			settle()
			p.stop(t)
			all := parseCSV(t, p.stdout.String())
			if len(all) != 1 || all.sum(t) != (count{500, 500 * 128}) || all[0]["direction"] != "0" || all[0]["input"] != "1" {
				t.Errorf("500 packets of 128 octets are %v", all)
			}
			detach(t, ns)
		})
	}
}

// tunnel is a tun interface whose other end is a file.
type tunnel struct {
	name string
	fd   int
}

func newTunnel(t testing.TB, ns, name string) tunnel {
	t.Helper()
	d := tunnel{name, -1}
	within(t, ns, func() (err error) {
		if d.fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
			return err
		}
		var r [40]byte
		copy(r[:15], name)
		*(*uint16)(unsafe.Pointer(&r[16])) = unix.IFF_TUN | unix.IFF_NO_PI
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(d.fd), unix.TUNSETIFF, uintptr(unsafe.Pointer(&r))); errno != 0 {
			return errno
		}
		return nil
	})
	t.Cleanup(func() { unix.Close(d.fd) })
	must(t, ns, "ip", "link", "set", name, "up")
	return d
}

// Frames of a tun interface start with the IP header; both versions are metered,
// in and out.
func TestModeTun(t *testing.T) {
	kernel.Programs(t)
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skipf("skipped: no tun interfaces: %v", err)
	}
	t.Parallel()
	for _, mode := range []string{"auto", "clsact", "afpacket"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			ns := namespace(t)
			tun := newTunnel(t, ns, "tun7")
			p := meterStart(t, ns, mode, "tun7", "-o", "csv", "--summary", "--cache", "1Ki")
			if log := p.stderr.String(); mode == "auto" && !strings.Contains(log, `mode=tc why="tun has no Ethernet header`) {
				t.Errorf("auto: %s", log)
			}
			var in, out []frame
			r := rand.New(rand.NewPCG(8, 9))
			for i := range 2000 {
				f := udp4("10.5.0.2", "10.5.0.1", uint16(1000+i%7), 53, r.IntN(1000))
				if i%3 == 0 {
					b := ipv6("2001:db8::1", "2001:db8::2", 6, 0x20, tcp(443, uint16(1000+i%7), 0x18, r.IntN(1000)))
					f = frame{ethernet(0x86dd, b), flowKey("2001:db8::1", "2001:db8::2", 6, 443, 1000+i%7, 0x20, ""), uint64(len(b)), ""}
				}
				f.octets = f.octets[14:]
				if i%2 == 0 {
					in = append(in, f)
				} else {
					out = append(out, f)
				}
			}
			for _, f := range in {
				if _, err := unix.Write(tun.fd, f.octets); err != nil {
					t.Fatal(err)
				}
			}
			newSender(t, ns, "tun7").send(t, octets(out)...)
			settle()
			p.stop(t)
			want := map[flowAt]count{}
			expect(in).seenAt(want, "0", indexOf(t, ns, "tun7"), "")
			expect(out).seenAt(want, "1", "", indexOf(t, ns, "tun7"))
			samePoints(t, byPoint(t, account(t, p, expect(append(in, out...)))), want)
			if mode != "afpacket" {
				detach(t, ns)
			}
		})
	}
	oneLine(t, do(t, func() string { ns := namespace(t); newTunnel(t, ns, "tun8"); return ns }(), weir, "meter", "-i", "tun8", "--mode", "xdp"), 1, "tun8", "no Ethernet header", "--mode tc")
}
