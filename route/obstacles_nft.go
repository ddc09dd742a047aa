package route

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// chainKey names a chain of nf_tables.
type chainKey struct {
	family      uint8 // NFPROTO_…
	table, name string
}

// chain is what a chain of nf_tables does, as far as it matters here.
type chain struct {
	base    bool
	hook    uint32
	natType bool
	policy  bool     // drop
	devices []string // of netdev and of inet's ingress

	does
	jumps []string // to chains of its table
	anyOf bool     // by a map of verdicts: to any of them
}

// does is what rules do.
type does struct {
	rules         int
	ct, nat, drop bool
}

func (d *does) add(o does) {
	d.rules += o.rules
	d.ct, d.nat, d.drop = d.ct || o.ct, d.nat || o.nat, d.drop || o.drop
}

// What an extension of iptables is for; the rest is plain.
var (
	statefulMatches = []string{"conntrack", "state", "connlimit", "connmark", "connbytes", "connlabel", "helper", "cluster", "socket"}
	statefulTargets = []string{"CT", "CONNMARK", "CONNSECMARK", "SYNPROXY", "TPROXY"}
	natTargets      = []string{"SNAT", "DNAT", "MASQUERADE", "REDIRECT", "NETMAP"}
	dropTargets     = []string{"DROP", "REJECT", "NFQUEUE", "TARPIT"}
)

// nftables lists the base chains that packets pass on their way through.
func nftables() ([]Obstacle, error) {
	chains := map[chainKey]*chain{}
	head := make([]byte, 4) // struct nfgenmsg: every family
	const subsystem = unix.NFNL_SUBSYS_NFTABLES << 8
	err := listing(unix.NETLINK_NETFILTER, subsystem|unix.NFT_MSG_GETCHAIN, head, func(m message) bool {
		if k, c, ok := parseChain(m.body); ok {
			chains[k] = c
		}
		return true
	}, func() { clear(chains) })
	if err != nil {
		return nil, fmt.Errorf("nf_tables chains: %w", err)
	}
	if len(chains) == 0 {
		return nil, nil
	}
	err = listing(unix.NETLINK_NETFILTER, subsystem|unix.NFT_MSG_GETRULE, head, func(m message) bool {
		parseRule(chains, m.body)
		return true
	}, func() {
		for _, c := range chains {
			c.does, c.jumps, c.anyOf = does{}, nil, false
		}
	})
	if err != nil {
		return nil, fmt.Errorf("nf_tables rules: %w", err)
	}
	return chainObstacles(chains), nil
}

// be32 reads a number of nf_tables.
func be32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

func parseChain(b []byte) (k chainKey, c *chain, ok bool) {
	const head = 4                // struct nfgenmsg
	const devs, deviceName = 4, 1 // NFTA_HOOK_DEVS, NFTA_DEVICE_NAME
	if len(b) < head {
		return k, nil, false
	}
	k.family = b[0]
	c = &chain{}
	for kind, v, rest, more := nextAttr(b[head:]); more; kind, v, rest, more = nextAttr(rest) {
		switch kind {
		case unix.NFTA_CHAIN_TABLE:
			k.table = text(v)
		case unix.NFTA_CHAIN_NAME:
			k.name = text(v)
		case unix.NFTA_CHAIN_TYPE:
			c.natType = text(v) == "nat"
		case unix.NFTA_CHAIN_POLICY:
			c.policy = be32(v) == 0 // NF_DROP
		case unix.NFTA_CHAIN_HOOK:
			c.base = true
			c.hook = be32(find(v, unix.NFTA_HOOK_HOOKNUM))
			if d := find(v, unix.NFTA_HOOK_DEV); d != nil {
				c.devices = append(c.devices, text(d))
			}
			for kind, d, rest, more := nextAttr(find(v, devs)); more; kind, d, rest, more = nextAttr(rest) {
				if n := text(d); kind == deviceName && !slices.Contains(c.devices, n) {
					c.devices = append(c.devices, n)
				}
			}
		}
	}
	return k, c, k.name != ""
}

func parseRule(chains map[chainKey]*chain, b []byte) {
	const head = 4 // struct nfgenmsg
	if len(b) < head {
		return
	}
	c := chains[chainKey{b[0], text(find(b[head:], unix.NFTA_RULE_TABLE)), text(find(b[head:], unix.NFTA_RULE_CHAIN))}]
	if c == nil {
		return
	}
	c.rules++
	for _, v, rest, more := nextAttr(find(b[head:], unix.NFTA_RULE_EXPRESSIONS)); more; _, v, rest, more = nextAttr(rest) {
		c.expression(text(find(v, unix.NFTA_EXPR_NAME)), find(v, unix.NFTA_EXPR_DATA))
	}
}

