package microvm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"berth.dev/internal/engine"
	"berth.dev/internal/engine/enginetest"
	"berth.dev/internal/engine/microvm/bootapi"
	"berth.dev/internal/engine/microvm/kernel"
	"berth.dev/internal/sandbox"
	"berth.dev/internal/unprivileged"
)

func TestMain(m *testing.M) {
	Reexec()
	unprivileged.ReexecTest()
	os.Exit(m.Run())
}

// boots ends a test that needs QEMU where there is no time for that, as without
// hardware virtualisation each machine takes seconds; and on an architecture
// that the engine says it is not made for.
func boots(t *testing.T) {
	t.Helper()
	switch {
	case testing.Short():
		t.Skip("it boots machines, which is not short")
	case runtime.GOARCH != "amd64":
		t.Skip("the engine is made for amd64")
	}
}

func TestConformance(t *testing.T) {
	boots(t)
	enginetest.Suite(t, New())
}

// BenchmarkStart is a machine from nothing to its first word, and away again.
func BenchmarkStart(b *testing.B) { enginetest.BenchmarkStart(b, New()) }

// TestOtherMachine boots the machine type that serves where the smaller one
// does not work.
func TestOtherMachine(t *testing.T) {
	boots(t)
	m := enginetest.Boot(t, &Engine{machine: machineQ35}).(*machine)
	if m.hw.machine != machineQ35 {
		t.Errorf("it is a %s", m.hw.machine)
	}
}

// TestPosture looks at a live machine from the host: QEMU has no capability
// either, and neither it nor the file server has an environment, or sees of the
// host's files more than their own.
func TestPosture(t *testing.T) {
	boots(t)
	ws, beside := t.TempDir(), filepath.Join(t.TempDir(), "beside")
	if err := os.WriteFile(beside, []byte("the host's"), 0o644); err != nil {
		t.Fatal(err)
	}
	m := enginetest.Boot(t, New(), func(cfg *engine.Config) {
		cfg.Mounts = []sandbox.Mount{{Host: ws, Guest: ws}}
	}).(*machine)
	none := []string{"CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "CapBnd:\t0000000000000000", "CapAmb:\t0000000000000000"}
	enginetest.Posture(t, m.qemu.Process.Pid, none...)
	servers := append([]int{m.server.Process.Pid}, children(m.server.Process.Pid)...)
	for _, pid := range servers {
		enginetest.Posture(t, pid)
	}
	for _, pid := range append(servers, m.qemu.Process.Pid) {
		if env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid)); err != nil || len(env) > 0 {
			t.Errorf("process %d has the environment %q, %v", pid, env, err)
		}
		for _, path := range []string{beside, "/etc/passwd", "/var/log", "/proc/1"} {
			if _, err := os.Stat(fmt.Sprintf("/proc/%d/root%s", pid, path)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("process %d sees %s: %v", pid, path, err)
			}
		}
	}
}

// children are a process's, on one level.
func children(pid int) []int {
	var all []int
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	for f := range strings.FieldsSeq(string(data)) {
		if child, err := strconv.Atoi(f); err == nil {
			all = append(all, child)
		}
	}
	return all
}

// TestClock: a guest whose clock is wrong, as after the host slept, is set right.
func TestClock(t *testing.T) {
	boots(t)
	em, do := enginetest.BootProbe(t, New())
	m := em.(*machine)
	off := func() time.Duration {
		t.Helper()
		var ms int64
		if _, err := fmt.Sscan(do("time"), &ms); err != nil {
			t.Fatal(err)
		}
		return time.Since(time.UnixMilli(ms))
	}
	if err := m.control.call(t.Context(), bootapi.Request{Op: bootapi.OpTime, UnixNS: time.Now().Add(-time.Hour).UnixNano()}); err != nil {
		t.Fatal(err)
	}
	if d := off(); d < 59*time.Minute {
		t.Fatalf("the guest's clock cannot be made wrong: it is off by %s", d)
	}
	m.setTime()
	if d := off(); d.Abs() > 2*time.Second {
		t.Errorf("the guest's clock is off by %s", d)
	}
}

