package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// inspection is the part of `berth inspect` that the tests read.
type inspection struct {
	Name, Status, Failure string
	PIDs                  struct {
		Supervisor int
		Engine     []int
	}
	Save struct {
		Created time.Time
		Berth   string
		Build   string `json:"engine_build"`
	}
	Dir string
}

func (u *user) inspect(t *testing.T, name string) inspection {
	t.Helper()
	var all []inspection
	if err := json.Unmarshal([]byte(u.must(t, "", "inspect", name)), &all); err != nil || len(all) != 1 {
		t.Fatalf("inspect %s: %v, %d entries", name, err, len(all))
	}
	return all[0]
}

// TestPackagesPersist: what apt installs is there after a stop and a start.
func TestPackagesPersist(t *testing.T) {
	each(t, func(t *testing.T, u *user) {
		ws, name := u.workspace(t), u.fresh(t)
		u.must(t, ws, "create", "-q", "--name", name, "shell", ws)
		u.must(t, ws, "exec", "-u", "root", name, "sh", "-c", "apt-get update -qq && apt-get install -y -qq --no-install-recommends hello >/dev/null")
		u.must(t, ws, "stop", name)
		if st := u.inspect(t, name); st.Status != "stopped" {
			t.Errorf("after stop it is %s", st.Status)
		}
		if out := u.must(t, ws, "exec", name, "hello"); !strings.Contains(out, "Hello, world!") {
			t.Errorf("hello says %q", out)
		}
	})
}

// TestKilledSupervisor: what was saved is there, what it ran is gone, and ls
// tells the truth in between.
func TestKilledSupervisor(t *testing.T) {
	each(t, func(t *testing.T, u *user) {
		testKilled(t, u, func(in inspection) int { return in.PIDs.Supervisor })
	})
}

// TestKilledSentry is the same with the guest's kernel killed beneath it.
func TestKilledSentry(t *testing.T) {
	each(t, func(t *testing.T, u *user) {
		testKilled(t, u, func(in inspection) int { return in.PIDs.Engine[0] })
	})
}

