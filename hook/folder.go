package hook

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Folder is where the maps and programs of a network namespace are pinned,
// held by this process alone.
//
// Below it are the maps, pinned by whose they are, and links/: IFINDEX-POINT-HOW
// (3-xdp-link, 3-egress-tcx) is what is attached there, a link, or a program that
// belongs to the interface; IFINDEX-clsact is an empty folder that says that the
// qdisc was made by us. Folders of other network namespaces are in that of the
// machine's own.
type Folder struct {
	place
	lock *os.File // the folder itself
}

const (
	linksFolder = "links"
	clsactMark  = "clsact"
	newMark     = "-new" // of a pin that is to take another's place
)

// ErrHeld: another process has the folder; errors.As gives the *HeldError.
var ErrHeld = errors.New("held by another process")

// HeldError says who holds a folder.
type HeldError struct {
	Dir string
	PID int // 0: not visible from here
}

func (e *HeldError) Error() string {
	by := "another process"
	if e.PID > 0 {
		by = "process " + strconv.Itoa(e.PID)
		if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", e.PID)); err == nil {
			by += " (" + string(bytes.TrimSpace(comm)) + ")"
		}
	}
	return fmt.Sprintf("%s already meters here and holds %s: stop it first", by, e.Dir)
}

func (e *HeldError) Unwrap() error { return ErrHeld }

// Open finds the folder of this network namespace, mounts a bpffs where there
// is none, makes the folder, and locks it until Close or the process's end. A
// folder that is locked is a *HeldError.
func Open(o Options) (*Folder, error) {
	p, err := findPlace(o, true)
	if err != nil {
		return nil, err
	}
	f := &Folder{place: *p}
	if err := f.take(true); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

// take locks the folder, and makes it if that is wanted.
func (f *Folder) take(create bool) error {
	const tries = 16 // somebody else's Remove may come between
	var err error
	for range tries {
		if create {
			if err = os.MkdirAll(f.path, 0o700); err != nil {
				if errors.Is(err, os.ErrNotExist) {
					continue
				}
				return fmt.Errorf("%s: %w", f.name, err)
			}
		}
		if !isBPFFS(f.path) {
			if _, err := os.Stat(f.path); err != nil {
				return fmt.Errorf("%s: %w", f.name, err)
			}
			return fmt.Errorf("%s is not in a bpffs: %s", f.name, mountIt)
		}
		if f.lock, err = os.OpenFile(f.path, unix.O_RDONLY|unix.O_DIRECTORY, 0); err != nil {
			if create && errors.Is(err, os.ErrNotExist) {
				continue
			}
			return fmt.Errorf("%s: %w", f.name, err)
		}
		err = unix.Flock(int(f.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			pid, _ := holder(f.path)
			f.unlock()
			return &HeldError{Dir: f.name, PID: pid}
		}
		if err != nil {
			f.unlock()
			return fmt.Errorf("%s: locking: %w", f.name, err)
		}
		if create {
			err = os.MkdirAll(filepath.Join(f.path, linksFolder), 0o700)
		}
		if sameDevice(f.lock, f.path) && err == nil {
			return nil // what we locked is what is there, and it is not empty any more
		}
		f.unlock()
	}
	return fmt.Errorf("%s comes and goes: %w", f.name, err)
}

func (f *Folder) unlock() {
	if f.lock != nil {
		f.lock.Close()
		f.lock = nil
	}
}

// Dir is where to pin maps. It is a path for this process (it may go by one of
// its descriptors), valid until Close; Name is for people.
func (f *Folder) Dir() string  { return f.path }
func (f *Folder) Name() string { return f.name }

// Warning is what the operator should know of the folder; empty: nothing.
func (f *Folder) Warning() string { return f.warning }

// Close lets the folder go. Programs stay attached, pins stay; an empty folder
// does not.
func (f *Folder) Close() error {
	if f.lock == nil {
		return nil
	}
	if os.Remove(filepath.Join(f.path, linksFolder)) == nil {
		f.removeFolders()
	}
	f.unlock()
	f.close()
	return nil
}

// Remove takes our programs off all interfaces and removes all pins and
// folders. The Folder is closed then; after an error it is still there.
func (f *Folder) Remove() error {
	here, err := f.here()
	if err != nil {
		return err
	}
	all, err := readPins(f.path, here)
	if err != nil {
		return err
	}
	for _, h := range all {
		err = errors.Join(err, h.remove())
	}
	if err != nil {
		return err
	}
	if err := clear(f.path); err != nil {
		return err
	}
	f.removeFolders()
	f.unlock()
	f.close()
	return nil
}

// clear removes what is in a folder, but for those of other namespaces.
func clear(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if _, other := namespaceOf(e.Name()); other {
			continue
		}
		if e.IsDir() {
			if err := clear(path); err != nil {
				return err
			}
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// removeFolders removes the folder and weir's others above it, as far as they
// are empty.
func (f *Folder) removeFolders() {
	for dir := f.path; os.Remove(dir) == nil; {
		dir = filepath.Dir(dir)
		if base := filepath.Base(dir); base != "v1" && base != "weir" {
			return
		}
	}
}

// here says whether the folder is of the calling thread's network namespace.
func (f *Folder) here() (bool, error) { return isHere(f.path) }

func isHere(path string) (bool, error) {
	cookie, first, err := netns()
	if err != nil {
		return false, err
	}
	if c, ok := namespaceOf(filepath.Base(path)); ok {
		return c == cookie, nil
	}
	return first || !strings.HasSuffix(path, "/"+weirPath), nil // a folder chosen by option is
}

// Dir is the folder of this network namespace for people to read, whether it
// is there or not. The error says what is missing.
func Dir(o Options) (string, error) {
	p, err := findPlace(o, false)
	if err != nil {
		return "", err
	}
	defer p.close()
	return p.name, nil
}

// In calls f with the folder of this network namespace, whether it is there or not: a
// path for this process, which may go by one of its descriptors and holds until f is
// over. The error says what is missing.
func In(o Options, f func(dir string) error) error {
	p, err := findPlace(o, false)
	if err != nil {
		return err
	}
	defer p.close()
	return f(p.path)
}

// Holder is the process that holds the folder of this network namespace. pid is
// 0 if it is not visible from here.
func Holder(o Options) (pid int, held bool) {
	p, err := findPlace(o, false)
	if err != nil {
		return 0, false
	}
	defer p.close()
	return holder(p.path)
}

// holder reads the system's table of locks.
func holder(path string) (pid int, held bool) {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return 0, false
	}
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		return 0, false
	}
	// 1: FLOCK  ADVISORY  WRITE 812 00:2e:7 0 EOF
	file := fmt.Sprintf("%02x:%02x:%d", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino)
	for line := range strings.Lines(string(locks)) {
		w := strings.Fields(line)
		if len(w) >= 6 && w[1] == "FLOCK" && w[5] == file {
			pid, _ := strconv.Atoi(w[4])
			return max(pid, 0), true
		}
	}
	return 0, false
}

// DetachAll takes our programs off all interfaces of this network namespace and
// removes all pins. It is no error if there is nothing.
func DetachAll(o Options) error {
	p, err := findPlace(o, false)
	if errors.Is(err, errNoBPFFS) {
		return nil
	}
	if err != nil {
		return err
	}
	f := &Folder{place: *p}
	if err := f.take(false); err != nil {
		f.close()
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	}
	return f.Remove()
}
