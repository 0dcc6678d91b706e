package enginetest

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"berth.dev/internal/engine"
	"berth.dev/internal/sandbox"
)

func testIdentity(t *testing.T, h *harness) {
	g := h.boot(t, h.config(t))
	if got := g.do("hostname"); got != "conformance" {
		t.Errorf("hostname %q", got)
	}
	g.becomeRoot()
	if got := g.do("id"); got != "0 0 1" && got != "0 1000 1" {
		t.Errorf("the first process is %q, want root and pid 1", got)
	}
}

func testClock(t *testing.T, h *harness) {
	g := h.boot(t, h.config(t))
	var ms int64
	if _, err := fmt.Sscan(g.do("time"), &ms); err != nil {
		t.Fatal(err)
	}
	if off := time.Since(time.UnixMilli(ms)); off.Abs() > 2*time.Second {
		t.Errorf("the guest's clock is off by %s", off)
	}
}

func testExitStatus(t *testing.T, h *harness) {
	for _, want := range []int{0, 3, 255} {
		g := h.boot(t, h.config(t))
		g.send("exit", fmt.Sprint(want))
		if got := g.wait(); got != want {
			t.Errorf("exit status %d, want %d", got, want)
		}
		must(t, g.machine.Close())
		if got := g.wait(); got != want {
			t.Errorf("after Close, exit status %d, want %d", got, want)
		}
	}
}

func testSignal(t *testing.T, h *harness) {
	g := h.boot(t, h.config(t))
	must(t, g.machine.Signal(syscall.SIGTERM))
	if got := g.wait(); got != 7 { // its handler's
		t.Errorf("exit status %d, want 7", got)
	}
}

func testClose(t *testing.T, h *harness) {
	g := h.boot(t, h.config(t))
	pids := g.machine.Processes()
	must(t, g.machine.Close())
	must(t, g.machine.Close())
	g.wait()
	for _, pid := range pids {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("process %d is still there: %v", pid, err)
		}
	}
	if left := files(t, g.cfg.RunDir); len(left) > 0 {
		t.Errorf("left in the run folder: %v", left)
	}
}

func testCreateFailure(t *testing.T, h *harness) {
	cfg := h.config(t)
	bad := filepath.Join(t.TempDir(), "bad.erofs")
	must(t, os.WriteFile(bad, []byte(strings.Repeat("not an image", 1000)), 0o600))
	cfg.Root = bad
	stdin, in, err := os.Pipe()
	must(t, err)
	defer in.Close()
	defer stdin.Close()
	ours, theirs := wirePair(t)
	defer ours.Close()
	defer theirs.Close()
	cfg.Stdin, cfg.Log = stdin, in
	cfg.Network.Wire = theirs
	m, err := h.engine.Create(t.Context(), cfg)
	if err == nil {
		err = m.Start(t.Context())
		must(t, m.Close())
	}
	if err == nil {
		t.Error("a machine without a readable root started")
	}
	if left := files(t, cfg.RunDir); len(left) > 0 {
		t.Errorf("left in the run folder: %v", left)
	}
}

func testRootPrivate(t *testing.T, h *harness) {
	a, b := h.boot(t, h.config(t)), h.boot(t, h.config(t))
	a.becomeRoot()
	a.do("write", "/etc/mark", "a")
	if got := a.do("exec", "read", "/etc/mark"); got != `ok "a"` {
		t.Errorf("another process reads %q", got)
	}
	b.refused("read", "/etc/mark")
}

func testLayer(t *testing.T, h *harness) {
	cfg := h.config(t)
	note := filepath.Join(t.TempDir(), "note")
	must(t, os.WriteFile(note, []byte("layer"), 0o600))
	cfg.Layers = []engine.Layer{{File: writeErofs(t, filepath.Join(t.TempDir(), "l.erofs"), map[string]string{"/note": note}), Guest: "/opt/agent/x"}}
	g := h.boot(t, cfg)
	g.becomeRoot()
	if got := g.do("read", "/opt/agent/x/note"); got != "layer" {
		t.Errorf("layer holds %q", got)
	}
	g.refused("write", "/opt/agent/x/new", "x")
	g.refused("remove", "/opt/agent/x/note")
}

