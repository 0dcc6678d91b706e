package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"berth.dev/test/standin"
)

// inMicroVMs makes microvm the engine of the sandboxes that a test makes for a
// user. The user's other settings are put back.
func inMicroVMs(t *testing.T, u *user) {
	t.Helper()
	file := filepath.Join(u.berthHome, "config", "config.toml")
	before, err := os.ReadFile(file)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err != nil {
			os.Remove(file)
		} else if werr := os.WriteFile(file, before, 0o600); werr != nil {
			t.Error(werr)
		}
	})
	if err := os.WriteFile(file, append([]byte("engine = \"microvm\"\n"), before...), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Dir(file), file} {
		if err := os.Chown(path, u.uid, u.uid); err != nil {
			t.Fatal(err)
		}
	}
}

// TestMicroVM is the product on the other engine: the real Claude Code calls a
// tool, what it wrote is the user's, and what the guest keeps outlives a stop
// and kill -9. It is one test, and of a few boots, because without hardware
// virtualisation each takes ten seconds and more.
func TestMicroVM(t *testing.T) {
	each(t, func(t *testing.T, u *user) {
		inMicroVMs(t, u)
		ws, name := u.workspace(t), u.fresh(t)
		command := "echo made > made.txt; uname -r; id -u; sudo id -u; hostname; sudo sh -c 'echo kept > /etc/kept; sync'"
		api, err := standin.ServeAnthropic(command)
		if err != nil {
			t.Fatal(err)
		}
		defer api.Close()
		r := u.run(t, "", []string{
			"ANTHROPIC_API_KEY=sk-ant-e2e-0123456789",
			fmt.Sprintf("ANTHROPIC_BASE_URL=http://host.berth.internal:%d", api.Port),
		}, "run", "-q", "--name", name, "-m", "2g", "--host-port", fmt.Sprint(api.Port), "claude", ws, "--", "-p", "do it")
		if r.code != 0 {
			t.Fatalf("status %d\n%s\n%s\n%v", r.code, r.out, r.err, api.Paths())
		}
		if !strings.Contains(r.out, "-amd64\n1000\n0\n"+name) || strings.Contains(r.out, "gvisor") {
			t.Errorf("the answer is %s", r.out)
		}
		info, err := os.Stat(filepath.Join(ws, "made.txt"))
		if err != nil {
			t.Fatal(err)
		}
		if uid := info.Sys().(*syscall.Stat_t).Uid; int(uid) != u.uid {
			t.Errorf("made.txt belongs to %d, not to %d", uid, u.uid)
		}
		u.must(t, "", "stop", name)
		if out := u.must(t, "", "exec", name, "cat", "/etc/kept"); out != "kept\n" {
			t.Errorf("after a stop the guest has %q", out)
		}
		testMicroVMDocker(t, u, ws, name)
		var all []struct {
			PIDs struct{ Engine []int } `json:"pids"`
		}
		if err := json.Unmarshal([]byte(u.must(t, "", "inspect", name)), &all); err != nil || len(all) != 1 || len(all[0].PIDs.Engine) == 0 {
			t.Fatalf("the engine's processes: %v, %v", all, err)
		}
		for _, pid := range all[0].PIDs.Engine {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Errorf("kill %d: %v", pid, err)
			}
		}
		eventually(t, "the sandbox is stopped", func() bool {
			return strings.Contains(u.must(t, "", "inspect", name), `"status": "stopped"`)
		})
		if out := u.must(t, "", "exec", name, "cat", "/etc/kept"); out != "kept\n" {
			t.Errorf("after kill -9 the guest has %q", out)
		}
	})
}

// testMicroVMDocker builds and runs a container, with Docker's own iptables
// rules, whose request for a web page meets the sandbox's policy.
func testMicroVMDocker(t *testing.T, u *user, ws, name string) {
	t.Helper()
	write(t, u, filepath.Join(ws, "Dockerfile"), dockerfile)
	// In pieces: emulated, each takes the better part of a minute.
	for _, step := range []struct{ script, want string }{
		{`mkdir -p /tmp/root/bin /tmp/root/usr/bin
		for f in sh cat id curl; do p=$(readlink -f $(command -v $f)); for l in $p $(ldd $p | grep -o '/[^ )]*'); do mkdir -p /tmp/root$(dirname $l); cp -L $l /tmp/root$l; done; done
		ln -sf $(readlink -f $(command -v dash)) /tmp/root/bin/sh
		for f in cat id curl; do [ -e /tmp/root/usr/bin/$f ] || cp $(command -v $f) /tmp/root/usr/bin/$f; done
		tar -C /tmp/root -cf root.tar .`, ""},
		{"docker info -f '{{.Driver}}'", "overlay2\n"},
		{"docker build -q -t made . >/dev/null", ""},
		{"docker run --rm made", "built\n"},
		{"docker run --rm made curl -s -o /dev/null -w '%{http_code}\n' http://not-allowed.example/", "403\n"},
		{"sudo iptables -t nat -S POSTROUTING | grep -c MASQUERADE", "1\n"},
	} {
		if out := u.must(t, "", "exec", "-w", ws, name, "sh", "-ec", step.script); out != step.want {
			t.Errorf("%s: %q, want %q", step.script, out, step.want)
		}
	}
}
