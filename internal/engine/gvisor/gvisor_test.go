package gvisor

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"berth.dev/internal/engine/enginetest"
	"berth.dev/internal/unprivileged"
)

func TestMain(m *testing.M) {
	Reexec()
	unprivileged.ReexecTest()
	if cgo {
		os.Exit(withoutCgo())
	}
	os.Exit(m.Run())
}

// withoutCgo runs these tests as they can be run, for who says no more than
// go test on a machine with a C compiler.
func withoutCgo() int {
	dir, err := os.MkdirTemp("", "gvisor-test-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "gvisor.test")
	build := exec.Command("go", "test", "-c", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	test := exec.Command(program, os.Args[1:]...)
	for _, cmd := range []*exec.Cmd{build, test} {
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if err := cmd.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "without cgo:", err)
			return 1
		}
	}
	return 0
}

func TestConformance(t *testing.T) { enginetest.Suite(t, New()) }

// BenchmarkStart is a machine from nothing to its first word, and away again.
func BenchmarkStart(b *testing.B) { enginetest.BenchmarkStart(b, New()) }

func TestUserNamespaceHint(t *testing.T) {
	for name, c := range map[string]struct{ file, value, want string }{
		"ubuntu":    {"kernel/apparmor_restrict_unprivileged_userns", "1\n", "apparmor_restrict_unprivileged_userns=0"},
		"debian":    {"kernel/unprivileged_userns_clone", "0\n", "unprivileged_userns_clone=1"},
		"limit":     {"user/max_user_namespaces", "0\n", "max_user_namespaces=15000"},
		"container": {"kernel/other", "1\n", "seccomp=unconfined"},
	} {
		root := t.TempDir()
		path := filepath.Join(root, "proc/sys", c.file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(c.value), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := userNamespaceHint(root); !strings.Contains(got, c.want) {
			t.Errorf("%s: %q lacks %q", name, got, c.want)
		}
	}
}

// TestPosture looks at a live machine from the host.
func TestPosture(t *testing.T) {
	pids := enginetest.Boot(t, New()).Processes()
	if len(pids) != 2 {
		t.Fatalf("processes %v, want a sentry and a gofer", pids)
	}
	for _, pid := range pids {
		enginetest.Posture(t, pid)
	}
}
