package aggregate

import (
	"fmt"
	"strings"

	"weir/flow"
)

// Scheme says what of a flow an aggregate keeps. Its number is the one it has in
// NetFlow v8 (reference: Cisco's NetFlow v8 formats).
type Scheme uint8

// The schemes. 6 to 8 are those of the Catalyst 5000.
const (
	AS Scheme = 1 + iota
	ProtocolPort
	SourcePrefix
	DestinationPrefix
	Prefix
	Destination
	SourceDestination
	FullFlow
	ASToS
	ProtocolPortToS
	SourcePrefixToS
	DestinationPrefixToS
	PrefixToS
	PrefixPort
	schemes
)

const (
	ports      = flow.HasSrcPort | flow.HasDstPort
	interfaces = flow.HasInput | flow.HasOutput
	src        = flow.HasSrc | flow.HasSrcMask
	dst        = flow.HasDst | flow.HasDstMask
	ases       = flow.HasSrcAS | flow.HasDstAS
)

// table is what the schemes keep. Names are IOS's words behind `ip flow-aggregation
// cache`.
var table = [schemes]struct {
	name   string
	fields flow.Field
}{
	AS:                   {"as", ases | interfaces},
	ProtocolPort:         {"protocol-port", flow.HasProto | ports},
	SourcePrefix:         {"source-prefix", src | flow.HasSrcAS | flow.HasInput},
	DestinationPrefix:    {"destination-prefix", dst | flow.HasDstAS | flow.HasOutput},
	Prefix:               {"prefix", src | dst | ases | interfaces},
	Destination:          {"destination", flow.HasDst | flow.HasOutput | flow.HasTOS},
	SourceDestination:    {"source-destination", flow.HasSrc | flow.HasDst | interfaces | flow.HasTOS},
	FullFlow:             {"full-flow", flow.HasSrc | flow.HasDst | ports | flow.HasProto | interfaces | flow.HasTOS},
	ASToS:                {"as-tos", ases | interfaces | flow.HasTOS},
	ProtocolPortToS:      {"protocol-port-tos", flow.HasProto | ports | interfaces | flow.HasTOS},
	SourcePrefixToS:      {"source-prefix-tos", src | flow.HasSrcAS | flow.HasInput | flow.HasTOS},
	DestinationPrefixToS: {"destination-prefix-tos", dst | flow.HasDstAS | flow.HasOutput | flow.HasTOS},
	PrefixToS:            {"prefix-tos", src | dst | ases | interfaces | flow.HasTOS},
	PrefixPort:           {"prefix-port", src | dst | flow.HasProto | ports | interfaces | flow.HasTOS},
}

func (s Scheme) valid() bool { return s > 0 && s < schemes }

func (s Scheme) String() string {
	if !s.valid() {
		return "unknown"
	}
	return table[s].name
}

// Fields is what aggregates of the scheme keep, as far as the flows say it.
func (s Scheme) Fields() flow.Field { return table[s].fields }

// Names lists the schemes.
func Names() []string {
	names := make([]string, 0, schemes-1)
	for s := AS; s < schemes; s++ {
		names = append(names, s.String())
	}
	return names
}

// ParseScheme reads a scheme's name.
func ParseScheme(name string) (Scheme, error) {
	for s := AS; s < schemes; s++ {
		if s.String() == name {
			return s, nil
		}
	}
	return 0, fmt.Errorf("%q: accepted: %s", name, strings.Join(Names(), ", "))
}
