package export

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"weir/flow"
)

// peer finds another project's program, or skips by its name.
func peer(t *testing.T, name string) string {
	t.Helper()
	if testing.Short() {
		t.Skipf("interoperation with %s is left out of -short", name)
	}
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed: its reading of our exports is not tested", name)
	}
	return path
}

// freePort is a UDP port of 127.0.0.1 that nobody has, now.
func freePort(t *testing.T) int {
	t.Helper()
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).Port
}

// interopForms are the destinations tried with each peer.
var interopForms = []string{
	"version=5", "version=9", "version=9&template=cisco", "version=9&template=full",
	"version=10", "version=10&template=cisco", "version=10&template=full",
	"version=9&template=minimal", "version=9&template=security", "version=10&template=minimal", "version=10&template=security",
	"version=9&fields=" + interopFields, "version=10&fields=" + interopFields, "version=1", "version=7",
}

const interopFields = "first,last,proto,src,dst,sport,dport,icmp,tos,tcp_flags,packets,bytes,input"

// interopRecords are flows of all kinds, at times of a capture of the past; v4
// only for v5.
func interopRecords(version string) []flow.Record {
	rng := rand.New(rand.NewPCG(10, 10))
	end := int64(1_750_000_000) * 1e9
	var list []flow.Record
	for i := range 3000 {
		end += rng.Int64N(40e6)
		r := plain(rng, end)
		r.TOS, r.EndReason = uint8(rng.Uint32()), flow.EndReason(1+i%5)
		r.Input, r.Output, r.Direction = uint32(1+i%70), uint32(2+i%3), uint8(i%2)
		r.Has |= flow.HasInput | flow.HasOutput | flow.HasDirection
		switch i % 500 {
		case 1:
			r.Packets, r.Bytes = 1<<33, 1<<43
		case 2:
			r.Packets, r.Bytes = 70_000, 1<<31
		case 3:
			r.SrcAS, r.DstAS, r.Has = 64500, 4_200_000_000, r.Has|flow.HasSrcAS|flow.HasDstAS
		case 4:
			r.ForwardingStatus, r.Rule, r.Has = 64, 12, r.Has|flow.HasForwardingStatus|flow.HasRule
		case 5:
			r.ForwardingStatus, r.DroppedPackets, r.DroppedBytes, r.Rule = 129, r.Packets, r.Bytes, uint16(100+i/500)
			r.Has |= flow.HasForwardingStatus | flow.HasDropped | flow.HasRule
		}
		if len(version) == len("version=5") && version != "version=9" && r.IPVersion == 6 {
			continue
		}
		if strings.Contains(version, "minimal") { // what is not sent is nothing
			r.TOS, r.TCPFlags = 0, 0
		}
		list = append(list, r)
	}
	return list
}

// someRules are rules of all numbers.
type someRules struct{}

func (someRules) Rule(number uint16) (list, rule string, ok bool) {
	return "WAN-IN", fmt.Sprintf("deny tcp any any eq %d", number), true
}

func (someRules) Changed() uint64 { return 0 }

// send exports to a port of this machine and waits until all is sent.
func send(t *testing.T, port int, form string, records []flow.Record, o Options) Stats {
	t.Helper()
	o.Destinations = []Destination{parse(t, fmt.Sprintf("udp://127.0.0.1:%d?%s", port, form))}
	o.Block, o.FollowRecords = true, true
	e, stop := running(t, o)
	for len(records) > 0 {
		n := min(len(records), 256)
		e.WriteRecords(records[:n])
		records = records[n:]
	}
	stop()
	return e.Stats()[0]
}

// line says of a flow what a collector must have got.
func line(src, sport, dst, dport, proto, tos, flags, first, last, packets, octets string) string {
	return strings.Join([]string{src, sport, dst, dport, proto, tos, flags, first, last, packets, octets}, " ")
}

func ms(t int64) string { return time.UnixMilli(t / 1e6).UTC().Format("2006-01-02T15:04:05.000") }

