package collect

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weir/flow"
)

// alone moves the calling goroutine's thread into a network namespace of its
// own, with nothing but a loopback; children and sockets made here are in it.
// The thread ends with the goroutine. Without the privilege, the machine's
// loopback has to do.
func alone(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the thread is not fit for others
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Logf("no namespace of our own (%v): on this machine's loopback", err)
		return
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		t.Fatal(err)
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		t.Fatalf("loopback up: %v", err)
	}
}

type tuple struct {
	src, dst     netip.Addr
	proto        uint8
	sport, dport uint16
}

type counters struct{ packets, bytes uint64 }

// flowsOf reads a capture's table of flows, those of IPv4 alone if asked for.
func flowsOf(t *testing.T, capture string, only4 bool) map[tuple]counters {
	t.Helper()
	rows := table(t, filepath.Join(filepath.Dir(exports(t)), "packets", capture+".flows.csv"))
	if len(rows) == 0 {
		t.Fatal("no table of flows")
	}
	want := map[tuple]counters{}
	for _, r := range rows {
		k := tuple{src: netip.MustParseAddr(r["src"]), dst: netip.MustParseAddr(r["dst"])}
		num := func(name string) uint64 {
			v, err := strconv.ParseUint(r[name], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
		k.proto, k.sport, k.dport = uint8(num("proto")), uint16(num("src_port")), uint16(num("dst_port"))
		if only4 && k.src.Is6() {
			continue
		}
		n := want[k]
		want[k] = counters{n.packets + num("packets"), n.bytes + num("bytes")}
	}
	return want
}

// sameFlows fails unless the records sum up to the flows. The other direction of
// a biflow (RFC 5103) is in its elements.
func sameFlows(t *testing.T, records []flow.Record, want map[tuple]counters) {
	t.Helper()
	got := map[tuple]counters{}
	add := func(k tuple, packets, bytes uint64) {
		if n := got[k]; packets > 0 {
			got[k] = counters{n.packets + packets, n.bytes + bytes}
		}
	}
	for _, r := range records {
		k := tuple{r.Src.Netip(), r.Dst.Netip(), r.Proto, r.SrcPort, r.DstPort}
		add(k, r.Packets, r.Bytes)
		if r.Has&(flow.HasFirst|flow.HasLast) != flow.HasFirst|flow.HasLast || r.Last < r.First {
			t.Errorf("times of %v: %+v", k, r)
		}
		var reverse struct{ ReversePacketDeltaCount, ReverseOctetDeltaCount uint64 }
		if len(r.Elements) > 0 {
			if err := json.Unmarshal(r.Elements, &reverse); err != nil {
				t.Fatal(err)
			}
		}
		add(tuple{k.dst, k.src, k.proto, k.dport, k.sport}, reverse.ReversePacketDeltaCount, reverse.ReverseOctetDeltaCount)
	}
	for k, w := range want {
		if got[k] != w {
			t.Errorf("%v: %+v, want %+v", k, got[k], w)
		}
		delete(got, k)
	}
	for k, g := range got {
		t.Errorf("%v: %+v, not in the capture", k, g)
	}
}

// withoutICMP makes one flow of ICMP's types: who has none where the destination
// port is, or one for both directions, is compared so.
func withoutICMP(flows map[tuple]counters, records []flow.Record) map[tuple]counters {
	is := func(proto uint8) bool { return proto == flow.ProtoICMP || proto == flow.ProtoICMPv6 }
	all := map[tuple]counters{}
	for k, n := range flows {
		if is(k.proto) {
			k.dport = 0
		}
		all[k] = counters{all[k].packets + n.packets, all[k].bytes + n.bytes}
	}
	for i := range records {
		if r := &records[i]; is(r.Proto) {
			r.SrcPort, r.DstPort = 0, 0
		}
	}
	return all
}

// wellReceived fails if anything was lost, came twice or out of order, or came in
// another version.
func wellReceived(t *testing.T, col *Collector, version uint8) {
	t.Helper()
	for _, l := range col.Losses() {
		if l.Records+l.Datagrams != 0 {
			t.Errorf("lost: %+v", l)
		}
	}
	for _, e := range col.Exporters() {
		if e.Version != version || e.Sequence.Restarts+e.Sequence.Duplicates+e.Sequence.Reordered+e.Sequence.Missing+e.Samples.Restarts+e.Samples.Reordered != 0 {
			t.Errorf("%+v", e)
		}
	}
}

// peer finds a program of another project, or skips the test, saying so.
func peer(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("skipped: %s is not installed", name)
	}
	return path
}

// long skips tests that wait for others' timers.
func long(t *testing.T) {
	t.Helper()
	if os.Getenv("WEIR_INTEROP") == "" {
		t.Skip("skipped: it takes a while (make interop)")
	}
}

const mixed = "ipfixprobe_mixed" // IPv4 and IPv6, UDP, TCP and ICMP

// TestSoftflowd: softflowd meters a capture of the corpus and exports it to a
// collector; the flows that arrive are those of the capture's table.
func TestSoftflowd(t *testing.T) {
	softflowd := peer(t, "softflowd")
	packets := filepath.Join(filepath.Dir(exports(t)), "packets")
	for _, c := range []struct {
		version, transport string
		more               []string
	}{
		{"1", "udp", nil},
		{"5", "udp", nil},
		{"9", "udp", nil},
		{"10", "udp", nil},
		{"10", "tcp", nil},
		{"10", "udp", []string{"-b"}},
		{"10", "udp", []string{"-A", "milli"}},
	} {
		t.Run(strings.Join(append([]string{"v" + c.version, "over", c.transport}, c.more...), " "), func(t *testing.T) {
			alone(t)
			want := flowsOf(t, mixed, c.version == "1" || c.version == "5") // which have no IPv6
			sink := &memory{}
			col, stop := start(t, Options{Listen: []string{c.transport + "://127.0.0.1:0"}, Sink: sink, Loops: 2})
			args := []string{
				"-r", filepath.Join(packets, mixed+".pcap"), "-n", col.Addrs()[0].String(), "-v", c.version, "-d",
				"-p", filepath.Join(t.TempDir(), "pid"), "-c", "none", "-P", c.transport,
			}
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			cmd := exec.CommandContext(ctx, softflowd, append(args, c.more...)...)
			cmd.Env = append(os.Environ(), "TZ=UTC")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("softflowd: %v\n%s", err, out)
			}
			if err := stop(); err != nil { // drains
				t.Fatal(err)
			}
			if slices.Contains(c.more, "-b") {
				want = withoutICMP(want, sink.records)
			}
			sameFlows(t, sink.records, want)
			version, _ := strconv.Atoi(c.version)
			wellReceived(t, col, uint8(version))
			if c.version == "10" && len(col.Exporters()) > 0 && col.Exporters()[0].Started.IsZero() && c.transport == "udp" {
				t.Error("the exporter's start, which its options tell, is not known")
			}
		})
	}
}

