package main

import (
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"weir/acl"
	"weir/config"
	"weir/flow"
	"weir/host"
)

// protected are the rules in front of every list, which nobody can take out of one:
// the sessions by which this machine is being looked after, its own exports, and the
// routing protocols it takes part in. Each is as narrow as what is there now.
func protected(conf *config.Config, session string) (rules [2][]*acl.Rule) {
	if !conf.ACL.Protect {
		return rules
	}
	own := ownNets()
	add := func(r acl.Rule, a netip.Addr) {
		f := acl.IPv4
		if a.Is6() && !a.Is4In6() {
			f = acl.IPv6
		}
		r.Action = acl.Permit
		for _, have := range rules[f] {
			if have.Cisco(f) == r.Cisco(f) {
				return
			}
		}
		if len(rules[f]) < maxProtected {
			rules[f] = append(rules[f], &r)
		}
	}
	// pair lets both directions of a conversation pass.
	pair := func(proto int16, local, remote netip.AddrPort) {
		l, r := hostOf(local.Addr()), hostOf(remote.Addr())
		add(acl.Rule{Proto: proto, Src: r, SrcPorts: portOf(remote.Port()), Dst: l, DstPorts: portOf(local.Port())}, remote.Addr())
		add(acl.Rule{Proto: proto, Src: l, SrcPorts: portOf(local.Port()), Dst: r, DstPorts: portOf(remote.Port())}, remote.Addr())
	}

	// SSH_CONNECTION: client address and port, server address and port.
	if f := strings.Fields(session); len(f) == 4 {
		client, err := netip.ParseAddrPort(net.JoinHostPort(f[0], f[1]))
		server, serr := netip.ParseAddrPort(net.JoinHostPort(f[2], f[3]))
		if err == nil && serr == nil {
			pair(flow.ProtoTCP, server, client)
		}
	}
	sockets := host.Sockets()
	for _, s := range sockets {
		if s.Established && s.Local.Port() == 22 {
			pair(flow.ProtoTCP, s.Local, s.Remote)
		}
	}

	for _, d := range conf.Export {
		u, err := url.Parse(d.To)
		if err != nil {
			continue
		}
		a, err := netip.ParseAddr(u.Hostname())
		port, perr := strconv.ParseUint(u.Port(), 10, 16)
		if err != nil || perr != nil {
			continue
		}
		if len(own[family(a)].Nets) == 0 {
			continue
		}
		for _, proto := range []int16{flow.ProtoUDP, flow.ProtoTCP} {
			add(acl.Rule{Proto: proto, Src: own[family(a)], Dst: hostOf(a), DstPorts: portOf(uint16(port))}, a)
		}
	}

	for _, p := range routing {
		for _, s := range sockets {
			if s.Raw != p.raw || s.Proto != uint8(p.proto) || !p.raw && (!s.Listening || s.Local.Port() != p.port) {
				continue
			}
			for f, any := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
				if len(own[f].Nets) == 0 {
					continue // or it would be for all
				}
				if p.raw { // to us, and to groups of the link
					add(acl.Rule{Proto: p.proto, Dst: own[f]}, any)
					add(acl.Rule{Proto: p.proto, Src: own[f]}, any)
					add(acl.Rule{Proto: p.proto, Dst: linkGroups[f]}, any)
					continue
				}
				port := portOf(p.port)
				add(acl.Rule{Proto: p.proto, Dst: own[f], DstPorts: port}, any)
				add(acl.Rule{Proto: p.proto, Src: own[f], DstPorts: port}, any)
				add(acl.Rule{Proto: p.proto, Dst: own[f], SrcPorts: port}, any)
				add(acl.Rule{Proto: p.proto, Src: own[f], SrcPorts: port}, any)
				if p.proto == flow.ProtoUDP {
					add(acl.Rule{Proto: p.proto, Dst: linkGroups[f], DstPorts: port}, any)
				}
			}
		}
	}
	return rules
}

// maxProtected bounds the rules in front of a list.
const maxProtected = 256

// routing are the protocols by which routers talk: by their sockets is told which
// are spoken here.
var routing = []struct {
	proto int16
	port  uint16
	raw   bool
}{
	{89, 0, true}, {88, 0, true}, {103, 0, true}, {112, 0, true}, {2, 0, true}, // OSPF, EIGRP, PIM, VRRP, IGMP
	{flow.ProtoTCP, 179, false}, {flow.ProtoTCP, 646, false}, {flow.ProtoUDP, 646, false}, // BGP, LDP
	{flow.ProtoUDP, 520, false}, {flow.ProtoUDP, 521, false}, // RIP
	{flow.ProtoUDP, 3784, false}, {flow.ProtoUDP, 3785, false}, {flow.ProtoUDP, 4784, false}, // BFD
}

// linkGroups are the groups of the link: 224.0.0.0/24, ff02::/16.
var linkGroups = [2]acl.Addrs{
	{Nets: []acl.Net{acl.NetFrom(netip.MustParsePrefix("224.0.0.0/24"))}},
	{Nets: []acl.Net{acl.NetFrom(netip.MustParsePrefix("ff02::/16"))}},
}

func family(a netip.Addr) acl.Family {
	if a.Unmap().Is4() {
		return acl.IPv4
	}
	return acl.IPv6
}

func hostOf(a netip.Addr) acl.Addrs {
	a = a.Unmap()
	return acl.Addrs{Nets: []acl.Net{acl.NetFrom(netip.PrefixFrom(a, a.BitLen()))}}
}

func portOf(n uint16) acl.Ports { return acl.Ports{Ranges: []acl.Range{{From: n, To: n}}} }

// ownNets are this machine's addresses, by family.
func ownNets() (own [2]acl.Addrs) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return own
	}
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			f := family(p.Addr())
			own[f].Nets = append(own[f].Nets, hostOf(p.Addr()).Nets...)
		}
	}
	return own
}