func testWorkspace(t *testing.T, h *harness) {
	cfg, ws := h.config(t), t.TempDir()
	cfg.Mounts = []sandbox.Mount{{Host: ws, Guest: ws}}
	must(t, os.WriteFile(filepath.Join(ws, "from-host"), []byte("host"), 0o644))
	g := h.boot(t, cfg)
	if got := g.do("read", ws+"/from-host"); got != "host" {
		t.Errorf("guest reads %q", got)
	}
	g.do("write", ws+"/from-guest", "guest")
	data, err := os.ReadFile(filepath.Join(ws, "from-guest"))
	if err != nil || string(data) != "guest" {
		t.Errorf("host reads %q, %v", data, err)
	}
	// What the host changes while the guest runs, the guest sees.
	must(t, os.WriteFile(filepath.Join(ws, "from-host"), []byte("changed"), 0o644))
	if got := g.do("read", ws+"/from-host"); got != "changed" {
		t.Errorf("guest reads %q after the host's change", got)
	}
}

func testOwnership(t *testing.T, h *harness) {
	cfg, ws := h.config(t), t.TempDir()
	cfg.Mounts = []sandbox.Mount{{Host: ws, Guest: ws}}
	g := h.boot(t, cfg)
	g.do("write", ws+"/user", "u")
	g.becomeRoot()
	g.do("write", ws+"/root", "r")
	g.do("chown", ws+"/user", "0")
	g.do("chown", ws+"/root", "12345")
	for _, name := range []string{"user", "root"} {
		info, err := os.Stat(filepath.Join(ws, name))
		must(t, err)
		if uid := info.Sys().(*syscall.Stat_t).Uid; int(uid) != os.Geteuid() {
			t.Errorf("%s belongs to uid %d on the host, want %d", name, uid, os.Geteuid())
		}
	}
}

func testSetID(t *testing.T, h *harness) {
	cfg, ws := h.config(t), t.TempDir()
	cfg.Mounts = []sandbox.Mount{{Host: ws, Guest: ws}}
	must(t, os.WriteFile(filepath.Join(ws, "program"), []byte("#!/bin/sh\n"), 0o755))
	g := h.boot(t, cfg)
	g.becomeRoot()
	// The attack works where nothing guards: inside, on the guest's own root.
	g.do("create", "/tmp/own", "6755")
	if got := g.do("stat", "/tmp/own"); !strings.HasPrefix(got, "106755 ") {
		t.Fatalf("the guest cannot set the bits on its own root either: %s", got)
	}
	_, _ = g.try("chmod", ws+"/program", "4755")
	_, _ = g.try("chmod", ws+"/program", "2755")
	_, _ = g.try("create", ws+"/born", "6755")
	_, _ = g.try("exec", "chmod", ws+"/program", "6777")
	for _, name := range files(t, ws) {
		info, err := os.Stat(filepath.Join(ws, name))
		must(t, err)
		if info.Mode()&(os.ModeSetuid|os.ModeSetgid) != 0 {
			t.Errorf("%s is %v on the host", name, info.Mode())
		}
	}
	g.do("chmod", ws+"/program", "700")
	if info, err := os.Stat(filepath.Join(ws, "program")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("an ordinary chmod: %v, %v", info.Mode(), err)
	}
}

func testReadOnly(t *testing.T, h *harness) {
	cfg, ws := h.config(t), t.TempDir()
	must(t, os.WriteFile(filepath.Join(ws, "file"), []byte("keep"), 0o666))
	cfg.Mounts = []sandbox.Mount{{Host: ws, Guest: ws, ReadOnly: true}}
	before, err := os.Stat(filepath.Join(ws, "file"))
	must(t, err)
	g := h.boot(t, cfg)
	g.becomeRoot()
	for _, remount := range []bool{false, true} {
		if remount {
			// MS_REMOUNT|MS_BIND, without MS_RDONLY. That it may succeed is the
			// point: the guarantee does not hang on it.
			_, _ = g.try("mount", "", ws, "", "", fmt.Sprint(syscall.MS_REMOUNT|syscall.MS_BIND))
			_, _ = g.try("mount", "none", ws, "", "", fmt.Sprint(syscall.MS_REMOUNT))
		}
		g.refused("write", ws+"/file", "lost")
		g.refused("write", ws+"/new", "x")
		g.refused("remove", ws+"/file")
		g.refused("mkdir", ws+"/dir")
		// A chmod may seem to succeed inside; on the host it changes nothing.
		_, _ = g.try("chmod", ws+"/file", "0")
		if info, err := os.Stat(filepath.Join(ws, "file")); err != nil || info.Mode().Perm() != before.Mode().Perm() {
			t.Errorf("remounted %v: the file's mode is %v, was %v (%v)", remount, info.Mode(), before.Mode(), err)
		}
	}
	data, err := os.ReadFile(filepath.Join(ws, "file"))
	if err != nil || string(data) != "keep" || len(files(t, ws)) != 1 {
		t.Errorf("host has %v, file holds %q, %v", files(t, ws), data, err)
	}
}