// TestMemoryReturns: what the guest frees is the host's again, soon and without
// anybody asking for it.
func TestMemoryReturns(t *testing.T) {
	boots(t)
	em, do := enginetest.BootProbe(t, New(), func(cfg *engine.Config) { cfg.Resources.Memory = 1 << 30 })
	m := em.(*machine)
	const size = 300 << 20
	used := func() int64 {
		t.Helper()
		n, err := m.Memory()
		if err != nil {
			t.Fatal(err)
		}
		return int64(n)
	}
	before := used()
	do("setuid", "0")
	do("fill", "/dev/shm/much", fmt.Sprint(size))
	full := used()
	if full-before < size*9/10 {
		t.Fatalf("the guest filled %d bytes, and uses %d more", size, full-before)
	}
	do("remove", "/dev/shm/much")
	for deadline := time.Now().Add(time.Minute); full-used() < size*8/10; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("of %d bytes that the guest freed, the host has %d back", size, full-used())
		}
	}
	t.Logf("MB: %d before, %d full, %d after", before>>20, full>>20, used()>>20)
}

// offline, set to a folder, is a run of TestOffline without a network; the
// folder is the cache of one with it.
const offline = "BERTH_TEST_OFFLINE"

// TestOffline: a kernel that was fetched once serves without a network, and
// where there is none, the error says so.
func TestOffline(t *testing.T) {
	boots(t)
	if cache := os.Getenv(offline); cache != "" {
		testOffline(t, cache)
		return
	}
	var cache string
	enginetest.Boot(t, New(), func(cfg *engine.Config) { cache = cfg.CacheDir })
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestOffline$", "-test.v")
	cmd.Env = append(os.Environ(), offline+"="+cache)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: sandbox.UserUID, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: sandbox.UserGID, HostID: os.Getegid(), Size: 1}},
	}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestOffline") {
		t.Errorf("without a network: %v\n%s", err, out)
	}
}

func testOffline(t *testing.T, cache string) {
	t.Helper()
	if err := New().Prepare(t.Context(), cache, nil); err != nil {
		t.Errorf("prepare with a kernel that is there: %v", err)
	}
	enginetest.Boot(t, New(), func(cfg *engine.Config) { cfg.CacheDir = cache })
	err := New().Prepare(t.Context(), t.TempDir(), nil)
	if !errors.Is(err, sandbox.ErrUnavailable) || !strings.Contains(err.Error(), "fetch the kernel for microVMs") || !strings.Contains(sandbox.HintOf(err), "network") {
		t.Errorf("prepare with none: %v (%q)", err, sandbox.HintOf(err))
	}
}

func TestProbe(t *testing.T) {
	boots(t)
	how, warning := New().Probe(t.Context(), t.TempDir())
	if !strings.Contains(how, "QEMU") {
		t.Errorf("the probe says %q (%v)", how, warning)
	}
	// Without hardware there is a word about it, and a way out.
	if !strings.Contains(how, "KVM") && (warning == nil || sandbox.HintOf(warning) == "") {
		t.Errorf("the probe says %q and warns %v, %q", how, warning, sandbox.HintOf(warning))
	}
}

