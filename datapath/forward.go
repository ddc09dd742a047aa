package datapath

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"weir/bpf"
	"weir/flow"
	"weir/hook"
	"weir/route"
)

// A URPF is what must lead back to the source of a packet that is forwarded (RFC 3704).
type URPF string

const (
	URPFOff    URPF = ""
	URPFStrict URPF = "strict" // the interface that it came in by
	URPFLoose  URPF = "loose"  // any
)

// ForwardChoice is what an interface forwards.
type ForwardChoice struct {
	On    bool // what comes in is forwarded by the program, where it can
	Force bool // whatever that bypasses (route.Obstacles)
	URPF  URPF
}

// ForwardOptions are of all interfaces that forward.
type ForwardOptions struct {
	// Watchdog is how long the programs forward without a daemon: then the kernel
	// does. 0: for ever.
	Watchdog time.Duration
}

// forwards says whether an interface is to.
func (d *Datapath) forwards() bool {
	return slices.ContainsFunc(d.o.Interfaces, func(i Interface) bool { return i.Forward.On })
}

// cannotForward says why the i-th interface cannot forward, whatever is wished for;
// empty: it can.
func (d *Datapath) cannotForward(i int) string {
	switch in, p := &d.o.Interfaces[i], d.plans[i]; {
	case p.Mode != hook.XDP:
		return fmt.Sprintf("it takes XDP in the driver, and the interface is metered by %s (%s)", p.Mode, p.Why)
	case d.o.Cache.Key != flow.KeyCisco:
		return "it takes the key cisco: what another leaves out, routing may look at"
	case in.Master != "" && d.masterKind(in.Master) != "vrf":
		return fmt.Sprintf("the interface belongs to %s, which has the addresses and forwards what comes in there", in.Master)
	}
	return ""
}

func (d *Datapath) masterKind(name string) string {
	for _, i := range d.o.Interfaces {
		if i.Name == name {
			return i.Kind
		}
	}
	return ""
}

var native = binary.NativeEndian

// forwarder is the fast path's memory of routes, as route.Monitor tells it. One
// goroutine changes rows; states are read by others.
type forwarder struct {
	f     *bpf.Forward
	c     *bpf.Control
	ports ports
	log   *slog.Logger
	watch time.Duration

	monitor *route.Monitor

	mu    sync.Mutex
	rows  map[bpf.HopKey]uint32
	old   map[bpf.HopKey]bool // of rows: from an earlier daemon, and not heard of since
	mtus  map[netip.Prefix]uint32
	free  []freed // in the order of freeing
	fresh uint32  // the next row that was never used

	last    uint32 // second of the kernel's clock until which Used has told
	outputs map[uint32]output
	refused map[string]string // interfaces that do not forward for now, and why
}

// freed is a row that may still be some flow's: until every flow has asked again.
type freed struct {
	row uint32
	at  time.Time
}

// rowRests is more than the two seconds that a route holds.
const rowRests = 5 * time.Second

// output is an interface that frames may be redirected to.
type output struct {
	number        uint16
	frames, frags bool
}

// openForward takes up what an earlier daemon left.
func (d *Datapath) openForward() error {
	k := d.kernel()
	f := &forwarder{f: k.Forward, c: k.Memory().Control, ports: ports{k.Memory().Control}, log: d.log, watch: d.o.Forward.Watchdog, fresh: bpf.Whys, outputs: map[uint32]output{}}
	var err error
	if f.rows, err = f.f.Rows(); err != nil {
		return fmt.Errorf("the next hops that are there: %w", err)
	}
	if f.mtus, err = f.f.MTUs(); err != nil {
		return fmt.Errorf("the MTUs of routes that are there: %w", err)
	}
	f.adopt()
	f.setOutputs(d.Plans())
	f.setLeft()
	d.lookForObstacles(f)
	f.monitor = route.New(route.Options{Table: f, Output: f.redirects, Log: d.log.With("component", "route")})
	d.forwarder = f
	return f.beat(d.kernel())
}

// adopt sorts the rows that are there; those that nothing finds rest first.
func (f *forwarder) adopt() {
	found := map[uint32]bool{}
	for k, row := range f.rows {
		if k.Ifindex == 0 {
			continue
		}
		if row < bpf.Whys || row >= bpf.MaxHops || found[row] {
			f.f.DropRow(k)
			delete(f.rows, k)
			continue
		}
		found[row] = true
	}
	f.old = map[bpf.HopKey]bool{}
	for k := range f.rows {
		f.old[k] = true
	}
	for row := uint32(bpf.Whys); row < bpf.MaxHops; row++ {
		h := &f.f.Hops[row]
		if used := atomic.LoadUint64(&h.To) != 0 || h.Number != 0; used || found[row] {
			f.fresh = row + 1
		}
	}
	for row := uint32(bpf.Whys); row < f.fresh; row++ {
		if !found[row] {
			f.free = append(f.free, freed{row, time.Now()})
		}
	}
}

