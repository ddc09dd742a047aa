package wire

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"io"
	"math"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"weir/flow"
	"weir/ie"
)

// FileWriter writes records as an IPFIX file: messages back to back, templates
// before their data (RFC 5655). It is a flow.Sink and belongs to one goroutine.
//
// A record is written with all it knows: the fields of the preset Full, times in
// milliseconds (nanoseconds, where those would lose something), the sampling rate (samplingInterval, 34), and what became of a
// collected one: its exporter (130, 131), domain (151), version (214) and time of
// arrival (258). Elements without a column are written as the registry has them.
// The export time is that of the newest record, so that the same records give the
// same file.
type FileWriter struct {
	w      io.Writer
	domain uint32

	msg     []byte // the message that is being made, room for its header first
	data    uint32 // data records in it
	seq     uint32
	newest  int64 // Unix ns
	set     int   // where the open data set begins; 0: none is
	current *fileTemplate

	templates map[string]*fileTemplate // by shape and further fields
	unwritten uint64

	// Of the record at hand.
	key    []byte
	extras []FieldSpec // behind the layout's fields,
	values []byte      // and their values
}

// fileTemplate is a template of the file.
type fileTemplate struct {
	*Layout
	id uint16
}

const (
	maxFileMessage   = 48_000 // octets, before a record with its template, which are less than
	maxFileExtras    = 8_000  // octets of a record's further values, and
	maxFileFields    = 512    // so many of them
	maxFileTemplates = 1000   // then all are withdrawn: readers have limits
)

// NewFileWriter writes to w, as the observation domain of that number.
func NewFileWriter(w io.Writer, domain uint32) *FileWriter {
	return &FileWriter{
		w: w, domain: domain, msg: make([]byte, HeaderIPFIXLen, math.MaxUint16),
		templates: map[string]*fileTemplate{},
	}
}

// Unwritten is how many values of Elements could not be written: lists, and what
// is of no known element or has not its form.
func (f *FileWriter) Unwritten() uint64 { return f.unwritten }

// WriteRecords writes whole messages of the batch.
func (f *FileWriter) WriteRecords(batch []flow.Record) error {
	for i := range batch {
		r := &batch[i]
		if len(f.msg) > maxFileMessage {
			if err := f.flush(); err != nil {
				return err
			}
		}
		f.record(r)
		f.newest = max(f.newest, r.Last)
		if r.Has&flow.HasReceived != 0 {
			f.newest = max(f.newest, r.Received)
		}
	}
	return f.flush()
}

// flush writes the message, if there is something in it.
func (f *FileWriter) flush() error {
	if len(f.msg) == HeaderIPFIXLen {
		return nil
	}
	f.endSet()
	PutHeaderIPFIX(f.msg, Stamp{Unix: f.newest}, f.seq, f.domain)
	_, err := f.w.Write(f.msg)
	f.seq += f.data
	f.msg, f.data = f.msg[:HeaderIPFIXLen], 0
	return err
}

func (f *FileWriter) endSet() {
	if f.set != 0 {
		f.msg = EndSet(f.msg, f.set)
		f.set, f.current = 0, nil
	}
}

// record appends one record to the message, after its template if that is new.
func (f *FileWriter) record(r *flow.Record) {
	shape := fileShape(r)
	f.gather(r)
	f.key = be.AppendUint64(f.key[:0], uint64(shape))
	for _, x := range f.extras {
		f.key = appendSpec(f.key, x)
	}
	t := f.templates[string(f.key)]
	if t == nil {
		t = f.define(shape)
	}
	if f.current != t {
		f.endSet()
		f.set, f.current = len(f.msg), t
		f.msg = AppendSet(f.msg, t.id)
	}
	f.msg = append(t.Append(f.msg, r, 0, 0), f.values...)
	f.data++
}

