package kernel

import "testing"

// TestPrograms says in the list of what was not tried whether this kernel takes
// programs at all.
func TestPrograms(t *testing.T) { Programs(t) }