// nfcapd stores and nfdump prints exactly the flows that were sent, and neither
// finds anything to complain about.
func TestNfcapd(t *testing.T) {
	nfcapd, nfdump := peer(t, "nfcapd"), peer(t, "nfdump")
	for _, form := range interopForms {
		t.Run(form, func(t *testing.T) {
			records := interopRecords(form)
			dir := t.TempDir()
			port := freePort(t)
			var log bytes.Buffer
			cmd := exec.Command(nfcapd, "-w", dir, "-p", strconv.Itoa(port), "-b", "127.0.0.1", "-t", "3600")
			cmd.Stdout, cmd.Stderr = &log, &log
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer cmd.Process.Kill()
			listening(t, port)
			o := Options{Sampling: 1}
			if strings.HasPrefix(form, "version=9") {
				o.Rules = someRules{} // nfdump 1.7.1 does not count the options records of IPFIX among its data
			}
			st := send(t, port, form, records, o)
			drained(t, port)
			cmd.Process.Signal(syscall.SIGTERM)
			if err := cmd.Wait(); err != nil {
				t.Fatalf("nfcapd: %v\n%s", err, log.String())
			}
			var packets, octets uint64
			for _, r := range records {
				packets, octets = packets+r.Packets, octets+r.Bytes
			}
			want := fmt.Sprintf("Flows: %d, Packets: %d, Bytes: %d, Sequence Errors: 0, Bad Packets: 0", st.WireRecords, packets, octets)
			if !strings.Contains(log.String(), want) {
				t.Errorf("nfcapd does not say %q", want)
			}
			for l := range strings.Lines(log.String()) {
				if strings.HasPrefix(l, "Process_") && !strings.Contains(l, "xporter: ") || strings.Contains(strings.ToLower(l), "error") && !strings.Contains(l, "Sequence Errors: 0") {
					t.Errorf("nfcapd complains: %s", l)
				}
			}

			read := exec.Command(nfdump, "-R", dir, "-o", "json", "-q")
			read.Env = append(os.Environ(), "TZ=UTC")
			out, err := read.Output()
			if err != nil {
				t.Fatalf("nfdump: %v", err)
			}
			compare(t, nfdumpLines(t, out), sentLines(records, st.Version))
		})
	}
}

// listening waits until somebody has the UDP port.
func listening(t *testing.T, port int) {
	t.Helper()
	entry := fmt.Sprintf("0100007F:%04X", port)
	for range 500 {
		if b, err := os.ReadFile("/proc/net/udp"); err == nil && bytes.Contains(b, []byte(entry)) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("nobody listens on %d", port)
}

// drained waits until the socket's receive queue is empty, and a moment more.
func drained(t *testing.T, port int) {
	t.Helper()
	entry := fmt.Sprintf("0100007F:%04X", port)
	for range 500 {
		time.Sleep(20 * time.Millisecond)
		b, err := os.ReadFile("/proc/net/udp")
		if err != nil {
			t.Fatal(err)
		}
		for l := range strings.Lines(string(b)) {
			if f := strings.Fields(l); len(f) > 4 && f[1] == entry && strings.HasSuffix(f[4], ":00000000") {
				time.Sleep(100 * time.Millisecond)
				return
			}
		}
	}
	t.Fatal("the collector does not read")
}

func sentLines(records []flow.Record, version uint8) (all []string) {
	for _, r := range records {
		flags := int(r.TCPFlags)
		if r.Proto != flow.ProtoTCP {
			flags = 0
		}
		for _, p := range split(r, version) {
			all = append(all, line(r.Src.String(), strconv.Itoa(int(r.SrcPort)), r.Dst.String(), strconv.Itoa(int(r.DstPort)),
				strconv.Itoa(int(r.Proto)), strconv.Itoa(int(r.TOS)), strconv.Itoa(flags), ms(r.First), ms(r.Last), fmt.Sprint(p[0]), fmt.Sprint(p[1])))
		}
	}
	return all
}

// split is how v1, v5 and v7 must cut a flow: here by repeated halving of what is left
// over the parts left, not by the encoder's rule.
func split(r flow.Record, version uint8) [][2]uint64 {
	if version >= flow.VersionV9 {
		return [][2]uint64{{r.Packets, r.Bytes}}
	}
	const most = 1<<32 - 1
	n := max(1, (r.Packets+most-1)/most, (r.Bytes+most-1)/most)
	var parts [][2]uint64
	for i := uint64(0); i < n; i++ {
		cut := func(v uint64) uint64 {
			// floor(v*(i+1)/n) - floor(v*i/n), by long division
			at := func(k uint64) uint64 { return v/n*k + v%n*k/n }
			return at(i+1) - at(i)
		}
		parts = append(parts, [2]uint64{cut(r.Packets), cut(r.Bytes)})
	}
	return parts
}

func nfdumpLines(t *testing.T, out []byte) (all []string) {
	t.Helper()
	text := strings.TrimSpace(string(out))
	if !strings.HasPrefix(text, "[") {
		text = "[" + strings.TrimSuffix(text, ",") + "]"
	}
	var rows []map[string]any
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	if err := dec.Decode(&rows); err != nil {
		t.Fatalf("nfdump's JSON: %v in %.300s", err, text)
	}
	for _, r := range rows {
		num := func(name string) int {
			n, _ := strconv.Atoi(fmt.Sprint(r[name]))
			return n
		}
		src, dst := r["src4_addr"], r["dst4_addr"]
		if src == nil {
			src, dst = r["src6_addr"], r["dst6_addr"]
		}
		flags := 0
		for i, c := range []byte(fmt.Sprint(r["tcp_flags"])) { // CEUAPRSF
			if r["tcp_flags"] != nil && c != '.' {
				flags |= 0x80 >> i
			}
		}
		dport := num("dst_port")
		if r["icmp_type"] != nil {
			dport = num("icmp_type")<<8 | num("icmp_code")
		}
		all = append(all, line(fmt.Sprint(src), strconv.Itoa(num("src_port")), fmt.Sprint(dst), strconv.Itoa(dport),
			fmt.Sprint(r["proto"]), strconv.Itoa(num("src_tos")), strconv.Itoa(flags), fmt.Sprint(r["first"]), fmt.Sprint(r["last"]), fmt.Sprint(r["in_packets"]), fmt.Sprint(r["in_bytes"])))
	}
	return all
}

// compare holds two multisets of lines together.
func compare(t *testing.T, got, want []string) {
	t.Helper()
	slices.Sort(got)
	slices.Sort(want)
	if len(got) != len(want) {
		t.Errorf("%d flows; sent %d", len(got), len(want))
	}
	bad := 0
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			if bad++; bad <= 3 {
				t.Errorf("flow %d\n got %s\nwant %s", i, got[i], want[i])
			}
		}
	}
	if bad > 3 {
		t.Errorf("and %d more", bad-3)
	}
}