// setOutputs lets the programs send to interfaces that take frames, and no longer to
// those that do not. It says whether anything has changed.
func (f *forwarder) setOutputs(plans []*hook.Plan) (changed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := map[uint32]output{}
	for _, p := range plans {
		at := f.ports.find(p.Ifindex)
		if p.Mode != hook.XDP || at == nil || at.Flags == 0 {
			continue
		}
		o := output{number: uint16(at.Number)}
		var known bool
		if o.frames, o.frags, known = hook.Redirects(p.Ifindex); !known {
			o.frames = p.Driver != "veth" // which takes them only if its peer does
		}
		if o.frames {
			if err := f.f.SetOutput(o.number, p.Ifindex); err != nil {
				f.log.Warn("frames cannot be redirected to an interface", "interface", p.Interface, "error", err)
				o.frames = false
			}
		}
		now[p.Ifindex] = o
	}
	for ifindex, o := range f.outputs {
		if n := now[ifindex]; o.frames && !n.frames {
			f.f.SetOutput(o.number, 0)
		}
	}
	changed = !maps.Equal(now, f.outputs)
	f.outputs = now
	return changed
}

// setLeft lets the programs know what the kernel alone forwards, by settings that
// not all messages tell of. It says whether anything has changed.
func (f *forwarder) setLeft() (changed bool) {
	left := uint32(0)
	s := route.ReadSettings()
	for flag, on := range map[uint32]bool{bpf.LeftIPv6: !s.Forwards6, bpf.LeftSPI4: s.ByPorts4, bpf.LeftSPI6: s.ByPorts6} {
		if on {
			left |= flag
		}
	}
	for i := range f.c.Port {
		if at := &f.c.Port[i]; atomic.LoadUint32(&at.Left) != left {
			atomic.StoreUint32(&at.Left, left)
			changed = true
		}
	}
	return changed
}

func (f *forwarder) redirects(ifindex uint32) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.outputs[ifindex].frames
}

// beat puts off the moment from which the kernel forwards.
func (f *forwarder) beat(k *bpf.Kernel) error {
	until := uint64(0)
	if f.watch > 0 {
		now, _, err := k.Now()
		if err != nil {
			return err
		}
		until = now + uint64(f.watch)
	}
	atomic.StoreUint64(&f.c.ForwardUntil, until)
	return nil
}

// lookForObstacles finds out which interfaces may not forward, since packets would
// be kept from what somebody has set up for them. It may come later than weir. It
// says whether anything has changed.
func (d *Datapath) lookForObstacles(f *forwarder) (changed bool) {
	found, err := route.Obstacles(context.Background(), d.isOwn)
	if err != nil {
		f.log.Debug("not all that forwarding may bypass could be looked at", "error", err)
	}
	now := map[string]string{}
	for i := range d.o.Interfaces {
		in := &d.o.Interfaces[i]
		if !in.Forward.On || d.plans[i].Mode == hook.AFPacket {
			continue
		}
		if why := d.cannotForward(i); why != "" {
			now[in.Name] = why
		} else if err := route.Refusal(found, in.Name); err != nil && !in.Forward.Force {
			now[in.Name] = err.Error()
		}
	}
	f.mu.Lock()
	before := f.refused
	f.refused = now
	f.mu.Unlock()
	for name, why := range now {
		if before[name] == "" {
			f.log.Error("an interface does not forward", "interface", name, "why", why)
		}
	}
	for name := range before {
		if now[name] == "" {
			f.log.Info("an interface forwards again", "interface", name)
		}
	}
	return !maps.Equal(before, now)
}

// isOwn says whether a program is one that a weir has attached here.
func (d *Datapath) isOwn(id uint32) bool {
	list, err := d.folder.List()
	return err == nil && slices.ContainsFunc(list, func(a hook.Attachment) bool { return uint32(a.Program) == id })
}

