// Package bgp tells routers by BGP what the guard does: RTBH (RFC 7999) and FlowSpec
// (RFC 8955, 8956).
//
// In: guard.Event. Out: announcements to the neighbours that are configured, as long as
// their actions are in force, and withdrawals at their end and at the end of Run. Nothing
// is taken from neighbours: every route they send is rejected. Graceful restart is off, so
// that what a killed process announced goes with its session.
//
// Whoever tells events never waits: they change what should be announced, and Run makes
// it so.
package bgp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"github.com/osrg/gobgp/v4/pkg/server"

	"weir/guard"
)

// Neighbour is a peer. It is dialled.
type Neighbour struct {
	Address  netip.Addr
	AS       uint32
	Port     uint16 // 0: 179
	Password string // TCP MD5 (RFC 2385); "": none
	Multihop bool
}

// Options of a Speaker.
type Options struct {
	AS         uint32
	RouterID   netip.Addr // IPv4
	Neighbours []Neighbour
	// NextHop of RTBH: an address that the neighbours discard. Unset: RouterID; there is
	// no such default for IPv6, whose victims are then not announced.
	NextHop, NextHop6 netip.Addr
	Communities       []uint32 // of RTBH; none: BLACKHOLE and NO_EXPORT
	Log               *slog.Logger
}

// Well-known communities.
const (
	Blackhole = 65535<<16 | 666 // RFC 7999, section 5
	NoExport  = 0xffffff01      // RFC 1997
)

// Speaker announces.
type Speaker struct {
	o    Options
	wake chan struct{}

	mu     sync.Mutex
	want   map[uint64]guard.Action
	has    map[uint64]*apiutil.Path
	failed uint64
	peers  map[netip.Addr]bool // established
}

// New checks the options; nothing runs yet.
func New(o Options) (*Speaker, error) {
	switch {
	case o.AS == 0:
		return nil, errors.New("bgp: no AS")
	case !o.RouterID.Is4():
		return nil, errors.New("bgp: the router id is no IPv4 address")
	case len(o.Neighbours) == 0:
		return nil, errors.New("bgp: no neighbours")
	}
	if !o.NextHop.IsValid() {
		o.NextHop = o.RouterID
	}
	if len(o.Communities) == 0 {
		o.Communities = []uint32{Blackhole, NoExport}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Speaker{o: o, wake: make(chan struct{}, 1), want: map[uint64]guard.Action{}, has: map[uint64]*apiutil.Path{}, peers: map[netip.Addr]bool{}}, nil
}

// Tell takes what happened.
func (s *Speaker) Tell(ev guard.Event) {
	act := ev.Action
	if act == nil || act.Announce == guard.NoAnnounce {
		return
	}
	s.mu.Lock()
	if act.State == guard.StateActive {
		s.want[act.ID] = *act
	} else {
		delete(s.want, act.ID)
	}
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// State is what is announced, to how many neighbours.
type State struct {
	Announced   int
	Failed      uint64
	Established int
	Neighbours  int
}

// State tells it.
func (s *Speaker) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := State{Announced: len(s.has), Failed: s.failed, Neighbours: len(s.o.Neighbours)}
	for _, up := range s.peers {
		if up {
			st.Established++
		}
	}
	return st
}

// families are announced to each neighbour that speaks them.
var families = []struct {
	afi  api.Family_Afi
	safi api.Family_Safi
}{
	{api.Family_AFI_IP, api.Family_SAFI_UNICAST},
	{api.Family_AFI_IP6, api.Family_SAFI_UNICAST},
	{api.Family_AFI_IP, api.Family_SAFI_FLOW_SPEC_UNICAST},
	{api.Family_AFI_IP6, api.Family_SAFI_FLOW_SPEC_UNICAST},
}

// leaveTime is how long withdrawals may take on their way out at the end.
const leaveTime = 500 * time.Millisecond

// Run speaks until ctx ends, then withdraws everything and closes the sessions.
func (s *Speaker) Run(ctx context.Context) error {
	level := &slog.LevelVar{}
	level.Set(slog.LevelWarn)
	b := server.NewBgpServer(server.LoggerOption(s.o.Log, level))
	go b.Serve()
	behind := context.WithoutCancel(ctx)
	defer b.Stop()
	if err := b.StartBgp(behind, &api.StartBgpRequest{Global: &api.Global{Asn: s.o.AS, RouterId: s.o.RouterID.String(), ListenPort: -1}}); err != nil {
		return fmt.Errorf("bgp: %w", err)
	}
	if err := deaf(behind, b); err != nil {
		return fmt.Errorf("bgp: %w", err)
	}
	watching, stop := context.WithCancel(behind)
	defer stop()
	if err := b.WatchEvent(watching, server.WatchEventMessageCallbacks{OnPeerUpdate: s.peer}, server.WatchPeer()); err != nil {
		return fmt.Errorf("bgp: %w", err)
	}
	for _, n := range s.o.Neighbours {
		if err := b.AddPeer(behind, &api.AddPeerRequest{Peer: peer(n)}); err != nil {
			return fmt.Errorf("bgp: neighbour %s: %w", n.Address, err)
		}
	}
	for {
		s.reconcile(b)
		select {
		case <-ctx.Done():
			return s.leave(b)
		case <-s.wake:
		}
	}
}

// deaf rejects whatever neighbours announce: nothing here needs it, a full table takes
// memory, and nobody's routes must go from one neighbour to the other.
func deaf(ctx context.Context, b *server.BgpServer) error {
	reject := func(name string, of api.Conditions_RouteType) *api.Statement {
		return &api.Statement{Name: name, Conditions: &api.Conditions{RouteType: of}, Actions: &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_REJECT}}
	}
	policy := &api.Policy{Name: "deaf", Statements: []*api.Statement{
		reject("external", api.Conditions_ROUTE_TYPE_EXTERNAL), reject("internal", api.Conditions_ROUTE_TYPE_INTERNAL),
	}}
	if err := b.AddPolicy(ctx, &api.AddPolicyRequest{Policy: policy}); err != nil {
		return err
	}
	return b.AddPolicyAssignment(ctx, &api.AddPolicyAssignmentRequest{Assignment: &api.PolicyAssignment{
		Name: "global", Direction: api.PolicyDirection_POLICY_DIRECTION_IMPORT, Policies: []*api.Policy{policy}, DefaultAction: api.RouteAction_ROUTE_ACTION_ACCEPT,
	}})
}