// TestPmacctd: pmacctd's nfprobe and sfprobe, as softflowd above. sfprobe samples
// every packet here, one flow record each, but ends without sending the samples of
// its last datagram.
func TestPmacctd(t *testing.T) {
	long(t)
	pmacctd := peer(t, "pmacctd")
	for _, c := range []struct {
		plugin, version string
		is              uint8
	}{{"nfprobe", "5", 5}, {"nfprobe", "9", 9}, {"nfprobe", "10", 10}, {"sfprobe", "", flow.VersionSFlow}} {
		t.Run(c.plugin+c.version, func(t *testing.T) {
			alone(t)
			sink := &memory{}
			col, stop := start(t, Options{Listen: []string{"udp://127.0.0.1:0"}, Sink: sink, Loops: 1})
			conf := "pcap_savefile: " + filepath.Join(filepath.Dir(exports(t)), "packets", mixed+".pcap") + "\n" +
				"plugins: " + c.plugin + "\n" + c.plugin + "_receiver: " + col.Addrs()[0].String() + "\n"
			if c.plugin == "nfprobe" {
				conf += "nfprobe_version: " + c.version + "\naggregate: src_host, dst_host, src_port, dst_port, proto, tos\n"
			} else {
				conf += "sampling_rate: 1\nsfprobe_agentip: 192.0.2.1\n"
			}
			name := filepath.Join(t.TempDir(), "pmacctd.conf")
			if err := os.WriteFile(name, []byte(conf), 0o600); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
			defer cancel()
			if out, err := exec.CommandContext(ctx, pmacctd, "-f", name).CombinedOutput(); err != nil {
				t.Fatalf("pmacctd: %v\n%s", err, out)
			}
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			want := flowsOf(t, mixed, c.version == "5")
			if c.plugin == "sfprobe" {
				packets := uint64(0)
				for k, n := range want {
					packets += n.packets
					sent := counters{}
					for _, r := range sink.records {
						if k == (tuple{r.Src.Netip(), r.Dst.Netip(), r.Proto, r.SrcPort, r.DstPort}) {
							sent = counters{sent.packets + r.Packets, sent.bytes + r.Bytes}
						}
					}
					if sent.packets > n.packets || sent.packets == n.packets && sent.bytes != n.bytes {
						t.Errorf("%v: %+v, of %+v", k, sent, n)
					}
				}
				if got := uint64(len(sink.records)); got > packets || got < packets-16 {
					t.Errorf("%d samples of %d packets", got, packets)
				}
			} else {
				sameFlows(t, sink.records, want)
			}
			wellReceived(t, col, c.is)
		})
	}
}

