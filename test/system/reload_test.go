package system

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"weir/test/kernel"
)

// A new configuration is taken without losing a packet of the interface or a
// datagram of an exporter; one that is wrong is refused and all stays.
func TestReloadLosesNothing(t *testing.T) {
	kernel.Programs(t)
	for _, mode := range []string{"afpacket", "xdp"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			reloadLosesNothing(t, mode)
		})
	}
}

func reloadLosesNothing(t *testing.T, mode string) {
	l := newLine(t, true)
	dir := t.TempDir()
	interfaces := "interfaces: {vb: {meter: true, mode: " + mode + "}}\n"
	file, store := upConfig(t, dir, interfaces+"cache: {idle: 2s}")
	p := start(t, l.b, weir, "up", "-c", file)
	ready(t, p, l.b)
	metering(t, p, l.b, mode, 1)
	before := counted(t, l.b, "vb")

	// A steady stream on the line, and an exporter that tells its template once.
	var stream net.Conn
	var sink, elsewhere net.PacketConn
	within(t, l.b, func() (err error) {
		if sink, err = net.ListenPacket("udp4", "10.9.0.2:5300"); err != nil {
			return err
		}
		elsewhere, err = net.ListenPacket("udp4", "127.0.0.1:3333")
		return err
	})
	defer sink.Close()
	defer elsewhere.Close()
	within(t, l.a, func() (err error) { stream, err = net.Dial("udp4", "10.9.0.2:5300"); return err })
	defer stream.Close()
	e := newExporter(t, l.b, "127.0.0.9", "127.0.0.1:2055", 9)
	e.send(t, e.message(0, templateSet(256)))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
			for range 10 {
				stream.Write(make([]byte, 200))
			}
			if _, err := e.conn.Write(e.message(20, e.data(256, 20))); err != nil {
				t.Error(err)
			}
		}
	})
	ended := false
	end := func() {
		if !ended {
			ended = true
			close(stop)
			wg.Wait()
		}
	}
	defer end()

	write := func(more string) {
		t.Helper()
		upConfig(t, dir, more)
		p.signal(t, syscall.SIGHUP)
	}
	reloaded := func(want float64) {
		t.Helper()
		until(t, 15*time.Second, fmt.Sprintf("weir_config_last_reload_successful is %v", want), func() bool {
			return metric(t, l.b, console, "weir_config_last_reload_successful") == want
		})
		time.Sleep(700 * time.Millisecond)
	}
	taken := 0
	took := func() {
		t.Helper()
		taken++
		until(t, 15*time.Second, "the configuration is taken", func() bool {
			return countOf(p.stderr.String(), "configuration taken") >= taken
		})
		reloaded(1)
	}
	reloaded(1)
	write(interfaces + "cache: {idle: 2s, active: 3s}")
	took()
	write(interfaces + "cache: {idle: 2s, active: 3s}\nexport: ['udp://127.0.0.1:3333?version=9']")
	took()
	ports := "collect: {listen: ['udp://127.0.0.1:2055', 'udp://127.0.0.1:4739', 'udp://127.0.0.1:7055']}\n"
	write(interfaces + ports + "cache: {idle: 2s, active: 3s}\nexport: ['udp://127.0.0.1:3333?version=9']")
	took()
	e2 := newExporter(t, l.b, "127.0.0.10", "127.0.0.1:7055", 10)
	e2.send(t, e2.message(20, templateSet(256), e2.data(256, 20)))

	// Wrong ones: not YAML's, not ours, and one that cannot start.
	for _, wrong := range []string{
		"cache: {idle: soon}", "caché: 1", "cache: [", "interfaces: {eth77: {meter: true}}",
		interfaces + "collect: {listen: ['udp://192.0.2.77:2055']}",
	} {
		refused := countOf(p.stderr.String(), "configuration not taken")
		write(wrong)
		until(t, 15*time.Second, "refused: "+wrong, func() bool { return countOf(p.stderr.String(), "configuration not taken") > refused })
		reloaded(0)
		write(interfaces + ports + "cache: {idle: 2s, active: 3s}\nexport: ['udp://127.0.0.1:3333?version=9']")
		took()
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	p.signal(t, syscall.SIGHUP)
	reloaded(0)
	write(interfaces + ports + "cache: {idle: 2s}")
	took()

	end()
	time.Sleep(200 * time.Millisecond)
	after := counted(t, l.b, "vb")
	all := losses(t, l.b, filepath.Join(dir, "sock"))
	p.stop(t)
	want := count{after.Packets - before.Packets, after.Bytes - before.Bytes}
	if _, got := stored(t, store, "net 10.9.0.0/24"); got != want {
		t.Errorf("stored %+v, the kernel counted %+v at the interface: %d packets lost", got, want, int64(want.Packets-got.Packets))
	}
	flows, got := stored(t, store, "exporter ip 127.0.0.9")
	if flows != e.records || got != e.sent {
		t.Errorf("stored %d records of the exporter, it sent %d: %d lost", flows, e.records, int64(e.records-flows))
	}
	if flows, got := stored(t, store, "exporter ip 127.0.0.10"); flows != e2.records || got != e2.sent {
		t.Errorf("stored %d records sent to the new port, want %d", flows, e2.records)
	}
	noLoss(t, all)
	elsewhere.SetReadDeadline(time.Now().Add(time.Second))
	if n, _, err := elsewhere.ReadFrom(make([]byte, 2000)); err != nil || n < 20 {
		t.Errorf("the added destination got nothing: %v", err)
	}
	t.Logf("%d packets, %d records, %d reloads taken", want.Packets, e.records, taken)
}

func countOf(s, part string) (n int) {
	for i := 0; i+len(part) <= len(s); i++ {
		if s[i:i+len(part)] == part {
			n++
		}
	}
	return n
}