func testKilled(t *testing.T, u *user, victim func(inspection) int) {
	ws, name := u.workspace(t), u.fresh(t)
	u.must(t, ws, "create", "-q", "--name", name, "shell", ws)
	u.must(t, ws, "exec", "-u", "root", name, "sh", "-c", "echo saved > /etc/kept")
	u.must(t, ws, "stop", name)
	u.must(t, ws, "exec", "-u", "root", name, "sh", "-c", "cat /etc/kept")
	in := u.inspect(t, name)
	if err := syscall.Kill(victim(in), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	all := append([]int{in.PIDs.Supervisor}, in.PIDs.Engine...)
	eventually(t, "its processes are gone", func() bool {
		for _, pid := range all {
			if alive(pid) {
				return false
			}
		}
		return true
	})
	if st := u.inspect(t, name); st.Status != "stopped" {
		t.Errorf("ls says %s", st.Status)
	}
	if out := u.must(t, ws, "exec", name, "cat", "/etc/kept"); out != "saved\n" {
		t.Errorf("kept file holds %q", out)
	}
}

// TestKilledWhileSaving kills the supervisor again and again while it saves;
// after each, the sandbox opens with one of the two states.
func TestKilledWhileSaving(t *testing.T) {
	u := suite.users[len(suite.users)-1]
	ws, name := u.workspace(t), u.fresh(t)
	u.must(t, ws, "create", "-q", "--name", name, "shell", ws)
	u.must(t, ws, "exec", "-u", "root", name, "sh", "-c", "echo 0 > /etc/round; head -c 60M /dev/urandom > /var/blob")
	u.must(t, ws, "stop", name)
	for round := 1; round <= 6; round++ {
		u.must(t, ws, "exec", "-u", "root", name, "sh", "-c", fmt.Sprintf("echo %d > /etc/round", round))
		in := u.inspect(t, name)
		stop := u.command(context.Background(), ws, "stop", name)
		if err := stop.Start(); err != nil {
			t.Fatal(err)
		}
		// Somewhere in the save, which takes a few hundred milliseconds; where
		// exactly is for chance to say, and differs from round to round.
		time.Sleep(time.Duration(round*round*4) * time.Millisecond)
		_ = syscall.Kill(in.PIDs.Supervisor, syscall.SIGKILL) // it may be through
		_ = stop.Wait()
		out := strings.TrimSpace(u.must(t, ws, "exec", name, "cat", "/etc/round"))
		if out != fmt.Sprint(round) && out != fmt.Sprint(round-1) {
			t.Fatalf("after round %d the file says %q", round, out)
		}
		if out := u.must(t, ws, "exec", name, "sh", "-c", "wc -c < /var/blob"); strings.TrimSpace(out) != fmt.Sprint(60<<20) {
			t.Fatalf("the blob has %s bytes", out)
		}
		// Whatever it was, make it the state of this round.
		u.must(t, ws, "exec", "-u", "root", name, "sh", "-c", fmt.Sprintf("echo %d > /etc/round", round))
		u.must(t, ws, "stop", name)
	}
}

// TestOlderBuild: a Berth with another engine build opens what this one saved.
func TestOlderBuild(t *testing.T) {
	if suiteEngine == microVM {
		t.Skip("what that engine keeps is a disk, which is of no build")
	}
	each(t, func(t *testing.T, u *user) {
		ws, name := u.workspace(t), u.fresh(t)
		other := func(args ...string) result {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			return finish(t, u.program(ctx, suite.other, ws, args...))
		}
		for _, args := range [][]string{
			{"create", "-q", "--name", name, "shell", ws},
			{"exec", "-u", "root", name, "sh", "-c", "echo old > /etc/by"},
			{"stop", name},
		} {
			if r := other(args...); r.code != 0 {
				t.Fatalf("%v: %d %s", args, r.code, r.err)
			}
		}
		if in := u.inspect(t, name); !strings.Contains(in.Save.Build, "gvisor-other") {
			t.Fatalf("saved by %q", in.Save.Build)
		}
		if out := u.must(t, ws, "exec", name, "cat", "/etc/by"); out != "old\n" {
			t.Errorf("the newer Berth reads %q", out)
		}
	})
}

// TestNothingLeft: after rm there is no process, file or socket of a sandbox.
func TestNothingLeft(t *testing.T) {
	each(t, func(t *testing.T, u *user) {
		ws, name := u.workspace(t), u.fresh(t)
		u.must(t, ws, "create", "-q", "--name", name, "shell", ws)
		in := u.inspect(t, name)
		u.must(t, ws, "rm", "-f", name)
		for _, pid := range append([]int{in.PIDs.Supervisor}, in.PIDs.Engine...) {
			eventually(t, "process is gone", func() bool { return !alive(pid) })
		}
		if _, err := os.Stat(in.Dir); !os.IsNotExist(err) {
			t.Errorf("its folder: %v", err)
		}
		left, err := filepath.Glob(filepath.Join(u.berthHome, "run", "*"))
		if err != nil || len(left) > 0 {
			t.Errorf("left in the runtime folder: %v, %v", left, err)
		}
	})
}

// alive reports whether a process runs; a zombie does not.
func alive(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	i := strings.LastIndexByte(string(data), ')')
	return !strings.HasPrefix(string(data[i+1:]), " Z")
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("it never came true that %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestRemovedInTime: a sandbox made with --rm is gone when its command is, and the
// next of its name is another one.
func TestRemovedInTime(t *testing.T) {
	each(t, func(t *testing.T, u *user) {
		ws, name := u.workspace(t), u.fresh(t)
		for range 5 {
			r := u.run(t, ws, nil, "run", "-q", "--rm", "--name", name, "shell", ws, "--", "-c", "test ! -e ~/mark && touch ~/mark && exit 7")
			if r.code != 7 {
				t.Fatalf("%+v", r)
			}
			if left := u.must(t, ws, "ls", "-a"); strings.Contains(left, " "+name+" ") {
				t.Fatalf("it is still there:\n%s", left)
			}
		}
	})
}
