package cache

import "weir/flow"

// FlowSampler chooses flows by their keys, one in N (hash-based flow selection, RFC
// 7014 section 6.2): every packet of a flow, and of a biflow's two directions, or none.
// What a key has beyond a flow.Key is not looked at: flows that differ there alone are
// chosen together.
type FlowSampler struct {
	cfg    Config
	secret secret
	n      uint32
	masks  bool
}

// NewFlowSampler takes key and seed from cfg. Nil, which takes all, for n below 2.
func NewFlowSampler(cfg Config, n uint32) *FlowSampler {
	if n < 2 {
		return nil
	}
	const apart = 0x666c6f77 // what chooses flows must not choose their places
	return &FlowSampler{cfg, newSecret(cfg.Seed ^ apart), n, masks(&cfg)}
}

// Take says whether the flow of a packet with this key is chosen.
func (s *FlowSampler) Take(k *flow.Key) bool {
	if s == nil {
		return true
	}
	key := *k
	if s.masks {
		maskKey(&s.cfg, &key)
	}
	if s.cfg.Select.Biflow {
		turn(&key, icmpTypes(&s.cfg.Select))
		key.Input &^= flow.KeyEgress
	}
	return pick(uint32(s.secret.hash(&key)>>32), s.n) == 0
}