func testFileMount(t *testing.T, h *harness) {
	cfg := h.config(t)
	file := filepath.Join(t.TempDir(), "single")
	must(t, os.WriteFile(file, []byte("one"), 0o644))
	cfg.Mounts = []sandbox.Mount{{Host: file, Guest: "/etc/single", ReadOnly: true}}
	g := h.boot(t, cfg)
	if got := g.do("read", "/etc/single"); got != "one" {
		t.Errorf("guest reads %q", got)
	}
	g.becomeRoot()
	g.refused("write", "/etc/single", "two")
}

func testHostHidden(t *testing.T, h *harness) {
	cfg, ws := h.config(t), t.TempDir()
	secret := filepath.Join(filepath.Dir(ws), "secret-beside-the-workspace")
	must(t, os.WriteFile(secret, []byte("key"), 0o644))
	must(t, os.Symlink(secret, filepath.Join(ws, "link")))
	cfg.Mounts = []sandbox.Mount{{Host: ws, Guest: ws}}
	g := h.boot(t, cfg)
	g.becomeRoot()
	for _, path := range []string{secret, ws + "/link", ws + "/../" + filepath.Base(secret), "/proc/1/root" + secret, "/etc/passwd", "/home"} {
		g.refused("read", path)
	}
	for _, pid := range strings.Fields(g.do("ls", "/proc")) {
		if pid >= "2" && pid <= "9" {
			t.Errorf("a process %s beside the probe", pid)
		}
	}
}

func testNetwork(t *testing.T, h *harness) {
	g := h.boot(t, h.config(t))
	if got := g.do("addresses"); !strings.Contains(got, "10.9.8.2/24") || !strings.Contains(got, "127.0.0.1/8") {
		t.Errorf("guest has the addresses %q", got)
	}
	// A connection attempt shows as frames on the suite's end of the wire.
	g.send("dial", "udp", "10.9.8.1:53")
	frame := make([]byte, 2048)
	n, err := g.wire.Read(frame)
	if err != nil || n < 14 {
		t.Errorf("no frame on the wire: %d bytes, %v", n, err)
	}
}

func testSave(t *testing.T, h *harness) {
	needs(t, h.engine.Features().Save)
	g := h.boot(t, h.config(t))
	g.becomeRoot()
	g.do("write", "/etc/kept", "state")
	g.do("fill", "/big", "20000000")
	g.do("create", "/etc/mode", "4751")
	g.do("chown", "/etc/mode", "77")
	want := g.do("stat", "/etc/mode")
	dir := t.TempDir()
	must(t, g.machine.Save(t.Context(), dir))
	must(t, g.machine.Close())
	for i := range 2 { // a save serves more than once
		cfg := h.config(t)
		cfg.Restore = dir
		r := h.boot(t, cfg)
		r.becomeRoot()
		if got := r.do("read", "/etc/kept"); got != "state" {
			t.Errorf("restore %d: %q", i, got)
		}
		if got := r.do("stat", "/etc/mode"); got != want {
			t.Errorf("restore %d: mode and owner %s, want %s", i, got, want)
		}
		if got := r.do("stat", "/big"); !strings.HasSuffix(got, " 20000000") {
			t.Errorf("restore %d: big file is %s", i, got)
		}
		r.do("write", "/etc/kept", "later")
		must(t, r.machine.Close())
	}
}

func testSaveRunning(t *testing.T, h *harness) {
	needs(t, h.engine.Features().Save)
	g := h.boot(t, h.config(t))
	g.becomeRoot()
	for i := range 3 {
		g.do("write", "/etc/n", fmt.Sprint(i))
		must(t, g.machine.Save(t.Context(), t.TempDir()))
		if got := g.do("read", "/etc/n"); got != fmt.Sprint(i) {
			t.Errorf("after save %d the guest reads %q", i, got)
		}
	}
}