// expression takes in one part of a rule.
func (c *chain) expression(name string, data []byte) {
	const (
		extensionName                            = 1    // NFTA_MATCH_NAME, NFTA_TARGET_NAME
		immediateData, dataVerdict               = 2, 2 // NFTA_IMMEDIATE_DATA, NFTA_DATA_VERDICT
		verdictCode, verdictChain                = 1, 2 // NFTA_VERDICT_…
		lookupDestination, verdictRegister       = 3, 0 // NFTA_LOOKUP_DREG, NFT_REG_VERDICT
		dropped                            int32 = 0    // NF_DROP
	)
	switch name {
	case "ct", "connlimit", "synproxy", "tproxy", "flow_offload", "notrack", "socket":
		c.ct = true
	case "nat", "masq", "redir":
		c.nat = true
	case "reject", "queue":
		c.drop = true
	case "match":
		c.ct = c.ct || slices.Contains(statefulMatches, text(find(data, extensionName)))
	case "target":
		c.target(text(find(data, extensionName)))
	case "immediate":
		verdict := find(find(data, immediateData), dataVerdict)
		if to := find(verdict, verdictChain); to != nil {
			c.jumps = append(c.jumps, text(to))
		} else if code := find(verdict, verdictCode); code != nil && int32(be32(code)) == dropped {
			c.drop = true
		}
	case "lookup":
		if r := find(data, lookupDestination); r != nil && be32(r) == verdictRegister {
			c.anyOf, c.drop = true, true
		}
	}
}

// target takes in an extension of iptables.
func (d *does) target(name string) {
	d.ct = d.ct || slices.Contains(statefulTargets, name)
	d.nat = d.nat || slices.Contains(natTargets, name)
	d.drop = d.drop || slices.Contains(dropTargets, name)
}

// onTheWay names the hook if what is forwarded passes it.
func (c *chain) onTheWay(family uint8) string {
	const inetIngress = 5 // NF_INET_INGRESS
	switch family {
	case unix.NFPROTO_INET, unix.NFPROTO_IPV4, unix.NFPROTO_IPV6:
		switch c.hook {
		case unix.NF_INET_PRE_ROUTING:
			return "prerouting"
		case unix.NF_INET_FORWARD:
			return "forward"
		case unix.NF_INET_POST_ROUTING:
			return "postrouting"
		case inetIngress:
			return "ingress"
		}
	case unix.NFPROTO_NETDEV:
		return map[uint32]string{unix.NF_NETDEV_INGRESS: "ingress", unix.NF_NETDEV_EGRESS: "egress"}[c.hook]
	}
	return ""
}

var families = map[uint8]string{unix.NFPROTO_INET: "inet", unix.NFPROTO_IPV4: "ip", unix.NFPROTO_IPV6: "ip6", unix.NFPROTO_NETDEV: "netdev"}

// chainObstacles are the base chains on the way that do something.
func chainObstacles(chains map[chainKey]*chain) (found []Obstacle) {
	for k, c := range chains {
		hook := c.onTheWay(k.family)
		if !c.base || hook == "" {
			continue
		}
		all := reach(chains, k)
		all.drop = all.drop || c.policy
		all.nat = all.nat || c.natType && all.rules > 0
		name := families[k.family] + " " + k.table + " " + k.name
		o, ok := rulesObstacle(all, c.policy, "nf_tables chain "+name+" ("+hook+")")
		if !ok {
			continue
		}
		o.Name = name
		if len(c.devices) == 0 {
			found = append(found, o)
		}
		for _, d := range c.devices {
			o.Interface = d
			found = append(found, o)
		}
	}
	slices.SortFunc(found, func(a, b Obstacle) int { return strings.Compare(a.Name+" "+a.Interface, b.Name+" "+b.Interface) })
	return found
}

// reach is what a base chain and all it may jump to do. A jump to a chain twice
// counts once.
func reach(chains map[chainKey]*chain, from chainKey) (all does) {
	seen := map[chainKey]bool{from: true}
	for todo := []chainKey{from}; len(todo) > 0; {
		c := chains[todo[len(todo)-1]]
		todo = todo[:len(todo)-1]
		all.add(c.does)
		visit := func(k chainKey) {
			if t := chains[k]; t != nil && !t.base && !seen[k] {
				seen[k] = true
				todo = append(todo, k)
			}
		}
		for _, name := range c.jumps {
			visit(chainKey{from.family, from.table, name})
		}
		if c.anyOf {
			for k := range chains {
				if k.family == from.family && k.table == from.table {
					visit(k)
				}
			}
		}
	}
	return all
}

// rulesObstacle says what rules at a place mean; ok is false if they mean nothing.
func rulesObstacle(d does, policy bool, place string) (o Obstacle, ok bool) {
	what := some(d.rules, "rule", "rules")
	if policy {
		what += " and the policy drop"
	}
	what += " of " + place
	switch {
	case d.rules == 0 && !d.drop:
		return o, false
	case d.nat:
		return Obstacle{Kind: NAT, Refuses: true, Text: what + ": addresses would not be translated; forward with the kernel where there is NAT"}, true
	case d.ct:
		return Obstacle{Kind: Stateful, Refuses: true, Text: what + ": connections would not be tracked; forward with the kernel, or use access lists instead (weir acl import)"}, true
	case d.drop:
		return Obstacle{Kind: Filter, Refuses: true, Text: what + ": what they stop would pass; use access lists instead (weir acl import)"}, true
	}
	return Obstacle{Kind: Filter, Text: what + " would not see what is forwarded; none of them stops anything"}, true
}