// TestFprobe: fprobe meters IPv4 only.
func TestFprobe(t *testing.T) {
	long(t)
	fprobe := peer(t, "fprobe")
	for _, version := range []string{"1", "5", "7"} {
		t.Run("v"+version, func(t *testing.T) {
			alone(t)
			sink := &memory{}
			col, stop := start(t, Options{Listen: []string{"udp://127.0.0.1:0"}, Sink: sink, Loops: 1})
			in, err := os.Open(filepath.Join(filepath.Dir(exports(t)), "packets", mixed+".pcap"))
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
			defer cancel()
			cmd := exec.CommandContext(ctx, fprobe, "-i", "-", "-fip", "-n", version, "-l2", "-q", "10000", "-s", "1", "-d", "1", "-e", "2", col.Addrs()[0].String())
			cmd.Stdin = in
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("fprobe: %v\n%s", err, out)
			}
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			sameFlows(t, sink.records, withoutICMP(flowsOf(t, mixed, true), sink.records))
			v, _ := strconv.Atoi(version)
			wellReceived(t, col, uint8(v))
		})
	}
}

// TestOpenVSwitch: a bridge of Open vSwitch, in a process of its own with ports that
// are not of the kernel, is given packets; they arrive in NetFlow v5, IPFIX and
// sFlow, each once. Its NetFlow counts the octets of frames, 14 more than of IP.
func TestOpenVSwitch(t *testing.T) {
	long(t)
	server, vswitchd, vsctl, appctl := peer(t, "ovsdb-server"), peer(t, "ovs-vswitchd"), peer(t, "ovs-vsctl"), peer(t, "ovs-appctl")
	const schema = "/usr/share/openvswitch/vswitch.ovsschema"
	if _, err := os.Stat(schema); err != nil {
		t.Skipf("skipped: Open vSwitch's schema: %v", err)
	}
	for _, c := range []struct {
		name, table, settings string
		is                    uint8
	}{
		{"netflow", "NetFlow", "active_timeout=1 engine_type=7 engine_id=9", flow.VersionV5},
		{"ipfix", "IPFIX", "obs_domain_id=123 obs_point_id=456 sampling=1 cache_active_timeout=1 cache_max_flows=100", flow.VersionIPFIX},
		{"sflow", "sFlow", "agent=lo header=128 sampling=1 polling=1", flow.VersionSFlow},
	} {
		t.Run(c.name, func(t *testing.T) {
			alone(t)
			sink := &memory{}
			col, stop := start(t, Options{Listen: []string{"udp://127.0.0.1:0"}, Sink: sink, Loops: 1})
			dir, err := os.MkdirTemp("", "ovs") // short: the paths of sockets are bounded
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(dir)
			env := append(os.Environ(), "OVS_RUNDIR="+dir, "OVS_LOGDIR="+dir, "OVS_DBDIR="+dir, "OVS_SYSCONFDIR="+dir)
			ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
			defer cancel()
			do := func(name string, args ...string) string {
				t.Helper()
				cmd := exec.CommandContext(ctx, name, args...)
				cmd.Env = env
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Fatalf("%s %v: %v\n%s", name, args, err, out)
				}
				return string(out)
			}
			daemon := func(name string, args ...string) {
				t.Helper()
				cmd := exec.CommandContext(ctx, name, args...)
				cmd.Env = env
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
			}
			socket, db := filepath.Join(dir, "db.sock"), "unix:"+filepath.Join(dir, "db.sock")
			do("ovsdb-tool", "create", filepath.Join(dir, "conf.db"), schema)
			daemon(server, "--remote=punix:"+socket, "--log-file=/dev/null", "-vconsole:off", filepath.Join(dir, "conf.db"))
			for range 200 { // until it listens
				if _, err := os.Stat(socket); err == nil {
					break
				}
				time.Sleep(20 * time.Millisecond)
			}
			ctl := func(args ...string) {
				t.Helper()
				do(vsctl, append([]string{"--db=" + db, "--timeout=20"}, args...)...)
			}
			ctl("--no-wait", "init")
			control := filepath.Join(dir, "sw.ctl")
			daemon(vswitchd, "--enable-dummy", "--disable-system", "--log-file=/dev/null", "-vconsole:off", "--unixctl="+control, db)
			ctl("add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=dummy", "fail-mode=standalone",
				"--", "add-port", "br0", "p1", "--", "set", "Interface", "p1", "type=dummy", "ofport_request=1",
				"--", "add-port", "br0", "p2", "--", "set", "Interface", "p2", "type=dummy", "ofport_request=2")
			ctl(append([]string{
				"--", "set", "Bridge", "br0", c.name + "=@x", "--", "--id=@x", "create", c.table,
				"targets=\"" + col.Addrs()[0].String() + "\"",
			}, strings.Fields(c.settings)...)...)
			want := map[tuple]counters{}
			for i := range 12 {
				payload := make([]byte, 20+i)
				src := netip.AddrFrom4([4]byte{10, 0, 0, byte(1 + i%3)})
				f := append([]byte{0, 0, 0x5e, 0, 0x53, 2, 0, 0, 0x5e, 0, 0x53, 1, 8, 0}, checked(ip4(17, uint16(i), 0, false, udp(uint16(1000+i%3), 53, payload)), src)...)
				do(appctl, "-t", control, "netdev-dummy/receive", "p1", hex.EncodeToString(f))
				k := tuple{src, netip.AddrFrom4([4]byte(f[14+16:])), 17, uint16(1000 + i%3), 53}
				octets := uint64(len(f) - 14)
				if c.is == flow.VersionV5 {
					octets += 14
				}
				want[k] = counters{want[k].packets + 1, want[k].bytes + octets}
			}
			switch c.is {
			case flow.VersionV5:
				time.Sleep(2 * time.Second) // of its timer
				do(appctl, "-t", control, "revalidator/purge")
				time.Sleep(2 * time.Second)
			default:
				time.Sleep(2500 * time.Millisecond) // of its timers
			}
			ctl("clear", "Bridge", "br0", c.name)
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			records := sink.records
			if c.is == flow.VersionIPFIX { // each packet where it came in, and at each port where it left
				records = slices.DeleteFunc(records, func(r flow.Record) bool { return r.Direction == 1 })
			}
			sameFlows(t, slices.DeleteFunc(records, func(r flow.Record) bool { return r.Proto != 17 }), want)
			wellReceived(t, col, c.is)
		})
	}
}

// checked gives an IPv4 packet a source and a checksum.
func checked(p []byte, src netip.Addr) []byte {
	a := src.As4()
	copy(p[12:], a[:])
	p[10], p[11] = 0, 0
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(be.Uint16(p[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	be.PutUint16(p[10:], ^uint16(sum))
	return p
}