// TestProbeDeadline is the host on which KVM opens and then does nothing.
func TestProbeDeadline(t *testing.T) {
	hangs := filepath.Join(t.TempDir(), "qemu")
	if err := os.WriteFile(hangs, []byte("#!/bin/sh\nexec sleep 1000\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	err := probe(t.Context(), tools{qemu: hangs}, hardware{accel: accelKVM, machine: machineQ35})
	if err == nil || !strings.Contains(err.Error(), "executed nothing") || time.Since(begun) > 2*probeTime {
		t.Errorf("after %s: %v", time.Since(begun), err)
	}
}

func TestAnswersAreKept(t *testing.T) {
	dir, tool := t.TempDir(), tools{qemu: "/bin/false", qemuVersion: "7.2"}
	p := prober{tools: tool, answers: loadAnswers(dir, tool)}
	h := hardware{accel: accelKVM, machine: machineQ35}
	first := p.try(t.Context(), h)
	p.answers.keep(dir)
	p = prober{tools: tools{qemu: "/nothing"}, answers: loadAnswers(dir, tool)}
	if second := p.try(t.Context(), h); first == nil || second == nil || first.Error() != second.Error() {
		t.Errorf("first %v, then %v", first, second)
	}
	tool.qemuVersion = "8.0"
	if a := loadAnswers(dir, tool); len(a.Found) > 0 {
		t.Errorf("another QEMU knows %v", a.Found)
	}
}

func TestCheckQEMU(t *testing.T) {
	for text, ok := range map[string]bool{
		"QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)": true, "QEMU emulator version 10.0.0": true,
		"QEMU emulator version 6.2.0": false, "QEMU emulator version 7.1.9": false, "nonsense": false,
	} {
		if _, err := checkQEMU(text); (err == nil) != ok {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestToolsAreMissed(t *testing.T) {
	if _, err := lookForTools(t.Context(), "arm64", nil); !errors.Is(err, sandbox.ErrUnavailable) || sandbox.HintOf(err) == "" {
		t.Errorf("on another architecture: %v", err)
	}
	if _, err := lookForTools(t.Context(), "amd64", nil); !errors.Is(err, sandbox.ErrUnavailable) || !strings.Contains(sandbox.HintOf(err), "install") {
		t.Errorf("without virtiofsd: %v, %q", err, sandbox.HintOf(err))
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := lookForTools(t.Context(), "amd64", nil); err == nil || !strings.Contains(err.Error(), "qemu-system-x86_64") {
		t.Errorf("without QEMU: %v", err)
	}
}

func TestCommandLine(t *testing.T) {
	cfg := engine.Config{Root: "/a,b.erofs", Resources: sandbox.Resources{CPUs: 3, Memory: 1 << 30}}
	line := func(h hardware) string {
		return strings.Join(qemuArgs(cfg, h, kernel.Kernel{Image: "/vmlinux", Initrd: "/initrd", Modules: "/modules.erofs"}, state{path: "/state.img"}), " ")
	}
	emulated := line(hardware{accel: accelTCG, machine: machineMicroVM, khz: 2_000_000})
	for _, want := range []string{"tsc_early_khz=2000000", "lpj=8000000", "/a,,b.erofs", "-smp 3", "-m 1024M", "virtio-blk-device", "spawn=deny"} {
		if !strings.Contains(emulated, want) {
			t.Errorf("emulated: no %q in %s", want, emulated)
		}
	}
	real := line(hardware{accel: accelKVM, machine: machineQ35})
	for _, not := range []string{"tsc_early_khz", "mitigations=off", "nokaslr", "-device virtio-blk-device", "pci=off"} {
		if strings.Contains(real, not) {
			t.Errorf("with KVM: %q in %s", not, real)
		}
	}
	if !strings.Contains(real, "virtio-blk-pci") || !strings.Contains(real, "-cpu host") {
		t.Errorf("with KVM: %s", real)
	}
}

// TestControlIsGuarded has a guest say what no init of ours says.
func TestControlIsGuarded(t *testing.T) {
	for name, text := range map[string]string{
		"no JSON": "hello\n", "an endless line": strings.Repeat("x", 3<<20),
		"answers to nothing": strings.Repeat(`{"event":"done","id":77}`+"\n", 1000),
		"too many events":    strings.Repeat(`{"event":"hello"}`+"\n", 1000),
	} {
		ours, theirs, err := connPair()
		if err != nil {
			t.Fatal(err)
		}
		c := newControl(ours)
		_, _ = theirs.WriteString(text)
		theirs.Close()
		select {
		case <-c.closed:
		case <-time.After(10 * time.Second):
			t.Errorf("%s: it goes on reading", name)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		if err := c.call(ctx, bootapi.Request{Op: bootapi.OpSync}); err == nil || ctx.Err() != nil {
			t.Errorf("%s: a call afterwards: %v", name, err)
		}
		cancel()
	}
	if err := guestError("\x1b[31m" + strings.Repeat("y", 5000)); len(err.Error()) > 3000 || strings.Contains(err.Error(), "\x1b") {
		t.Errorf("a guest's words are passed on as they are: %.80q", err)
	}
}

func TestTail(t *testing.T) {
	var c tail
	for range 1000 {
		_, _ = c.Write(bytes.Repeat([]byte("a"), 100))
	}
	_, _ = c.Write([]byte("end"))
	if s := c.String(); len(s) != tailSize || !strings.HasSuffix(s, "end") {
		t.Errorf("%d bytes are kept", len(s))
	}
}

func TestCopyDisk(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	f, err := os.Create(from)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, at := range []int64{0, 5 << 20, 64<<20 - 3} {
		if _, err := f.WriteAt([]byte("abc"), at); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(100 << 20); err != nil {
		t.Fatal(err)
	}
	if err := copyDisk(from, to); err != nil {
		t.Fatal(err)
	}
	a, aerr := os.ReadFile(from)
	b, berr := os.ReadFile(to)
	if aerr != nil || berr != nil || !bytes.Equal(a, b) {
		t.Errorf("the copy differs (%d and %d bytes)", len(a), len(b))
	}
}