// tshark dissects every datagram without a complaint, finds every template and
// every record.
func TestTshark(t *testing.T) {
	tshark := peer(t, "tshark")
	for _, form := range interopForms {
		t.Run(form, func(t *testing.T) {
			records := interopRecords(form)[:1200]
			c := listen(t, "127.0.0.1:0")
			c.conn.SetReadBuffer(4 << 20)
			file := filepath.Join(t.TempDir(), "export.pcap")
			done := make(chan [][]byte)
			go func() { done <- record(c.conn) }()
			port := c.conn.LocalAddr().(*net.UDPAddr).Port
			st := send(t, port, form, records, Options{
				Sampling: 100, Interfaces: func() []Interface {
					return []Interface{{Index: 1, Name: "eth0", Description: "to the world", VRF: 10, VRFName: "blue"}}
				},
				Ignored: func() (uint64, uint64) { return 1, 2 }, Rules: someRules{},
			})
			c.conn.SetReadDeadline(time.Now().Add(time.Minute))
			end, err := net.Dial("udp", c.conn.LocalAddr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer end.Close()
			end.Write(nil) // behind all that was sent
			grams := <-done
			if len(grams) != int(st.Datagrams) {
				t.Fatalf("%d datagrams of %d", len(grams), st.Datagrams)
			}
			const shown = 2055 // tshark takes some ports that a kernel chooses for steps of a traceroute
			writePcap(t, file, grams, shown)

			out, err := exec.Command(tshark, "-r", file, "-d", fmt.Sprintf("udp.port==%d,cflow", shown), "-o", "cflow.max_template_fields:100", "-V").Output()
			if err != nil {
				t.Fatalf("tshark: %v", err)
			}
			flows := 0
			for l := range strings.Lines(string(out)) {
				l = strings.TrimSpace(l)
				for _, bad := range []string{"Malformed", "Expert Info", "Template Frame: not", "No template found", "not found", "unexpected"} {
					if strings.Contains(l, bad) {
						t.Fatalf("tshark complains: %s", l)
					}
				}
				if rest, ok := strings.CutPrefix(l, "Flow "); ok && rest != "" && rest[0] >= '1' && rest[0] <= '9' || strings.HasPrefix(l, "pdu ") {
					flows++
				}
			}
			if want := int(st.WireRecords + st.Options); flows != want {
				t.Errorf("tshark shows %d records; sent %d", flows, want)
			}
		})
	}
}

// record reads datagrams until one is empty.
func record(conn *net.UDPConn) (grams [][]byte) {
	buf := make([]byte, 65536)
	for {
		n, err := conn.Read(buf)
		if err != nil || n == 0 {
			return grams
		}
		grams = append(grams, bytes.Clone(buf[:n]))
	}
}

// writePcap writes datagrams as raw IPv4 packets (LINKTYPE_RAW).
func writePcap(t *testing.T, file string, grams [][]byte, port int) {
	t.Helper()
	le := binary.LittleEndian
	b := le.AppendUint32(nil, 0xa1b2c3d4)
	b = append(b, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	b = le.AppendUint32(b, 65535)
	b = le.AppendUint32(b, 101)
	for i, g := range grams {
		n := 28 + len(g)
		b = le.AppendUint32(b, 1_750_000_000+uint32(i/1000))
		b = le.AppendUint32(b, uint32(i%1000))
		b = le.AppendUint32(b, uint32(n))
		b = le.AppendUint32(b, uint32(n))
		b = append(b, 0x45, 0, byte(n>>8), byte(n), 0, 0, 0x40, 0, 64, 17, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1)
		b = be.AppendUint16(b, 40000)
		b = be.AppendUint16(b, uint16(port))
		b = be.AppendUint16(b, uint16(8+len(g)))
		b = append(b, 0, 0)
		b = append(b, g...)
	}
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// nfacctd adds up what it was sent: pmacct reads counters of 4 and 8 octets
// only, so compact alone is not for it (and that is what `weir help export` says).
func TestNfacctd(t *testing.T) {
	nfacctd := peer(t, "nfacctd")
	for _, form := range interopForms {
		switch form {
		case "version=9", "version=10":
			continue
		case "version=1", "version=7": // pmacct 1.7 has given them up
			continue
		}
		t.Run(form, func(t *testing.T) {
			t.Parallel() // nfacctd takes its time
			records := interopRecords(form)
			dir, err := os.MkdirTemp("", "weir-nfacctd") // its configuration takes no path with = or &
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(dir)
			port := freePort(t)
			conf, out := filepath.Join(dir, "conf"), filepath.Join(dir, "out")
			text := fmt.Sprintf("daemonize: false\nnfacctd_ip: 127.0.0.1\nnfacctd_port: %d\nplugins: print\naggregate: proto\nprint_refresh_time: 1\nprint_output: csv\nprint_output_file: %s\nprint_output_file_append: true\n", port, out)
			if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			cmd := exec.CommandContext(ctx, nfacctd, "-f", conf)
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
			var log bytes.Buffer
			cmd.Stdout, cmd.Stderr = &log, &log
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				cancel()
				cmd.Wait()
				for l := range strings.Lines(log.String()) {
					if strings.Contains(l, "WARN") || strings.Contains(l, "expecting flow") || strings.Contains(l, "discarded") {
						t.Errorf("nfacctd complains: %s", l)
					}
				}
			}()
			listening(t, port)
			time.Sleep(1500 * time.Millisecond) // its plugin is not ready when its socket is
			send(t, port, form, records, Options{Rules: someRules{}})
			var packets, octets uint64
			for _, r := range records {
				packets, octets = packets+r.Packets, octets+r.Bytes
			}
			var gotPackets, gotOctets uint64
			for range 100 {
				time.Sleep(100 * time.Millisecond)
				b, _ := os.ReadFile(out)
				gotPackets, gotOctets = 0, 0
				for l := range strings.Lines(string(b)) {
					f := strings.Split(strings.TrimSpace(l), ",")
					if len(f) != 3 || f[0] == "PROTOCOL" {
						continue
					}
					p, _ := strconv.ParseUint(f[1], 10, 64)
					o, _ := strconv.ParseUint(f[2], 10, 64)
					gotPackets, gotOctets = gotPackets+p, gotOctets+o
				}
				if gotPackets == packets && gotOctets == octets {
					return
				}
			}
			b, _ := os.ReadFile(out)
			t.Errorf("nfacctd has %d packets, %d octets; sent %d, %d\n%s", gotPackets, gotOctets, packets, octets, b)
		})
	}
}