// refuses says why an interface does not forward though it is to; empty: it does.
func (f *forwarder) refuses(ifname string) string {
	if f == nil {
		return ""
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.refused[ifname]
}

const (
	beatEvery     = time.Second
	obstacleEvery = 10 // times that
	forgetAfter   = 3
)

// run forwards until ctx ends.
func (f *forwarder) run(ctx context.Context, d *Datapath) {
	var beside sync.WaitGroup
	beside.Go(func() {
		if err := f.monitor.Run(ctx); err != nil && ctx.Err() == nil {
			f.log.Error("routes are no longer watched: each flow asks for its own every two seconds", "error", err)
		}
	})
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	defer beside.Wait()
	if lost, err := f.f.CountLost(d.kernel().Table); err != nil {
		f.log.Info("what drivers do not take of what is forwarded cannot be counted", "reason", err)
	} else {
		defer lost.Close()
	}
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := f.beat(d.kernel()); err != nil {
			f.log.Warn("the watchdog of forwarding", "error", err)
		}
		if n >= forgetAfter && f.monitor.Snapshot().Listings > 0 {
			f.forget()
		}
		if f.setLeft() {
			f.InvalidateAll()
		}
		if f.setOutputs(d.Plans()) {
			f.monitor.Refresh()
		}
		if n%obstacleEvery == 0 && d.lookForObstacles(f) {
			d.setFlags(f.ports)
		}
	}
}

// --- route.Table ---

func hopKey(h route.Hop) bpf.HopKey {
	return bpf.HopKey{Ifindex: h.Interface, Address: flow.AddrFrom(h.Gateway)}
}

var errNoRow = errors.New("there is no room for another next hop: the kernel forwards to it")

func (f *forwarder) SetHop(key route.Hop, way route.Way) error {
	k := hopKey(key)
	f.mu.Lock()
	defer f.mu.Unlock()
	out := f.outputs[way.Device]
	row, there := f.rows[k]
	delete(f.old, k)
	if !there {
		var ok bool
		if row, ok = f.take(); !ok {
			return errNoRow
		}
	}
	h := &f.f.Hops[row]
	to := mac(way.Destination)
	if way.Alive {
		to |= bpf.HopAlive << 48
	}
	if out.frags {
		to |= bpf.HopFrags << 48
	}
	if there && (h.Device != way.Device || h.Number != out.number) {
		atomic.StoreUint64(&h.To, 0) // not to the old device with the new address
	}
	h.Logical, h.Address = key.Interface, k.Address
	atomic.StoreUint64(&h.From, mac(way.Source)|uint64(way.VLAN)<<48)
	setWhere(h, way.Device, out.number, way.MTU)
	atomic.StoreUint64(&h.To, to)
	if there {
		return nil
	}
	if err := f.f.SetRow(k, row); err != nil {
		f.give(row)
		return err
	}
	f.rows[k] = row
	return nil
}

// take gives a row that no flow refers to.
func (f *forwarder) take() (row uint32, ok bool) {
	if len(f.free) > 0 && time.Since(f.free[0].at) > rowRests {
		row, f.free = f.free[0].row, f.free[1:]
		return row, true
	}
	if f.fresh < bpf.MaxHops {
		f.fresh++
		return f.fresh - 1, true
	}
	return 0, false
}

// give takes a row back.
func (f *forwarder) give(row uint32) {
	h := &f.f.Hops[row]
	atomic.StoreUint64(&h.To, 0)
	setWhere(h, 0, 0, 0)
	f.free = append(f.free, freed{row, time.Now()})
}

func (f *forwarder) DropHop(key route.Hop) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.drop(hopKey(key))
}

func (f *forwarder) drop(k bpf.HopKey) {
	row, ok := f.rows[k]
	if !ok {
		return
	}
	if err := f.f.DropRow(k); err != nil {
		f.log.Warn("a next hop cannot be taken out", "address", k.Address, "error", err)
	}
	delete(f.rows, k)
	delete(f.old, k)
	if k.Ifindex != 0 {
		f.give(row)
	}
}

// forget takes out what an earlier daemon knew and the monitor, which has listed all
// there is, does not.
func (f *forwarder) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for k := range f.old {
		f.drop(k)
	}
}

func (f *forwarder) SetUpper(lower uint32, vlan uint16, upper uint32) {
	if err := f.f.SetUpper(lower, vlan&flow.VLANMask, upper); err != nil {
		f.log.Warn("a VLAN's interface cannot be entered: the kernel forwards what comes in there", "error", err)
	}
}

