package capture

import (
	"errors"

	"weir/packet"
)

// Expression is a filter expression for captures whose packets may be of
// several link types: it is compiled for each as it comes. It belongs to one
// goroutine.
type Expression struct {
	text    string
	link    packet.LinkType // of current
	current *Filter         // nil: nothing of that link type matches
	filters map[packet.LinkType]*Filter
	err     error
}

// ParseExpression checks an expression. Errors are a *FilterError.
func ParseExpression(text string) (*Expression, error) {
	e := &Expression{text: text, filters: map[packet.LinkType]*Filter{}}
	if _, err := CompileFilter(text, packet.LinkEthernet); err != nil {
		var fe *FilterError
		if !errors.As(err, &fe) || !fe.Link { // else sound, for other link types
			return nil, err
		}
	}
	return e, nil
}

// Match says whether a packet passes. A packet whose link type lacks what the
// expression asks for does not.
func (e *Expression) Match(p *Packet) bool {
	if e.current == nil || p.Link != e.link {
		e.use(p.Link)
	}
	return e.current != nil && e.current.Match(p.Data, p.Wire)
}

func (e *Expression) use(link packet.LinkType) {
	f, ok := e.filters[link]
	if !ok {
		var err error
		if f, err = CompileFilter(e.text, link); err != nil {
			f = nil
			if e.err == nil {
				e.err = err
			}
		}
		e.filters[link] = f
	}
	e.link, e.current = link, f
}

// Err is why packets of a link type that came could not be asked; nil: all could.
// "not vlan" matches nothing in raw IP, and somebody should hear of it.
func (e *Expression) Err() error { return e.err }

// Live is the expression for an interface's socket.
func (e *Expression) Live() (*Filter, error) { return CompileFilter(e.text, packet.LinkNetwork) }