func peer(n Neighbour) *api.Peer {
	p := &api.Peer{
		Conf:      &api.PeerConf{NeighborAddress: n.Address.String(), PeerAsn: n.AS, AuthPassword: n.Password},
		Transport: &api.Transport{RemotePort: uint32(n.Port)},
		Timers:    &api.Timers{Config: &api.TimersConfig{ConnectRetry: 5, HoldTime: 90, KeepaliveInterval: 30, IdleHoldTimeAfterReset: 5}},
	}
	if n.Port == 0 {
		p.Transport.RemotePort = 179
	}
	if n.Multihop {
		p.EbgpMultihop = &api.EbgpMultihop{Enabled: true, MultihopTtl: 64}
	}
	for _, f := range families {
		p.AfiSafis = append(p.AfiSafis, &api.AfiSafi{Config: &api.AfiSafiConfig{Family: &api.Family{Afi: f.afi, Safi: f.safi}, Enabled: true}})
	}
	return p
}

// peer notes how sessions stand.
func (s *Speaker) peer(ev *apiutil.WatchEventMessage_PeerEvent, _ time.Time) {
	a, up := ev.Peer.State.NeighborAddress, ev.Peer.State.SessionState == bgp.BGP_FSM_ESTABLISHED
	s.mu.Lock()
	changed := s.peers[a] != up
	s.peers[a] = up
	s.mu.Unlock()
	if changed {
		s.o.Log.Info("bgp", "neighbour", a, "established", up)
	}
}

// reconcile announces what should be and is not, and withdraws the rest.
func (s *Speaker) reconcile(b *server.BgpServer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, p := range s.has {
		if _, wanted := s.want[id]; !wanted {
			if s.shared(id, p) { // another action announces the same
				delete(s.has, id)
				continue
			}
			if err := b.DeletePath(apiutil.DeletePathRequest{Paths: []*apiutil.Path{p}}); err != nil {
				s.failed++
				s.o.Log.Error("bgp: not withdrawn", "action", id, "error", err)
				continue
			}
			delete(s.has, id)
			s.o.Log.Info("bgp: withdrawn", "action", id, "route", p.Nlri.String())
		}
	}
	for id, act := range s.want {
		if s.has[id] != nil {
			continue
		}
		p, err := s.path(&act)
		if err == nil {
			_, err = b.AddPath(apiutil.AddPathRequest{Paths: []*apiutil.Path{p}})
		}
		if err != nil {
			s.failed++
			delete(s.want, id)
			s.o.Log.Error("bgp: not announced", "action", id, "error", err)
			continue
		}
		s.has[id] = p
		s.o.Log.Info("bgp: announced", "action", id, "route", p.Nlri.String())
	}
}

