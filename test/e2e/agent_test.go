package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"berth.dev/test/standin"
)

// TestClaudeWorks is the product in one test: the real Claude Code, given a
// task, runs a command in the sandbox, and the workspace on the host shows it.
func TestClaudeWorks(t *testing.T) {
	each(t, func(t *testing.T, u *user) {
		ws, name := u.workspace(t), u.fresh(t)
		secret := filepath.Join(u.home, ".ssh", "id_rsa")
		if err := os.MkdirAll(filepath.Dir(secret), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(secret, []byte("PRIVATE"), 0o644); err != nil {
			t.Fatal(err)
		}
		command := strings.Join([]string{
			"echo made > made.txt",
			"uname -r",
			"ls -la " + u.home,
			fmt.Sprintf("test -e %s && printf SECRET; echo -SEEN", secret),
			"cat /proc/[0-9]*/cmdline | tr '\\0' ' '",
			"id -u; sudo id -u; hostname",
		}, "; ")
		out := u.claude(t, ws, name, command)
		kernel := "gvisor"
		if suiteEngine == microVM {
			kernel = "-amd64"
		}
		for _, want := range []string{kernel, "1000\n0\n" + name, "berth-guest"} {
			if !strings.Contains(out, want) {
				t.Errorf("the answer lacks %q:\n%s", want, out)
			}
		}
		for _, not := range []string{"SECRET-SEEN", "PRIVATE", "supervise", "runsc", "go test"} {
			if strings.Contains(out, not) {
				t.Errorf("the answer has %q:\n%s", not, out)
			}
		}
		u.owns(t, filepath.Join(ws, "made.txt"))
	})
}

// claude has the real Claude Code do a task in a new sandbox, for which it calls
// a tool that runs a command, and returns what it answers: the command's output.
func (u *user) claude(t *testing.T, ws, name, command string, options ...string) string {
	t.Helper()
	api, err := standin.ServeAnthropic(command)
	if err != nil {
		t.Fatal(err)
	}
	defer api.Close()
	args := append([]string{"run", "-q", "--name", name, "--host-port", fmt.Sprint(api.Port)}, options...)
	r := u.run(t, "", []string{
		"ANTHROPIC_API_KEY=sk-ant-e2e-0123456789",
		fmt.Sprintf("ANTHROPIC_BASE_URL=http://host.berth.internal:%d", api.Port),
	}, append(args, "claude", ws, "--", "-p", "do it")...)
	if r.code != 0 {
		t.Fatalf("status %d\n%s\n%s\n%v", r.code, r.out, r.err, api.Paths())
	}
	// What is served there is the user's, and not over TLS: no key goes there.
	if keys := api.Keys(); len(keys) != 1 || keys["sk-ant-e2e-0123456789"] != 0 {
		t.Errorf("what arrived as a key: %v", keys)
	}
	return r.out
}

// owns looks whom a file on the host belongs to.
func (u *user) owns(t *testing.T, path string) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if uid := info.Sys().(*syscall.Stat_t).Uid; int(uid) != u.uid {
		t.Errorf("%s belongs to %d, not to %d", path, uid, u.uid)
	}
}

// TestOtherAgentsStart shows that each agent is installed and runs.
func TestOtherAgentsStart(t *testing.T) {
	each(t, func(t *testing.T, u *user) {
		for _, agent := range []string{"claude", "codex", "gemini", "opencode", "copilot"} {
			t.Run(agent, func(t *testing.T) {
				ws := u.workspace(t)
				out := u.must(t, ws, "run", "-q", "--rm", agent, ws, "--", "--version")
				if !strings.ContainsAny(out, "0123456789") {
					t.Errorf("%s --version printed %q", agent, out)
				}
			})
		}
	})
}
