package guest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"berth.dev/internal/guest/guesttest"
	"berth.dev/internal/guestapi"
	"berth.dev/internal/guestapi/client"
)

// forks starts 500 processes whose parents are gone, some with a status that a
// careless reaper would take for a session's.
const forks = `i=0; while [ $i -lt 500 ]; do ( (exit 77) & ) & i=$((i+1)); done; wait; exit 42`

// children lists the processes whose parent is pid, as "pid state".
func children(t *testing.T, pid int) []string {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, p := range stats {
		b, err := os.ReadFile(p)
		if err != nil {
			continue
		}
		f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		if f[1] == fmt.Sprint(pid) {
			out = append(out, filepath.Base(filepath.Dir(p))+" "+f[0])
		}
	}
	return out
}

func TestOrphans(t *testing.T) {
	t.Parallel()
	g := guesttest.Start(t)
	c := g.Dial(t)
	// Starting 2,000 processes is work, not a wait: a slow machine takes a minute
	// for it under the race detector, and all that is asked of it meanwhile waits.
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	exit := func(script string, want int) {
		res, err := c.Start(ctx, sh(script), client.Attach{})
		if err != nil || res.ExitCode != want {
			t.Errorf("exit %d: %+v, %v", want, res, err)
		}
	}
	var forking sync.WaitGroup
	for range 4 {
		forking.Go(func() { exit(forks, 42) })
	}
	// Meanwhile every status reaches the one who waits for it.
	for i := range 40 {
		exit(fmt.Sprintf("exit %d", i), i)
	}
	forking.Wait()
	deadline := time.Now().Add(guesttest.Timeout)
	for left := children(t, g.Cmd.Process.Pid); len(left) > 0; left = children(t, g.Cmd.Process.Pid) {
		if time.Now().After(deadline) {
			t.Fatalf("unburied: %q", left)
		}
	}
}

// SIGTERM ends what heeds it, kills what does not, and leaves nothing.
func TestTerminate(t *testing.T) {
	t.Parallel()
	g := guesttest.Start(t, func(c *guestapi.Config) { c.GraceMS = 300 })
	c := g.Dial(t)
	mark := filepath.Join(g.Dir, "mark")
	specs := []guestapi.SessionSpec{
		sh("trap 'echo term > " + mark + "; exit' TERM; echo up > " + mark + ".1; while :; do sleep 0.01; done"),
		sh("trap '' TERM HUP; echo up > " + mark + ".2; while :; do sleep 0.01; done"),
		{TTY: true, Args: []string{"bash", "--norc", "-i", "-c", "echo up > " + mark + ".3; sleep 1000"}},
	}
	for i, s := range specs {
		if _, err := c.StartDetached(guesttest.Context(t), s); err != nil {
			t.Fatal(err)
		}
		for {
			if _, err := os.Stat(fmt.Sprintf("%s.%d", mark, i+1)); err == nil {
				break
			}
		}
	}
	pids := children(t, g.Cmd.Process.Pid)
	began := time.Now()
	g.Stop(t)
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("took %s", d)
	}
	if b, _ := os.ReadFile(mark); string(b) != "term\n" {
		t.Errorf("SIGTERM was not told: %q", b)
	}
	if len(pids) != 3 {
		t.Errorf("children: %q", pids)
	}
	for _, p := range pids {
		pid, _, _ := strings.Cut(p, " ")
		if b, err := os.ReadFile("/proc/" + pid + "/stat"); err == nil && !bytes.Contains(b, []byte(") Z")) {
			t.Errorf("%s is left: %s", pid, b)
		}
	}
}

// inNamespaces makes a command PID 1 of namespaces of its own, root inside, as
// an ordinary user may.
func inNamespaces(cmd *exec.Cmd) *exec.Cmd {
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	return cmd
}

func TestPID1(t *testing.T) {
	t.Parallel()
	g := guesttest.New(t)
	data := filepath.Join(g.Dir, "data")
	g.Config.Hostname = "" // /etc is the host's here
	g.Config.User = guestapi.User{Name: "root", Home: g.Dir, Shell: "/bin/bash"}
	g.Config.GraceMS = 500
	g.Config.Mounts = []guestapi.MountPoint{
		{Type: "tmpfs", Target: data, Data: "mode=0750,size=1m", NoExec: true},
		{Type: "proc", Target: "/proc"},
	}
	g.Config.Files = []guestapi.File{
		{Path: filepath.Join(data, "deep/file"), Mode: 0o600, Content: []byte("hello"), Policy: guestapi.Always},
	}
	g.Run(t, inNamespaces(exec.Command(guesttest.Binary(t))))
	c := g.Dial(t)
	res, out, errOut := run(t, c, sh("echo $PPID; id -u; stat -c %a "+data+"; cat "+data+"/deep/file; findmnt -no OPTIONS "+data), nil)
	if want := "1\n0\n750\nhello"; res.ExitCode != 0 || !strings.HasPrefix(out, want) || !strings.Contains(out, "noexec") || !strings.Contains(out, "nosuid") {
		t.Fatalf("%+v %q %q, log:\n%s", res, out, errOut, g.Log)
	}
	if res, _, _ := run(t, c, sh(forks), nil); res.ExitCode != 42 {
		t.Errorf("%+v", res)
	}
	deadline := time.Now().Add(guesttest.Timeout)
	for {
		// Nothing but PID 1 and the question itself.
		_, out, _ := run(t, c, sh("ls -d /proc/[0-9]* | wc -l"), nil)
		if n := strings.TrimSpace(out); n == "4" || n == "3" {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("%s processes are left", n)
		}
	}
	// A daemon that left its session is ended too, when PID 1 is told to stop.
	res, out, _ = run(t, c, sh("trap '' TERM; setsid sleep 1000 >/dev/null 2>&1 & echo started"), nil)
	if res.ExitCode != 0 || out != "started\n" {
		t.Fatalf("%+v %q", res, out)
	}
	g.Stop(t)
}

