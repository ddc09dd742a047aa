package hook

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/pin"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Other is a program of somebody else on an interface.
type Other struct {
	Point    Point
	How      How            // empty: a TC filter that is no BPF program
	Program  ebpf.ProgramID // 0 for such a filter
	Name     string         // the program's; the filter's kind
	Priority uint16         // of a TC filter
	Generic  bool           // XDP outside the driver
	Pinned   string         // a path where it or its link is pinned, if Describe found one
	Process  string         // who has it open, "cilium-agent (pid 812)", if Describe found one
}

// String is "XDP program xdp_lb (id 12, pinned at /sys/fs/bpf/lb)".
func (o Other) String() string {
	if o.How == "" {
		return fmt.Sprintf("TC %s filter %s (priority %d)", o.Point, o.Name, o.Priority)
	}
	facts := []string{"id " + strconv.FormatUint(uint64(o.Program), 10)}
	if o.How == Clsact {
		facts = append(facts, "priority "+strconv.Itoa(int(o.Priority)))
	}
	if o.Generic {
		facts = append(facts, "generic mode")
	}
	if o.Pinned != "" {
		facts = append(facts, "pinned at "+o.Pinned)
	}
	if o.Process != "" {
		facts = append(facts, "held by "+o.Process)
	}
	kind := "XDP"
	if o.Point != AtXDP {
		kind = "TC " + string(o.Point)
	}
	name := o.Name
	if name == "" {
		name = "without a name"
	}
	return fmt.Sprintf("%s program %s (%s)", kind, name, strings.Join(facts, ", "))
}

// Others are the programs of somebody else on an interface, in the order in
// which they run: XDP, then TC ingress and egress, TCX before filters. own are
// ours (List).
func Others(ifindex uint32, own []Attachment) ([]Other, error) {
	seen, err := onInterface(ifindex)
	if err != nil {
		return nil, err
	}
	var others []Other
	for _, s := range seen {
		if !s.ours(own) {
			others = append(others, s.Other)
		}
	}
	return others, nil
}

// attached is one program or filter on an interface, whose ever it is.
type attached struct {
	Other
	link   link.ID // of TCX
	handle uint32  // of a filter
	mark   bool    // a filter that carries our name and handle
}

// ours says whether our pins, or our mark, account for it.
func (a attached) ours(own []Attachment) bool {
	return a.mark || slices.ContainsFunc(own, func(o Attachment) bool {
		return o.Alive && o.Point == a.Point && (o.How == a.How || a.Point == AtXDP) && o.Program == a.Program && a.Program != 0
	})
}

// onInterface is everything at the three points of an interface, in the order
// in which it runs.
func onInterface(ifindex uint32) ([]attached, error) {
	var found []attached
	xdp, err := xdpPrograms(ifindex)
	if err != nil {
		return nil, err
	}
	for _, p := range xdp {
		found = append(found, attached{Other: Other{Point: AtXDP, How: Link, Program: ebpf.ProgramID(p.id), Generic: p.generic}})
	}
	for _, point := range []Point{Ingress, Egress} {
		tcx, err := tcxPrograms(ifindex, point)
		if err != nil {
			return nil, err
		}
		filters, err := clsactFilters(ifindex, point)
		if err != nil {
			return nil, err
		}
		found = append(append(found, tcx...), filters...)
	}
	for i := range found {
		if a := &found[i]; a.Program != 0 {
			a.Name = programName(a.Program, a.Name)
		}
	}
	return found, nil
}

// programName asks for a program's name; what is known already serves if that
// is not allowed.
func programName(id ebpf.ProgramID, known string) string {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return known
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil || info.Name == "" {
		return known
	}
	return info.Name
}

// tcxPrograms are those of a point; none on kernels without TCX, and of an
// interface that is gone.
func tcxPrograms(ifindex uint32, point Point) ([]attached, error) {
	const tries = 16 // somebody may attach between the two questions that a query is
	var all *link.QueryResult
	var err error
	for range tries {
		all, err = link.QueryPrograms(link.QueryOptions{Target: int(ifindex), Attach: attachType(point)})
		if !errors.Is(err, unix.ENOSPC) {
			break
		}
	}
	if gone(err) || errors.Is(err, ebpf.ErrNotSupported) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("TCX programs at %s: %w", point, err)
	}
	var found []attached
	for _, p := range all.Programs {
		id, _ := p.LinkID()
		found = append(found, attached{Other: Other{Point: point, How: TCX, Program: p.ID}, link: id})
	}
	return found, nil
}

