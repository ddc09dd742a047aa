package differential

import (
	"bytes"
	"encoding/csv"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// oracle is the path of a script of the corpus, or a skip that says what is
// missing.
func oracle(t *testing.T, script string) string {
	t.Helper()
	dir := os.Getenv("WEIR_CORPUS")
	if dir == "" {
		dir = "../../../shared/corpus"
	}
	path, err := filepath.Abs(filepath.Join(dir, script))
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		t.Skipf("skipped: %v; set WEIR_CORPUS to the corpus's folder", err)
	}
	for _, tool := range []string{"python3", "tshark"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("skipped: %s is not installed (it says what is right)", tool)
		}
	}
	return path
}

// ask runs an oracle and returns its rows, by column.
func ask(t *testing.T, script string, args ...string) []map[string]string {
	t.Helper()
	cmd := exec.Command("python3", append([]string{oracle(t, script)}, args...)...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", script, strings.Join(args, " "), err, errs.String())
	}
	lines, err := csv.NewReader(bytes.NewReader(out)).ReadAll()
	if err != nil || len(lines) == 0 {
		t.Fatalf("%s %s: %d lines, %v\n%s", script, strings.Join(args, " "), len(lines), err, errs.String())
	}
	rows := make([]map[string]string, 0, len(lines)-1)
	for _, l := range lines[1:] {
		m := map[string]string{}
		for i, name := range lines[0] {
			m[name] = l[i]
		}
		rows = append(rows, m)
	}
	return rows
}

// seeds are those that always run, and what WEIR_DIFFERENTIAL adds.
func seeds(t *testing.T, always ...uint64) []uint64 {
	v := os.Getenv("WEIR_DIFFERENTIAL")
	if v == "" {
		return always
	}
	from, to, isRange := strings.Cut(v, "-")
	a, err := strconv.ParseUint(from, 10, 32)
	b := a
	if isRange {
		if err == nil {
			b, err = strconv.ParseUint(to, 10, 32)
		}
		always = nil
	} else {
		a, b = 1000, 1000+a-1
	}
	if err != nil {
		t.Fatalf("WEIR_DIFFERENTIAL=%s: a number of seeds, or FROM-TO would be accepted", v)
	}
	for ; a <= b; a++ {
		always = append(always, a)
	}
	return always
}

// everySeed says whether the seeds that always run were run: those meet every
// exception.
func everySeed() bool { return !strings.Contains(os.Getenv("WEIR_DIFFERENTIAL"), "-") }

// folder is where captures are written: WEIR_DIFFERENTIAL_KEEP, for those who
// want to look at them, or one that is gone after the test.
func folder(t *testing.T) string {
	if dir := os.Getenv("WEIR_DIFFERENTIAL_KEEP"); dir != "" {
		return dir
	}
	return t.TempDir()
}
