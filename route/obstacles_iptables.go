package route

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Tables of iptables-legacy, which nf_tables does not know: asked as iptables
// does (linux/netfilter_ipv4/ip_tables.h, linux/netfilter/x_tables.h).

// xtFamily is one of the two, with the offsets in its struct ipt_entry.
type xtFamily struct {
	tool, names   string
	family, level int
	targetOffset  int // u16 target_offset, u16 next_offset
	entry         int // size: matches follow
}

var xtFamilies = []xtFamily{
	{"iptables", "ip_tables_names", unix.AF_INET, unix.SOL_IP, 88, 112},
	{"ip6tables", "ip6_tables_names", unix.AF_INET6, unix.SOL_IPV6, 140, 168},
}

const (
	xtNameSize  = 32
	xtHead      = 32                             // struct xt_entry_match and …_target: u16 size, name[29], u8 revision
	xtInfoSize  = xtNameSize + 4 + 5*4 + 5*4 + 8 // struct ipt_getinfo
	xtHookEntry = xtNameSize + 4                 // u32 hook_entry[5], underflow[5], num_entries, size
	xtUnderflow = xtHookEntry + 5*4              //
	xtSize      = xtUnderflow + 5*4 + 4          //
	xtEntries   = (xtNameSize + 4 + 7) &^ 7      // struct ipt_get_entries: name, size, then aligned entries
	xtGetInfo   = 64                             // IPT_SO_GET_INFO, IP6T_SO_GET_INFO
	xtGetTable  = 65                             // …_GET_ENTRIES
	xtLimit     = 256 << 20                      // octets of a table
)

// iptables lists the tables with rules on the way.
func iptables() (found []Obstacle, err error) {
	for _, f := range xtFamilies {
		b, e := perThread(f.names)
		if e != nil {
			if !absent(e) {
				err = errors.Join(err, e)
			}
			continue
		}
		for _, table := range strings.Fields(string(b)) {
			info, entries, e := f.ask(table)
			if e != nil {
				err = errors.Join(err, fmt.Errorf("%s, table %s: %w", f.tool, table, e))
				continue
			}
			d, policy, e := f.read(info, entries)
			if e != nil {
				err = errors.Join(err, fmt.Errorf("%s, table %s: %w", f.tool, table, e))
				continue
			}
			d.nat = d.nat || table == "nat" && d.rules > 0
			if o, ok := rulesObstacle(d, policy, f.tool+"-legacy, table "+table); ok {
				o.Name = f.tool + " " + table
				found = append(found, o)
			}
		}
	}
	return found, err
}

// ask reads a table that is there: to ask for one that is not would make it.
func (f xtFamily) ask(table string) (info, entries []byte, err error) {
	if len(table) >= xtNameSize {
		return nil, nil, errors.New("no name of a table")
	}
	fd, err := unix.Socket(f.family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return nil, nil, err
	}
	defer unix.Close(fd)
	const tries = 5 // it may change between the two questions
	for range tries {
		info = make([]byte, xtInfoSize)
		copy(info, table)
		if err = getsockopt(fd, f.level, xtGetInfo, info); err != nil {
			return nil, nil, err
		}
		size := order.Uint32(info[xtSize:])
		if size > xtLimit {
			return nil, nil, fmt.Errorf("%d octets of rules", size)
		}
		b := make([]byte, xtEntries+int(size))
		copy(b, table)
		order.PutUint32(b[xtNameSize:], size)
		if err = getsockopt(fd, f.level, xtGetTable, b); err == nil {
			return info, b[xtEntries:], nil
		}
		if err != unix.EAGAIN {
			return nil, nil, err
		}
	}
	return nil, nil, err
}

func getsockopt(fd, level, name int, b []byte) error {
	n := uint32(len(b))
	_, _, e := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name), uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&n)), 0)
	if e != 0 {
		return e
	}
	return nil
}

var errTable = errors.New("a table that makes no sense")

// read says what the rules on the way do. The entries of a built-in chain lie
// between its entry and its underflow, which is the policy; those of others,
// which it may jump to, anywhere: what kind they are is taken from all.
func (f xtFamily) read(info, entries []byte) (d does, policy bool, err error) {
	if len(info) < xtInfoSize {
		return d, false, errTable
	}
	kinds, err := f.walk(entries, 0, len(entries))
	if err != nil {
		return d, false, err
	}
	for _, hook := range []int{unix.NF_INET_PRE_ROUTING, unix.NF_INET_FORWARD, unix.NF_INET_POST_ROUTING} {
		if order.Uint32(info[xtNameSize:])&(1<<hook) == 0 {
			continue
		}
		from, to := order.Uint32(info[xtHookEntry+4*hook:]), order.Uint32(info[xtUnderflow+4*hook:])
		if uint64(from) > uint64(len(entries)) || uint64(to) > uint64(len(entries)) || from > to {
			return d, false, errTable
		}
		own, err := f.walk(entries, int(from), int(to))
		if err != nil {
			return d, false, err
		}
		d.rules += own.rules
		if end, err := f.walk(entries, int(to), int(to)+1); err != nil {
			return d, false, err
		} else if end.drop {
			policy = true
		}
	}
	if d.rules > 0 {
		d.ct, d.nat, d.drop = kinds.ct, kinds.nat, kinds.drop
	}
	d.drop = d.drop || policy
	return d, policy, nil
}

// walk takes in the entries from one offset to another.
func (f xtFamily) walk(b []byte, from, to int) (d does, err error) {
	const dropVerdict = -1 // -NF_DROP - 1
	for from < to {
		if from+f.entry > len(b) {
			return d, errTable
		}
		e := b[from:]
		target, next := int(order.Uint16(e[f.targetOffset:])), int(order.Uint16(e[f.targetOffset+2:]))
		if target < f.entry || target+xtHead > next || next > len(e) {
			return d, errTable
		}
		d.rules++
		for m := f.entry; m+xtHead <= target; {
			size := int(order.Uint16(e[m:]))
			if size < xtHead || m+size > target {
				return d, errTable
			}
			d.ct = d.ct || slices.Contains(statefulMatches, text(e[m+2:m+2+29]))
			m += size
		}
		name := text(e[target+2 : target+2+29])
		if name == "" && target+xtHead+4 <= next && int32(order.Uint32(e[target+xtHead:])) == dropVerdict {
			d.drop = true
		}
		d.target(name)
		from += next
	}
	return d, nil
}
