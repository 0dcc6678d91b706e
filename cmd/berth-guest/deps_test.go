package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// maxSize bounds the stripped program, in bytes: it is embedded in berth and
// read by every sandbox at its start.
const maxSize = 6 << 20

// TestDependencies holds what PID 1 is made of against the list beside this
// test, for both architectures. What is added there runs as root in every
// sandbox and is paid for at every start: think before you add, and to take
// over a change that is meant, write what the test prints into deps.txt.
func TestDependencies(t *testing.T) {
	b, err := os.ReadFile("deps.txt")
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Fields(string(b))
	for _, arch := range []string{"amd64", "arm64"} {
		cmd := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("go list: %v", err)
		}
		got := strings.Fields(string(out))
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("on %s the dependencies are not those of deps.txt:\n%s", arch, strings.Join(got, "\n"))
		}
	}
}

// TestStaticAndSmall builds the program as it is shipped; the short run leaves
// the other architecture, whose standard library is compiled for it first, out.
func TestStaticAndSmall(t *testing.T) {
	archs := []string{"amd64", "arm64"}
	if testing.Short() {
		archs = []string{runtime.GOARCH}
	}
	for _, arch := range archs {
		bin := filepath.Join(t.TempDir(), arch)
		cmd := exec.Command("go", "build", "-buildvcs=false", "-trimpath", "-ldflags=-s -w", "-o", bin, ".")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build for %s: %v\n%s", arch, err, out)
		}
		fi, err := os.Stat(bin)
		if err != nil {
			t.Fatal(err)
		}
		if fi.Size() > maxSize {
			t.Errorf("on %s it has %d bytes, more than %d", arch, fi.Size(), maxSize)
		}
		t.Logf("%s: %d bytes", arch, fi.Size())
	}
}
