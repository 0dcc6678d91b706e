package cli

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/creack/pty"

	"berth.dev/internal/engine"
	"berth.dev/internal/policyfile"
	"berth.dev/internal/sandbox"
)

// TestApproveAsks: on a terminal the user is asked, and only yes means yes.
func TestApproveAsks(t *testing.T) {
	project, home := t.TempDir(), t.TempDir()
	file := policyfile.ProjectFile(project)
	if err := errors.Join(os.Mkdir(filepath.Dir(file), 0o700), os.WriteFile(file, []byte("[[allow]]\nhost = \"a.example\"\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		answer string
		status int
	}{{"\n", exitBerth}, {"n\n", exitBerth}, {"yeah\n", exitBerth}, {"\x04", exitBerth}, {"Yes\n", 0}} {
		user, tty, err := pty.Open()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := user.WriteString(tt.answer); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		status := Main([]string{"policy", "approve", project}, Stdio{In: tty, Out: &out, Err: tty}, Env{
			Vars: []string{"BERTH_HOME=" + home, "HOME=" + home}, Dir: project, Engines: engine.NewRegistry(absent{}),
		})
		user.Close()
		tty.Close()
		if status != tt.status || !strings.Contains(out.String(), "+   allow   a.example") {
			t.Errorf("%q: status %d\n%s", tt.answer, status, out.String())
		}
		src := policyfile.ForUser(filepath.Join(home, "config"))
		p, err := policyfile.Look(project, src.Approvals)
		if err != nil || p.Current != (tt.status == 0) {
			t.Errorf("%q: approved %v, %v", tt.answer, p.Current, err)
		}
	}
	if err := newApp(Stdio{In: strings.NewReader("y\n"), Err: &bytes.Buffer{}}, Env{}).askYes("?"); !errors.Is(err, sandbox.ErrPrecondition) {
		t.Errorf("without a terminal: %v", err)
	}
}
