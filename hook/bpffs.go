package hook

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const (
	bpffsPath = "/sys/fs/bpf"
	weirPath  = "weir/v1" // below it
	mountIt   = "mount -t bpf bpf " + bpffsPath
)

var errNoBPFFS = errors.New("no bpffs at " + bpffsPath)

// place is a folder in a bpffs, perhaps one of another mount namespace.
type place struct {
	path    string // to work with
	name    string // for people
	warning string
	root    *os.File // keeps path valid if that is by descriptor; nil: it is not
}

func (p *place) close() {
	if p.root != nil {
		p.root.Close()
		p.root = nil
	}
}

// findPlace is where the calling thread's network namespace has its pins. With
// mount it mounts a bpffs where there is none; else that is errNoBPFFS.
func findPlace(o Options, mount bool) (*place, error) {
	if o.Dir != "" {
		return &place{path: filepath.Clean(o.Dir), name: filepath.Clean(o.Dir)}, nil
	}
	cookie, first, err := netns()
	if err != nil {
		return nil, err
	}
	p, err := findBPFFS(mount)
	if err != nil {
		return nil, err
	}
	below := weirPath
	if !first {
		below = filepath.Join(weirPath, namespaceFolder(cookie))
	}
	p.path, p.name = filepath.Join(p.path, below), filepath.Join(p.name, below)
	return p, nil
}

func namespaceFolder(cookie uint64) string { return fmt.Sprintf("netns-%d", cookie) }

// namespaceOf reads it back; false for every other name.
func namespaceOf(folder string) (cookie uint64, ok bool) {
	_, err := fmt.Sscanf(folder, "netns-%d", &cookie)
	return cookie, err == nil && folder == namespaceFolder(cookie)
}

// findBPFFS is the bpffs that lives longest. The one at /sys/fs/bpf may be of
// this process's mount namespace alone and end with it (`ip netns exec` makes
// such namespaces, with a fresh /sys), so that of an elder process is looked
// for.
func findBPFFS(mount bool) (*place, error) {
	here := isBPFFS(bpffsPath)
	var trouble error
	for _, pid := range elders() {
		same, err := sameMounts(pid)
		if err != nil {
			continue // it is not for us to see
		}
		if same {
			if !here && mount {
				if err := mountBPFFS(); err != nil {
					trouble = err
					break
				}
				here = true
			}
			if !here {
				return nil, errNoBPFFS
			}
			return &place{path: bpffsPath, name: bpffsPath}, nil
		}
		root, err := openBPFFS(pid, mount)
		if errors.Is(err, errNoBPFFS) && !here {
			return nil, err // there it should be
		}
		if err != nil {
			trouble = errors.Join(trouble, err)
			continue
		}
		if here && sameDevice(root, bpffsPath) {
			root.Close()
			return &place{path: bpffsPath, name: bpffsPath}, nil
		}
		return &place{path: fmt.Sprintf("/proc/self/fd/%d", root.Fd()), name: bpffsPath, root: root}, nil
	}
	// Nobody's mounts but our own are to be had.
	if !here {
		if !mount {
			return nil, errNoBPFFS
		}
		if err := mountBPFFS(); err != nil {
			return nil, fmt.Errorf("%w, and it cannot be mounted (%w): %s", errNoBPFFS, errors.Join(trouble, err), mountIt)
		}
	}
	return &place{path: bpffsPath, name: bpffsPath, warning: "the bpffs at " + bpffsPath +
		" may be of this process's mount namespace alone: programs and flows would end with it; as root of the machine: " + mountIt}, nil
}

// openBPFFS opens the bpffs of another process's mount namespace.
func openBPFFS(pid int, mount bool) (root *os.File, err error) {
	err = inMounts(pid, func() error {
		if !isBPFFS(bpffsPath) {
			if !mount {
				return errNoBPFFS
			}
			if err := mountBPFFS(); err != nil {
				return err
			}
		}
		fd, err := unix.Open(bpffsPath, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: bpffsPath, Err: err}
		}
		root = os.NewFile(uintptr(fd), bpffsPath)
		return nil
	})
	return root, err
}

func isBPFFS(path string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(path, &fs) == nil && fs.Type == unix.BPF_FS_MAGIC
}

func mountBPFFS() error {
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_RELATIME
	if err := unix.Mount("bpf", bpffsPath, "bpf", flags, "mode=0700"); err != nil {
		return fmt.Errorf("mounting a bpffs at %s: %w", bpffsPath, err)
	}
	return nil
}

func sameDevice(f *os.File, path string) bool {
	var a, b unix.Stat_t
	return unix.Fstat(int(f.Fd()), &a) == nil && unix.Stat(path, &b) == nil && a.Dev == b.Dev && a.Ino == b.Ino
}