func attachType(point Point) ebpf.AttachType {
	if point == Egress {
		return ebpf.AttachTCXEgress
	}
	return ebpf.AttachTCXIngress
}

// clsactFilters are the filters of a clsact or ingress qdisc.
func clsactFilters(ifindex uint32, point Point) ([]attached, error) {
	if has, err := clsactQdisc(ifindex); err != nil || has == "" {
		return nil, err
	}
	filters, err := netlink.FilterList(device(ifindex), clsactParent(point))
	if err != nil {
		return nil, fmt.Errorf("listing TC filters: %w", err)
	}
	var found []attached
	for _, f := range filters {
		if f.Attrs().Handle == 0 {
			continue // the head of a priority, not a filter
		}
		a := attached{Other: Other{Point: point, Name: f.Type(), Priority: f.Attrs().Priority}, handle: f.Attrs().Handle}
		if b, ok := f.(*netlink.BpfFilter); ok {
			a.How, a.Program, a.Name = Clsact, ebpf.ProgramID(b.Id), b.Name
			a.mark = b.Name == filterName && a.handle == filterHandle
		}
		found = append(found, a)
	}
	return found, nil
}

// The files of bpffs and of /proc that a search looks at, at most.
const (
	maxPins        = 8192
	maxDescriptors = 1 << 18
)

// Describe looks for who has a program: where it or its link is pinned, and
// what process has it open. It reads all of bpffs and of /proc, and leaves out
// what it may not read.
func (o *Other) Describe() {
	if o.Program == 0 {
		return
	}
	o.Pinned = pinOf("/sys/fs/bpf", o.Program)
	o.Process = processOf(o.Program)
}

// pinOf finds a path where a program, or a link of it, is pinned.
func pinOf(root string, id ebpf.ProgramID) (found string) {
	n := 0
	filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if n++; n > maxPins {
			return filepath.SkipAll
		}
		if err != nil || !d.Type().IsRegular() {
			return nil
		}
		if pinnedProgram(path) == id {
			found = path
			return filepath.SkipAll
		}
		return nil
	})
	return found
}

// pinnedProgram is the program that a pin holds, itself or by a link; 0: none.
func pinnedProgram(path string) ebpf.ProgramID {
	p, err := pin.Load(path, nil)
	if err != nil {
		return 0
	}
	defer p.Close()
	switch p := p.(type) {
	case *ebpf.Program:
		return programID(p)
	case link.Link:
		if info, err := p.Info(); err == nil {
			return info.Program
		}
	}
	return 0
}

func programID(p *ebpf.Program) ebpf.ProgramID {
	info, err := p.Info()
	if err != nil {
		return 0
	}
	id, _ := info.ID()
	return id
}

// processOf finds a process that has a program, or a link of it, open.
func processOf(id ebpf.ProgramID) string {
	self := strconv.Itoa(os.Getpid())
	processes, _ := os.ReadDir("/proc")
	line := fmt.Appendf(nil, "prog_id:\t%d\n", id)
	n := 0
	for _, p := range processes {
		pid := p.Name()
		if pid[0] < '0' || pid[0] > '9' || pid == self {
			continue
		}
		fds, _ := os.ReadDir("/proc/" + pid + "/fd")
		for _, fd := range fds {
			if n++; n > maxDescriptors {
				return ""
			}
			what, err := os.Readlink("/proc/" + pid + "/fd/" + fd.Name())
			if err != nil || !strings.HasPrefix(what, "anon_inode:bpf") {
				continue
			}
			info, err := os.ReadFile("/proc/" + pid + "/fdinfo/" + fd.Name())
			if err != nil || !bytes.Contains(info, line) {
				continue
			}
			comm, _ := os.ReadFile("/proc/" + pid + "/comm")
			return fmt.Sprintf("%s (pid %s)", bytes.TrimSpace(comm), pid)
		}
	}
	return ""
}