// shared says whether another announcement has the same route.
func (s *Speaker) shared(id uint64, p *apiutil.Path) bool {
	for other, q := range s.has {
		if _, wanted := s.want[other]; other != id && wanted && q.Family == p.Family && q.Nlri.String() == p.Nlri.String() {
			return true
		}
	}
	return false
}

// leave withdraws everything, and lets that out.
func (s *Speaker) leave(b *server.BgpServer) error {
	s.mu.Lock()
	n := len(s.has)
	clear(s.want)
	s.mu.Unlock()
	if n == 0 {
		return nil
	}
	s.reconcile(b)
	// The library does not say when an update has been written; a session that is closed
	// at once would take it along, and the neighbour withdraws by itself then.
	time.Sleep(leaveTime)
	return nil
}

// path is an action as a route.
func (s *Speaker) path(act *guard.Action) (*apiutil.Path, error) {
	if act.Announce == guard.RTBH {
		return s.rtbh(act)
	}
	return s.flowspec(act)
}

func (s *Speaker) rtbh(act *guard.Action) (*apiutil.Path, error) {
	dst := act.Match.Dst
	if !dst.IsValid() {
		return nil, errors.New("rtbh needs a destination")
	}
	nlri, err := bgp.NewIPAddrPrefix(dst)
	if err != nil {
		return nil, err
	}
	attrs := []bgp.PathAttributeInterface{
		bgp.NewPathAttributeOrigin(0), bgp.NewPathAttributeCommunities(s.o.Communities),
	}
	if dst.Addr().Is4() {
		hop, err := bgp.NewPathAttributeNextHop(s.o.NextHop)
		if err != nil {
			return nil, err
		}
		return &apiutil.Path{Family: bgp.RF_IPv4_UC, Nlri: nlri, Attrs: append(attrs, hop), Age: time.Now().Unix()}, nil
	}
	if !s.o.NextHop6.IsValid() {
		return nil, errors.New("rtbh of an IPv6 victim needs guard.bgp.next-hop6")
	}
	reach, err := bgp.NewPathAttributeMpReachNLRI(bgp.RF_IPv6_UC, []bgp.PathNLRI{{NLRI: nlri}}, s.o.NextHop6)
	if err != nil {
		return nil, err
	}
	return &apiutil.Path{Family: bgp.RF_IPv6_UC, Nlri: nlri, Attrs: append(attrs, reach), Age: time.Now().Unix()}, nil
}

// Operators of FlowSpec components (RFC 8955, section 4.2.1).
const (
	opEnd    = 0x80
	opAnd    = 0x40
	numEqual = 0x01
	bitNot   = 0x02
	bitAll   = 0x01
)