// fileShape is the shape of what r knows. Where exporters send something anyway, a
// file has nothing.
func fileShape(r *flow.Record) Shape {
	s := ShapeOf(flow.VersionIPFIX, Full, r, false) &^ shapeIPVersion
	if r.Has&flow.HasSrc == 0 {
		s |= shapeNoSrc
	}
	if r.Has&flow.HasDst == 0 {
		s |= shapeNoDst
	}
	if r.Has&bothTimes != bothTimes || !wholeMs(r) {
		s &^= shapeAbsolute
	}
	return s
}

const bothTimes = flow.HasFirst | flow.HasLast

// wholeMs says that milliseconds lose nothing of r's times.
func wholeMs(r *flow.Record) bool { return r.First%1e6 == 0 && r.Last%1e6 == 0 }

// define writes the template of the record at hand.
func (f *FileWriter) define(shape Shape) *fileTemplate {
	f.endSet()
	if len(f.templates) == maxFileTemplates {
		f.msg = AppendWithdrawals(f.msg, false)
		clear(f.templates)
	}
	t := &fileTemplate{id: uint16(FirstTemplateID + len(f.templates))}
	t.Layout = NewLayout(flow.VersionIPFIX, shape, t.id)
	f.templates[string(f.key)] = t
	at := len(f.msg)
	f.msg = AppendTemplate(AppendSet(f.msg, TemplateSetIPFIX), t.id, append(slices.Clip(t.Fields), f.extras...))
	f.msg = EndSet(f.msg, at)
	return t
}

// gather collects what a record says beyond its layout.
func (f *FileWriter) gather(r *flow.Record) {
	f.extras, f.values = f.extras[:0], f.values[:0]
	add := func(id, n uint16, v uint64) {
		f.extras = append(f.extras, FieldSpec{ID: id, Length: n})
		f.values = AppendUint(f.values, v, int(n))
	}
	if whole := wholeMs(r); !whole || r.Has&bothTimes != bothTimes {
		first, last, form := uint16(ie.IDFlowStartMilliseconds), uint16(ie.IDFlowEndMilliseconds), ie.DateTimeMilliseconds
		if !whole {
			first, last, form = ie.IDFlowStartNanoseconds, ie.IDFlowEndNanoseconds, ie.DateTimeNanoseconds
		}
		if r.Has&flow.HasFirst != 0 {
			f.extras = append(f.extras, FieldSpec{ID: first, Length: 8})
			f.values = AppendTime(f.values, form, r.First)
		}
		if r.Has&flow.HasLast != 0 {
			f.extras = append(f.extras, FieldSpec{ID: last, Length: 8})
			f.values = AppendTime(f.values, form, r.Last)
		}
	}
	if r.Has&flow.HasSampling != 0 {
		add(ie.IDSamplingInterval, 4, uint64(r.Sampling))
	}
	if r.Has&flow.HasExporter != 0 {
		if r.Exporter.Is4() {
			add(ie.IDExporterIPv4Address, 4, uint64(be.Uint32(r.Exporter[12:])))
		} else {
			f.extras = append(f.extras, FieldSpec{ID: ie.IDExporterIPv6Address, Length: 16})
			f.values = append(f.values, r.Exporter[:]...)
		}
	}
	if r.Has&flow.HasDomain != 0 {
		add(ie.IDOriginalObservationDomainId, 4, uint64(r.Domain))
	}
	if r.Version != flow.VersionMetered {
		add(ie.IDExportProtocolVersion, 1, uint64(r.Version))
	}
	if r.Has&flow.HasReceived != 0 {
		add(ie.IDCollectionTimeMilliseconds, 8, uint64(floorMs(r.Received)))
	}
	if len(r.Elements) > 0 && r.Has&(flow.HasDropped|flow.HasRule) == 0 { // else they are in the layout
		f.elements(r.Elements)
	}
}

// elements adds what has no column, in the order of names.
func (f *FileWriter) elements(object []byte) {
	var members map[string]json.RawMessage
	if json.Unmarshal(object, &members) != nil {
		f.unwritten++
		return
	}
	names := make([]string, 0, len(members))
	for name := range members {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		e, ok := elementOf(name)
		values := []json.RawMessage{members[name]}
		if len(values[0]) > 0 && values[0][0] == '[' { // that comes more than once
			ok = ok && json.Unmarshal(values[0], &values) == nil
		}
		for _, v := range values {
			if !ok || !f.element(e, v) {
				f.unwritten++
			}
		}
	}
}

