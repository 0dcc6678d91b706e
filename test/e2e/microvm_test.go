package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"berth.dev/internal/engine/enginetest"
)

// The tests in this file, and adversary_microvm_test.go, are the product on the
// other engine, in few boots: without hardware virtualisation each takes seconds,
// and what is done inside many times what it takes elsewhere. All other tests of
// this package run on it with BERTH_TEST_ENGINE=microvm (make test-microvm), half
// an hour more. make test leaves them to gvisor alone, because what they look at is
// the same code for both: the host's end of the wire, secrets, SSH, the image.
// docs/engines.md has the list.

const microVM = "microvm"

// fetchKernel has the first user's Berth fetch the kernel of microVMs, where that
// of the last run does not serve.
var fetchKernel = sync.OnceValue(func() error {
	me := suite.users[0]
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := me.command(ctx, "", "run", "-q", "--rm", "--force", "--engine", microVM, "shell", me.home, "--", "-c", "true")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("fetch the kernel of microVMs: %w\n%s", err, out)
	}
	return nil
})

// withKernel gives a user that kernel, so that it is fetched once, and from
// where there is a network.
func withKernel(u *user) error {
	if err := fetchKernel(); err != nil {
		return err
	}
	const kernel, current = "data/cache/" + microVM, "current.json"
	from, to := filepath.Join(suite.users[0].berthHome, kernel), filepath.Join(u.berthHome, kernel)
	ours, err := os.ReadFile(filepath.Join(from, current))
	if err != nil {
		return err
	}
	if theirs, err := os.ReadFile(filepath.Join(to, current)); err == nil && string(theirs) == string(ours) {
		return nil
	}
	if err := errors.Join(os.RemoveAll(to), os.MkdirAll(filepath.Dir(to), 0o700)); err != nil {
		return err
	}
	for _, cmd := range [][]string{{"cp", "-a", from, to}, {"chown", "-R", fmt.Sprint(u.uid, ":", u.uid), filepath.Dir(to)}} {
		if out, err := exec.Command(cmd[0], cmd[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %w\n%s", cmd, err, out)
		}
	}
	return nil
}

// microVMs is each, or least, for tests of that engine.
func microVMs(t *testing.T, whom func(*testing.T, func(*testing.T, *user)), test func(*testing.T, *user)) {
	t.Helper()
	whom(t, func(t *testing.T, u *user) {
		if err := withKernel(u); err != nil {
			t.Fatal(err)
		}
		test(t, u)
	})
}

// TestMicroVM: the real Claude Code calls a tool, what it wrote is the user's,
// Docker works as on any Linux, and what the guest keeps outlives a stop and
// kill -9.
func TestMicroVM(t *testing.T) {
	microVMs(t, each, func(t *testing.T, u *user) {
		ws, name := u.workspace(t), u.fresh(t)
		out := u.claude(t, ws, name, "echo made > made.txt; uname -r; id -u; sudo id -u; hostname; sudo sh -c 'echo kept > /etc/kept'", "--engine", microVM, "-m", "2g")
		if !strings.Contains(out, "-amd64\n1000\n0\n"+name) || strings.Contains(out, "gvisor") {
			t.Errorf("the answer is %s", out)
		}
		u.owns(t, filepath.Join(ws, "made.txt"))
		testMicroVMConfined(t, u, name)
		testMicroVMDocker(t, u, ws, name)
		testMicroVMEngineStays(t, u, ws, name)
		testMicroVMKept(t, u, ws, name)
	})
}

// testMicroVMConfined looks at the processes from the host: also when root runs
// Berth, QEMU is nobody who may do anything.
func testMicroVMConfined(t *testing.T, u *user, name string) {
	t.Helper()
	pids := u.inspect(t, name).PIDs.Engine
	if len(pids) != 2 {
		t.Fatalf("processes %v, want QEMU and its file server", pids)
	}
	enginetest.Posture(t, pids[0], "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "CapBnd:\t0000000000000000")
	enginetest.Posture(t, pids[1])
	for _, pid := range pids {
		for _, path := range []string{filepath.Join(u.berthHome, "data", "sandboxes"), filepath.Join(u.home, ".ssh"), "/etc/passwd", suite.berth} {
			// The one disk that is QEMU's lies below the first of them.
			entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/root%s", pid, path))
			if err == nil && len(entries) > 1 || err == nil && path != filepath.Join(u.berthHome, "data", "sandboxes") {
				t.Errorf("process %d sees %s: %v", pid, path, entries)
			}
		}
	}
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

// testMicroVMEngineStays: a sandbox is of the engine that it was made with.
func testMicroVMEngineStays(t *testing.T, u *user, ws, name string) {
	t.Helper()
	r := u.run(t, "", nil, "run", "--engine", "gvisor", "--name", name, "claude", ws, "--", "--version")
	if r.code == 0 || !strings.Contains(r.err, "engine is microvm, not gvisor") || !strings.Contains(r.err, "berth rm "+name) {
		t.Errorf("asked for with another engine: %+v", r)
	}
}

// testMicroVMKept: what the guest wrote is there after QEMU was killed, and
// after a stop; then the disk is one that e2fsck finds no fault with.
func testMicroVMKept(t *testing.T, u *user, ws, name string) {
	t.Helper()
	u.must(t, "", "exec", name, "sh", "-c", "sync; sudo sh -c 'for i in $(seq 300); do echo $i > /var/tmp/$i; done' &")
	in := u.inspect(t, name)
	for _, pid := range in.PIDs.Engine {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Errorf("kill %d: %v", pid, err)
		}
	}
	eventually(t, "the sandbox is stopped", func() bool { return u.inspect(t, name).Status == "stopped" })
	if out := u.must(t, "", "exec", name, "sh", "-c", "cat /etc/kept; sudo sh -c 'echo again > /etc/again'"); out != "kept\n" {
		t.Errorf("after kill -9 the guest has %q", out)
	}
	u.must(t, "", "stop", name)
	if out, err := exec.Command("e2fsck", "-f", "-n", filepath.Join(in.Dir, "root", "state.img")).CombinedOutput(); err != nil {
		t.Errorf("the disk after kill -9 and a stop: %v\n%s", err, out)
	}
	if out := u.must(t, "", "exec", name, "cat", "/etc/kept", "/etc/again"); out != "kept\nagain\n" {
		t.Errorf("after a stop the guest has %q", out)
	}
}