func testKeptTmpfs(t *testing.T, h *harness) {
	needs(t, h.engine.Features().Save)
	cfg := h.config(t)
	cfg.Tmpfs = []engine.Tmpfs{{Guest: "/var/lib/kept", Keep: true}, {Guest: "/tmp"}}
	g := h.boot(t, cfg)
	g.becomeRoot()
	g.do("write", "/var/lib/kept/x", "kept")
	g.do("write", "/tmp/x", "not")
	dir := t.TempDir()
	must(t, g.machine.Save(t.Context(), dir))
	must(t, g.machine.Close())
	again := h.config(t)
	again.Tmpfs, again.Restore = cfg.Tmpfs, dir
	r := h.boot(t, again)
	if got := r.do("read", "/var/lib/kept/x"); got != "kept" {
		t.Errorf("kept tmpfs holds %q", got)
	}
	r.refused("read", "/tmp/x")
}

func testWriteLayer(t *testing.T, h *harness) {
	needs(t, h.engine.Features().Layer)
	g := h.boot(t, h.config(t))
	g.becomeRoot()
	g.do("write", "/etc/new", "layer")
	g.do("remove", "/opt")
	r, w, err := os.Pipe()
	must(t, err)
	done := make(chan error, 1)
	go func() {
		err := g.machine.(engine.LayerWriter).WriteLayer(t.Context(), w)
		done <- errors.Join(err, w.Close())
	}()
	seen := map[string]bool{}
	for tr := tar.NewReader(r); ; {
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		seen[filepath.Clean("/"+hdr.Name)] = true
	}
	// The tar's end-of-archive padding is the writer's to finish.
	_, _ = io.Copy(io.Discard, r)
	must(t, <-done)
	if !seen["/etc/new"] {
		t.Errorf("the layer has no /etc/new: %v", seen)
	}
	g.do("read", "/etc/new") // the machine goes on
}

func testPersistence(t *testing.T, h *harness) {
	needs(t, h.engine.Features().Persistent)
	cfg := h.config(t)
	g := h.boot(t, cfg)
	g.becomeRoot()
	g.do("write", "/etc/kept", "by an end")
	g.send("exit", "0")
	g.wait()
	must(t, g.machine.Close())
	// Now the machine is killed; what was flushed is there, and the disk is whole.
	g = h.boot(t, cfg)
	g.becomeRoot()
	if got := g.do("read", "/etc/kept"); got != "by an end" {
		t.Errorf("after an orderly end: %q", got)
	}
	g.do("fill", "/big", "5000000")
	g.do("write", "/etc/kept", "by a flush")
	must(t, g.machine.(engine.Flusher).Flush(t.Context()))
	g.do("fill", "/bigger", "5000000")
	for _, pid := range g.machine.Processes() {
		must(t, syscall.Kill(pid, syscall.SIGKILL))
	}
	if got := g.wait(); got != 128+int(syscall.SIGKILL) {
		t.Errorf("a machine that was killed ends with %d", got)
	}
	must(t, g.machine.Close())
	g = h.boot(t, cfg)
	g.becomeRoot()
	if got := g.do("read", "/etc/kept"); got != "by a flush" {
		t.Errorf("after a kill: %q", got)
	}
	if got := g.do("stat", "/big"); !strings.HasSuffix(got, " 5000000") {
		t.Errorf("after a kill the flushed file is %s", got)
	}
	g.do("write", "/etc/more", "x")
}

func testCaps(t *testing.T, h *harness) {
	cfg := h.config(t)
	cfg.Resources = sandbox.Resources{CPUs: 1, Memory: 300 << 20, Disk: 8 << 20}
	g := h.boot(t, cfg)
	g.becomeRoot()
	enforced := map[string]bool{}
	for _, l := range g.machine.Limits() {
		enforced[l.Resource] = l.Enforced
		if l.How == "" {
			t.Errorf("limit %s does not say how", l.Resource)
		}
	}
	if enforced["cpus"] && g.do("cpus") != "1" {
		t.Errorf("guest has %s processors, want 1", g.do("cpus"))
	}
	// A kernel of the guest's own keeps some for itself.
	var seen int64
	if _, err := fmt.Sscan(g.do("memory"), &seen); err != nil || enforced["memory"] && (seen > 300<<20 || seen < 200<<20) {
		t.Errorf("guest sees %d bytes of memory (%v), want 300 MB", seen, err)
	}
	if enforced["disk"] {
		_, err := g.try("fill", "/big", "20000000")
		if err == nil || !strings.Contains(err.Error(), "no space left") {
			t.Errorf("filling the disk: %v", err)
		}
	}
}

// needs ends a case for an engine that declares that it cannot.
func needs(t *testing.T, feature bool) {
	t.Helper()
	if !feature {
		t.Skip("the engine declares that it has not this feature")
	}
}

func files(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