// elementOf finds the element of a name as Elements has it, also of one made of
// a number; false if IPFIX cannot name it.
func elementOf(name string) (ie.Element, bool) {
	if e, ok := ie.ByName(name); ok {
		return e, e.ID < 0x8000 // above are v9's
	}
	var e ie.Element
	number, pen := "", uint64(0)
	if rest, ok := strings.CutPrefix(name, "pen"); ok {
		var err error
		var text string
		text, number, _ = strings.Cut(rest, ".")
		if pen, err = strconv.ParseUint(text, 10, 32); err != nil {
			return e, false
		}
	} else {
		number = strings.TrimPrefix(name, "ie")
	}
	id, err := strconv.ParseUint(number, 10, 15)
	e.PEN, e.ID = uint32(pen), uint16(id)
	return e, err == nil
}

// element adds one value; false if it has not the form of its type.
func (f *FileWriter) element(e ie.Element, v json.RawMessage) bool {
	before := len(f.values)
	n, ok := f.value(e.Type, v)
	if !ok || len(f.values) > maxFileExtras || len(f.extras) >= maxFileFields {
		f.values = f.values[:before]
		return false
	}
	f.extras = append(f.extras, FieldSpec{PEN: e.PEN, ID: e.ID, Length: n})
	return true
}

// value appends one value, and tells its length in the template. What elements.go
// writes of each type is read here.
func (f *FileWriter) value(t ie.Type, v json.RawMessage) (length uint16, ok bool) {
	native := uint16(t.Len())
	if len(v) > 0 && v[0] != '"' {
		text := string(bytes.TrimSpace(v))
		switch {
		case t == ie.Boolean && text == "true":
			f.values = append(f.values, 1)
		case t == ie.Boolean && text == "false":
			f.values = append(f.values, 2)
		case t.Signed():
			n, err := strconv.ParseInt(text, 10, 8*int(native))
			f.values = AppendUint(f.values, uint64(n), int(native))
			return native, err == nil
		case t.Integer():
			native = min(native, 8)
			n, err := strconv.ParseUint(text, 10, 64)
			if n>>(8*native-1)>>1 != 0 {
				native = 8 // from an exporter that sends more than it needs
			}
			f.values = AppendUint(f.values, n, int(native))
			return native, err == nil
		case t == ie.Float32 || t == ie.Float64:
			n, err := strconv.ParseFloat(text, 64)
			f.values = be.AppendUint64(f.values, math.Float64bits(n))
			return 8, err == nil
		default:
			return 0, false
		}
		return native, true
	}
	var text string
	if json.Unmarshal(v, &text) != nil {
		return 0, false
	}
	switch t {
	case ie.String:
		f.values = AppendString(f.values, text, VariableLength)
		return VariableLength, true
	case ie.IPv4Address, ie.IPv6Address:
		if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" && len(a.AsSlice()) == int(native) {
			f.values = append(f.values, a.AsSlice()...)
			return native, true
		}
	case ie.MACAddress:
		if a, err := net.ParseMAC(text); err == nil && len(a) == int(native) {
			f.values = append(f.values, a...)
			return native, true
		}
	case ie.DateTimeSeconds, ie.DateTimeMilliseconds, ie.DateTimeMicroseconds, ie.DateTimeNanoseconds:
		if at, err := time.Parse(time.RFC3339Nano, text); err == nil && at.Year() < 2106 {
			f.values = AppendTime(f.values, t, at.UnixNano())
			return native, true
		}
	}
	if t.List() {
		return 0, false
	}
	// Octets, and what had not its type's length.
	octets, err := hex.DecodeString(text)
	if err != nil {
		return 0, false
	}
	f.values = AppendString(f.values, octets, VariableLength)
	return VariableLength, true
}