// A configuration that makes no sense ends the guest at once, and says why.
func TestBadConfig(t *testing.T) {
	t.Parallel()
	good, err := json.Marshal(guesttest.New(t).Config)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ config, text string }{
		{"", "parse"},
		{`{"version": 99, "new": 1}`, "version 99"},
		{strings.Replace(string(good), `"peer":"`, `"peer":"x`, 1), "peer"},
		{strings.Replace(string(good), `"host_key":"`, `"host_key":"x`, 1), "host key"},
		{strings.Replace(string(good), `"user":`, `"unknown":1,"user":`, 1), "unknown"},
		{string(good) + "x", "after its end"},
		{`{"version":1,"hosts":"` + strings.Repeat("x", guestapi.MaxConfig) + `"}`, "longer"},
	} {
		cmd := exec.Command(guesttest.Binary(t))
		cmd.Stdin = strings.NewReader(tt.config)
		out, err := cmd.CombinedOutput()
		if err == nil || cmd.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), tt.text) {
			t.Errorf("%.60s: %v, %q", tt.config, err, out)
		}
	}
	cmd := exec.Command(guesttest.Binary(t), "--help")
	if out, _ := cmd.CombinedOutput(); cmd.ProcessState.ExitCode() != 2 || !strings.Contains(string(out), "usage:") {
		t.Errorf("help: %q", out)
	}
}

// As root of a whole machine's users the guest gives each session its own.
func TestOtherUsers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can become somebody else; the rest of the suite runs as anybody")
	}
	t.Parallel()
	g := guesttest.Start(t, func(c *guestapi.Config) {
		c.User.UID, c.User.GID, c.Dir = 1000, 1000, "/"
		c.Files = []guestapi.File{{Path: c.User.Home + "/.config/x", Mode: 0o600, UID: 1000, GID: 1000, Policy: guestapi.Once}}
		c.Creation = "c1"
	})
	// The test's own folders are root's alone.
	if err := errors.Join(os.Chown(g.Dir, 1000, 1000), os.Chmod(filepath.Dir(g.Dir), 0o755)); err != nil {
		t.Fatal(err)
	}
	c := g.Dial(t)
	tests := []struct{ user, script, want string }{
		{"", "id -u; id -g; id -G; echo $HOME $USER", "1000\n1000\n1000\n" + g.Dir + " agent\n"},
		{"root", "id -u; echo $HOME $USER", "0\n/root root\n"},
		{"daemon:nogroup", "id -un; id -gn; id -Gn", "daemon\nnogroup\nnogroup\n"},
		{"12345", "id -u; id -g; echo $HOME", "12345\n0\n/\n"},
		{"12345:54321", "id -u; id -g", "12345\n54321\n"},
		{"", "stat -c '%u:%g %a' " + g.Dir + "/.config " + g.Dir + "/.config/x", "1000:1000 755\n1000:1000 600\n"},
		{"", "cat /proc/$PPID/environ", ""}, // PID 1 is not the agent's to read
	}
	for _, tt := range tests {
		spec := sh(tt.script)
		spec.User = tt.user
		if res, out, errOut := run(t, c, spec, nil); out != tt.want {
			t.Errorf("%s as %q: %+v %q %q", tt.script, tt.user, res, out, errOut)
		}
	}
	spec := sh("stat -c %u:%a $(tty); echo via name > $(tty)")
	spec.TTY = true
	if _, out, _ := run(t, c, spec, nil); out != "1000:620\r\nvia name\r\n" {
		t.Errorf("terminal: %q", out)
	}
	// Files are made by the user, not by root.
	files, err := c.SFTP(guesttest.Context(t), "")
	if err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	if _, err := files.Create("mine"); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(filepath.Join(g.Dir, "mine"))
	if err != nil || fi.Sys().(*syscall.Stat_t).Uid != 1000 {
		t.Errorf("%+v, %v", fi, err)
	}
	if _, err := files.Create("/etc/berth-not-allowed"); err == nil {
		t.Error("the agent may write to /etc")
	}
}
