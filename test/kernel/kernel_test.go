package kernel

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestPrograms says in the list of what was not tried whether this kernel takes
// programs at all.
func TestPrograms(t *testing.T) { Programs(t) }

// TestNote: a process that hangs is believed for as long as it is there.
func TestNote(t *testing.T) {
	was := notes
	defer func() { notes = was }()
	notes = filepath.Join(t.TempDir(), "hangs")
	if err := stillHangs(); err != nil {
		t.Errorf("without a note: %v", err)
	}
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	note(cmd.Process.Pid)
	if stillHangs() == nil {
		t.Error("it is there, and not believed")
	}
	cmd.Process.Kill()
	cmd.Wait()
	if err := stillHangs(); err != nil {
		t.Errorf("it has ended: %v", err)
	}
	os.WriteFile(notes, []byte("1 1\n"), 0o600)
	if err := stillHangs(); err != nil {
		t.Errorf("another process of the same number: %v", err)
	}
}