func (f *forwarder) SetOwn(addr netip.Addr, own bool) {
	k := bpf.HopKey{Address: flow.AddrFrom(addr)}
	f.mu.Lock()
	defer f.mu.Unlock()
	var err error
	delete(f.old, k)
	if own {
		f.rows[k] = 0
		err = f.f.SetRow(k, 0)
	} else {
		delete(f.rows, k)
		err = f.f.DropRow(k)
	}
	if err != nil {
		f.log.Warn("an address of this machine cannot be entered", "address", addr, "error", err)
	}
}

// SetMTUs enters first and takes out then, so that nothing is without meanwhile.
func (f *forwarder) SetMTUs(now map[netip.Prefix]uint32) {
	var err error
	for p, mtu := range now {
		if f.mtus[p] != mtu {
			err = errors.Join(err, f.f.SetMTU(p, mtu))
		}
	}
	for p := range f.mtus {
		if now[p] == 0 {
			err = errors.Join(err, f.f.SetMTU(p, 0))
		}
	}
	if f.mtus = maps.Clone(now); err != nil {
		f.log.Warn("the MTUs of routes cannot be entered: what is longer may be forwarded", "error", err)
	}
}

// Invalidate makes flows to destinations within a prefix ask for their routes again.
func (f *forwarder) Invalidate(p netip.Prefix) {
	if !eachBucket(p, func(i uint32) { atomic.AddUint32(&f.c.RoutesTo[i], 1) }) {
		f.InvalidateAll()
	}
}

func (f *forwarder) InvalidateAll() {
	f.setLeft()
	atomic.AddUint32(&f.c.Routes, 1)
}

// eachBucket visits where the generations of destinations within a prefix stand, as
// the programs have it (route_bucket in forward.h); false: there are too many.
func eachBucket(p netip.Prefix, visit func(uint32)) bool {
	const (
		bits4     = 12 // of bpf.RouteBuckets
		bits6     = 32 // what of an address is mixed
		shortest4 = 4
		shortest6 = 24
	)
	p = p.Masked()
	if p.Addr().Is4() {
		if p.Bits() < shortest4 {
			return false
		}
		a := p.Addr().As4()
		first := uint32(a[0])<<4 | uint32(a[1])>>4
		for i := range uint32(1) << max(bits4-p.Bits(), 0) {
			visit(first + i)
		}
		return true
	}
	if p.Bits() < shortest6 {
		return false
	}
	a := p.Addr().As16()
	word := binary.BigEndian.Uint32(a[:4])
	for i := range uint32(1) << max(bits6-p.Bits(), 0) {
		visit(bpf.RouteBuckets + (word+i)*0x9e3779b1>>(32-bits4))
	}
	return true
}

func (f *forwarder) Used(yield func(route.Hop)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	last := f.last
	for k, row := range f.rows {
		if k.Ifindex == 0 {
			continue
		}
		used := atomic.LoadUint32(&f.f.Hops[row].Used)
		if used > last {
			yield(route.Hop{Interface: k.Ifindex, Gateway: k.Address.Netip()})
			f.last = max(f.last, used)
		}
	}
	if f.last > 0 {
		f.last-- // the second under way is told of again
	}
}

// mac is an address as the programs have it: its octets in memory.
func mac(a [6]byte) uint64 {
	var b [8]byte
	copy(b[:], a[:])
	return native.Uint64(b[:])
}

// macOf is that of an interface; 0: it has none.
func macOf(ifindex uint32) uint64 {
	i, err := net.InterfaceByIndex(int(ifindex))
	if err != nil || len(i.HardwareAddr) != 6 {
		return 0
	}
	return mac([6]byte(i.HardwareAddr))
}

// setWhere changes at once what a row says of its interface.
func setWhere(h *bpf.Hop, device uint32, number, mtu uint16) {
	var b [8]byte
	native.PutUint32(b[:], device)
	native.PutUint16(b[4:], number)
	native.PutUint16(b[6:], mtu)
	atomic.StoreUint64((*uint64)(unsafe.Pointer(&h.Device)), native.Uint64(b[:]))
}

// flags are those of an interface's port.
func (c ForwardChoice) flags(p *hook.Plan) (f uint32) {
	if !c.On || p.Mode != hook.XDP {
		return 0
	}
	f = bpf.PortForward
	if slices.Contains(localDrivers, p.Driver) {
		f |= bpf.PortPartial
	}
	switch c.URPF {
	case URPFStrict:
		f |= bpf.PortURPFStrict
	case URPFLoose:
		f |= bpf.PortURPFLoose
	}
	return f
}

// localDrivers are of interfaces whose frames may come from this machine, where
// nobody makes their checksums.
var localDrivers = []string{"veth", "tun", "tap", "netkit"}
