package hook

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// initialNetns is the inode of the first network namespace, fixed since 6.18.
const initialNetns = 0xEFFFFFF9

// netns is the calling thread's network namespace: its cookie, unique until
// the next boot, and whether it is the machine's own, the first one.
func netns() (cookie uint64, first bool, err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, false, fmt.Errorf("network namespace: %w", err)
	}
	defer unix.Close(fd)
	cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0, false, fmt.Errorf("cookie of the network namespace (kernel 5.14): %w", err)
	}
	// Until 6.17 inodes were given as they came, but cookies began with 1.
	var st unix.Stat_t
	first = cookie == 1 || unix.Stat("/proc/thread-self/ns/net", &st) == nil && st.Ino == initialNetns
	return cookie, first, nil
}

// onThread runs fn on a thread of its own that ends with it, so that fn may
// change the thread's namespaces.
func onThread(fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		done <- fn()
	}()
	return <-done
}

// inMounts runs fn in the mount namespace of a process.
func inMounts(pid int, fn func() error) error {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	if err != nil {
		return err
	}
	defer ns.Close()
	return onThread(func() error {
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("entering the mount namespace of process %d: %w", pid, err)
		}
		return fn()
	})
}

// sameMounts says whether a process has our mount namespace.
func sameMounts(pid int) (bool, error) {
	var ours, theirs unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/mnt", &ours); err != nil {
		return false, err
	}
	if err := unix.Stat(fmt.Sprintf("/proc/%d/ns/mnt", pid), &theirs); err != nil {
		return false, err
	}
	return ours.Dev == theirs.Dev && ours.Ino == theirs.Ino, nil
}

// elders are processes whose mount namespace may be the machine's, the best
// guess first: pid 1; the kernel's own threads, should pid 1 not be accessible;
// those that started us, the eldest first.
func elders() []int {
	pids := []int{1}
	if kernelThread(2) {
		pids = append(pids, 2)
	}
	var line []int
	for pid := parent(os.Getpid()); pid > 1 && !slices.Contains(line, pid); pid = parent(pid) {
		line = append(line, pid)
	}
	slices.Reverse(line)
	return append(pids, line...)
}

// parent is a process's parent; 0: not visible.
func parent(pid int) int {
	f := statFields(pid)
	if len(f) < 2 {
		return 0
	}
	ppid, _ := strconv.Atoi(f[1])
	return ppid
}

func kernelThread(pid int) bool {
	const isKernelThread = 0x00200000 // PF_KTHREAD
	f := statFields(pid)
	if len(f) < 7 {
		return false
	}
	flags, _ := strconv.ParseUint(f[6], 10, 64)
	return flags&isKernelThread != 0
}

// statFields are those of /proc/PID/stat after the name: state, ppid, ….
func statFields(pid int) []string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	return strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
}

// knownNamespaces are the cookies of all network namespaces that a process is
// in or that have a name. One that only a descriptor or a socket keeps is not
// among them.
func knownNamespaces() (map[uint64]bool, error) {
	var paths []string
	for _, pattern := range []string{"/proc/[0-9]*/ns/net", "/run/netns/*", "/var/run/netns/*", "/run/docker/netns/*"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return nil, err
		}
		paths = append(paths, found...)
	}
	own, _, err := netns()
	if err != nil {
		return nil, err
	}
	cookies := map[uint64]bool{own: true}
	seen := map[uint64]bool{}
	err = onThread(func() error {
		for _, p := range paths {
			var st unix.Stat_t
			if unix.Stat(p, &st) != nil || seen[st.Ino] {
				continue
			}
			fd, err := unix.Open(p, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				continue
			}
			err = unix.Setns(fd, unix.CLONE_NEWNET)
			unix.Close(fd)
			if errors.Is(err, unix.EPERM) {
				return fmt.Errorf("other network namespaces cannot be entered (CAP_SYS_ADMIN): %w", err)
			}
			if err != nil {
				continue // a file of another kind
			}
			c, _, err := netns()
			if err != nil {
				return err
			}
			cookies[c], seen[st.Ino] = true, true
		}
		return nil
	})
	return cookies, err
}
