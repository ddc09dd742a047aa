package console

import (
	"encoding/json"
	"net/http"
	"strings"
)

// GuardAnswer is the guard: what attacks whom, what is done about it, or would be.
type GuardAnswer struct {
	On      bool          `json:"on"`      // the kill switch
	MayAct  bool          `json:"may_act"` // this console may approve and lift
	Now     string        `json:"now"`
	Groups  []GuardGroup  `json:"groups"`
	Attacks []GuardAttack `json:"attacks"` // those that go on, then the newest
	Actions []GuardAction `json:"actions"` // those open, then the newest
	Limits  []GuardLimit  `json:"limits"`
}

// GuardLimit is a limit of single flows, or of new ones, and the packets it has counted.
type GuardLimit struct {
	Name    string `json:"name"`
	Beyond  uint64 `json:"beyond"`
	Dropped uint64 `json:"dropped"` // of these
	Held    uint64 `json:"held"`    // how often a flow's hold began
}

// GuardGroup is a hostgroup and its traffic in the last second.
type GuardGroup struct {
	Group      string   `json:"group"`
	Mode       string   `json:"mode"`
	Networks   int      `json:"networks"` // 0: every address
	PPS        uint64   `json:"pps"`
	BPS        uint64   `json:"bps"`   // bit/s
	Flows      uint64   `json:"flows"` // new ones a second
	SYNRatio   float64  `json:"syn_ratio"`
	DroppedPPS uint64   `json:"dropped_pps"`
	Thresholds []string `json:"thresholds"` // of each host
}

// GuardAttack is a threshold exceeded, until it is calm again.
type GuardAttack struct {
	ID        uint64         `json:"id"`
	Group     string         `json:"group"`
	Scope     string         `json:"scope"` // host, network, group, source, outgoing
	Target    string         `json:"target"`
	Kind      string         `json:"kind"`
	Threshold string         `json:"threshold"`
	Rate      string         `json:"rate"` // of what fired, in the last second
	Peak      string         `json:"peak"`
	PPS       uint64         `json:"pps"`
	BPS       uint64         `json:"bps"`
	PeakPPS   uint64         `json:"peak_pps"`
	PeakBPS   uint64         `json:"peak_bps"`
	SYNRatio  float64        `json:"syn_ratio"`
	Began     string         `json:"began"`
	Seen      string         `json:"seen"`
	Ended     string         `json:"ended,omitempty"`
	Times     int            `json:"times"` // how often, lately
	Note      string         `json:"note,omitempty"`
	Evidence  *GuardEvidence `json:"evidence"`
}

// GuardEvidence is what the target's packets looked like, from an even sample of them.
type GuardEvidence struct {
	At          string        `json:"at"`
	Sampled     int           `json:"sampled"`
	Packets     uint64        `json:"packets"`
	Sources     int           `json:"sources"` // at least
	Established float64       `json:"established"`
	TopSources  []GuardShare  `json:"top_sources"`
	Protocols   []GuardShare  `json:"protocols"`
	SourcePorts []GuardShare  `json:"source_ports"`
	DestPorts   []GuardShare  `json:"dest_ports"`
	Sizes       []GuardShare  `json:"sizes"`
	TCPFlags    []GuardShare  `json:"tcp_flags"`
	Headers     []GuardHeader `json:"headers"`
}

// GuardShare is a value's share of packets.
type GuardShare struct {
	Value string  `json:"value"`
	Share float64 `json:"share"`
}

// GuardHeader is one sampled flow.
type GuardHeader struct {
	Src      string `json:"src"`
	Dst      string `json:"dst"`
	Proto    uint8  `json:"proto"`
	TCPFlags uint8  `json:"tcp_flags"`
	TOS      uint8  `json:"tos"`
	Fragment bool   `json:"fragment"`
	Packets  uint64 `json:"packets"`
	Bytes    uint64 `json:"bytes"`
}

// GuardAction is what is done about an attack, or would be.
type GuardAction struct {
	ID             uint64  `json:"id"`
	Attack         uint64  `json:"attack"` // 0: somebody's own
	Group          string  `json:"group"`
	What           string  `json:"what"`
	State          string  `json:"state"`
	By             string  `json:"by"`
	Why            string  `json:"why"`
	Note           string  `json:"note,omitempty"`
	Created        string  `json:"created"`
	Started        string  `json:"started,omitempty"`
	Ends           string  `json:"ends,omitempty"`
	Left           float64 `json:"left"` // seconds
	HoldSeconds    float64 `json:"hold_seconds"`
	Hit            float64 `json:"hit"`      // share of the target's packets
	Innocent       float64 `json:"innocent"` // share of its established traffic
	Packets        uint64  `json:"packets"`  // hit
	DroppedPackets uint64  `json:"dropped_packets"`
	DroppedBytes   uint64  `json:"dropped_bytes"`
	Undo           string  `json:"undo,omitempty"`
	Here           bool    `json:"here"` // enforced by this machine
}

func (s *Server) guardPage(w http.ResponseWriter, r *http.Request) error {
	if s.opt.Guard == nil {
		return absent("guard")
	}
	a := s.opt.Guard()
	if a == nil {
		return absent("guard: guard: in the configuration switches it on")
	}
	return writeJSON(w, r, a)
}

// guardRequest is what a screen asks for.
type guardRequest struct {
	Do string `json:"do"` // approve, lift
	ID uint64 `json:"id"`
}

// guardAction is the only route that changes something: it approves and lifts, if the
// configuration lets the console do that. Requests of other sites do not come so far
// (http.CrossOriginProtection), and a form cannot send its media type.
func (s *Server) guardAction(w http.ResponseWriter, r *http.Request) {
	err := func() error {
		if s.opt.GuardDo == nil {
			return absent("guard")
		}
		if kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); kind != "application/json" {
			return &apiError{Status: http.StatusUnsupportedMediaType, Message: "accepted: application/json"}
		}
		var ask guardRequest
		d := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4096))
		d.DisallowUnknownFields()
		if err := d.Decode(&ask); err != nil {
			return badRequest("the request cannot be read: %v; accepted: {\"do\": \"approve\" or \"lift\", \"id\": NUMBER}", err)
		}
		if ask.Do != "approve" && ask.Do != "lift" {
			return badRequest("do %.20q: accepted: approve, lift", ask.Do)
		}
		if err := s.opt.GuardDo(ask.Do, ask.ID, "console, from "+r.RemoteAddr); err != nil {
			return &apiError{Status: http.StatusConflict, Message: err.Error()}
		}
		return s.guardPage(w, r)
	}()
	if err != nil {
		writeError(w, err)
	}
}