// flowspec is a match as a FlowSpec rule. What it cannot say is an error: a broader rule
// would hit what nobody meant.
func (s *Speaker) flowspec(act *guard.Action) (*apiutil.Path, error) {
	m := &act.Match
	if !m.Dst.IsValid() && !m.Src.IsValid() {
		return nil, errors.New("a flowspec rule without an address")
	}
	six := m.Dst.IsValid() && m.Dst.Addr().Is6() || !m.Dst.IsValid() && m.Src.Addr().Is6()
	family := bgp.RF_FS_IPv4_UC
	if six {
		family = bgp.RF_FS_IPv6_UC
	}
	var parts []bgp.FlowSpecComponentInterface
	prefix := func(p netip.Prefix, source bool) error {
		if !p.IsValid() {
			return nil
		}
		x, err := bgp.NewIPAddrPrefix(p)
		switch {
		case err != nil:
			return err
		case six && source:
			parts = append(parts, bgp.NewFlowSpecSourcePrefix6(x, 0))
		case six:
			parts = append(parts, bgp.NewFlowSpecDestinationPrefix6(x, 0))
		case source:
			parts = append(parts, bgp.NewFlowSpecSourcePrefix(x))
		default:
			parts = append(parts, bgp.NewFlowSpecDestinationPrefix(x))
		}
		return nil
	}
	if err := errors.Join(prefix(m.Dst, false), prefix(m.Src, true)); err != nil {
		return nil, err
	}
	equal := func(kind bgp.BGPFlowSpecType, values ...uint16) {
		items := make([]*bgp.FlowSpecComponentItem, len(values))
		for i, v := range values {
			op := uint8(numEqual)
			if i == len(values)-1 {
				op |= opEnd
			}
			items[i] = bgp.NewFlowSpecComponentItem(op, uint64(v))
		}
		parts = append(parts, bgp.NewFlowSpecComponent(kind, items))
	}
	if m.Proto != 0 {
		equal(bgp.FLOW_SPEC_TYPE_IP_PROTO, uint16(m.Proto))
	}
	if m.DstPort != 0 {
		equal(bgp.FLOW_SPEC_TYPE_DST_PORT, m.DstPort)
	}
	if len(m.SrcPorts) > 0 {
		ports := slices.Clone(m.SrcPorts)
		slices.Sort(ports)
		equal(bgp.FLOW_SPEC_TYPE_SRC_PORT, ports...)
	}
	if m.SYN { // SYN, and not ACK
		parts = append(parts, bgp.NewFlowSpecComponent(bgp.FLOW_SPEC_TYPE_TCP_FLAG, []*bgp.FlowSpecComponentItem{
			bgp.NewFlowSpecComponentItem(bitAll, bgp.TCP_FLAG_SYN), bgp.NewFlowSpecComponentItem(opEnd|opAnd|bitNot, bgp.TCP_FLAG_ACK),
		}))
	}
	if m.Fragments {
		parts = append(parts, bgp.NewFlowSpecComponent(bgp.FLOW_SPEC_TYPE_FRAGMENT, []*bgp.FlowSpecComponentItem{
			bgp.NewFlowSpecComponentItem(opEnd|bitAll, bgp.FRAG_FLAG_IS),
		}))
	}
	if m.New {
		return nil, errors.New("FlowSpec does not know which flows are new")
	}
	nlri, err := bgp.NewFlowSpecUnicast(family, parts)
	if err != nil {
		return nil, err
	}
	community, err := s.rate(act)
	if err != nil {
		return nil, err
	}
	reach, err := bgp.NewPathAttributeMpReachNLRI(family, []bgp.PathNLRI{{NLRI: nlri}})
	if err != nil {
		return nil, err
	}
	return &apiutil.Path{Family: family, Nlri: nlri, Age: time.Now().Unix(), Attrs: []bgp.PathAttributeInterface{
		bgp.NewPathAttributeOrigin(0), reach, bgp.NewPathAttributeExtendedCommunities([]bgp.ExtendedCommunityInterface{community}),
	}}, nil
}

// subRatePackets is the sub-type of traffic-rate-packets (RFC 8955, section 7.2).
const subRatePackets = 0x0c

// rate is what is done, as an extended community: traffic-rate in octets a second, 0 to
// drop; traffic-rate-packets where only packets are limited.
func (s *Speaker) rate(act *guard.Action) (bgp.ExtendedCommunityInterface, error) {
	as := uint16(0) // informative; a larger one does not fit
	if s.o.AS <= math.MaxUint16 {
		as = uint16(s.o.AS)
	}
	switch {
	case act.Do == guard.Drop:
		return bgp.NewTrafficRateExtended(as, 0), nil
	case act.Do != guard.Police:
		return nil, errors.New("there is no flowspec rule that only counts")
	case act.BPS > 0:
		return bgp.NewTrafficRateExtended(as, float32(act.BPS/8)), nil
	}
	value := make([]byte, 7)
	value[0], value[1], value[2] = subRatePackets, byte(as>>8), byte(as)
	bits := math.Float32bits(float32(act.PPS))
	value[3], value[4], value[5], value[6] = byte(bits>>24), byte(bits>>16), byte(bits>>8), byte(bits)
	return bgp.NewUnknownExtended(bgp.EC_TYPE_GENERIC_TRANSITIVE_EXPERIMENTAL, value), nil
}
