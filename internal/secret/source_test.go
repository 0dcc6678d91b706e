package secret

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"berth.dev/internal/failpoint"
	"berth.dev/internal/sandbox"
)

// counter is a command that notes each of its runs, and does as a file says.
type counter struct {
	dir string
	cmd string
}

// newCounter makes one that prints its number; script is run before, with DIR
// set and N the number.
func newCounter(t testing.TB, script string) counter {
	dir := shortDir(t)
	return counter{dir, "DIR='" + dir + "'; echo x >> $DIR/runs; N=$(wc -l < $DIR/runs); " + script}
}

func (c counter) runs(t testing.TB) int {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(c.dir, "runs"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return bytes.Count(data, []byte("x"))
}

func command(t testing.TB, s *Store, name, cmd string, ttl time.Duration) Source {
	t.Helper()
	if err := s.Set(t.Context(), Entry{Name: name, Command: cmd, TTL: ttl}, Value{}); err != nil {
		t.Fatal(err)
	}
	src, _, err := s.Source(name, "")
	if err != nil {
		t.Fatal(err)
	}
	return src
}

func TestCommandIsCached(t *testing.T) {
	now := newClock()
	dir := t.TempDir()
	s, _ := open(t, dir, now.option)
	c := newCounter(t, "echo tok$N")
	src := command(t, s, "K", c.cmd, time.Hour)
	for range 3 {
		tok, err := src.Token(t.Context())
		if err != nil || tok.Value.Reveal() != "tok1" || !tok.Expires.Equal(now.now().Add(time.Hour)) {
			t.Fatal(tok.Value.Reveal(), tok.Expires, err)
		}
	}
	// By another process, which knows only the store.
	if got, err := play("token", dir, "", "K"); err != nil || got != "tok1" {
		t.Error(got, err)
	}
	before := c.runs(t)
	now.add(59 * time.Minute)
	other, _ := open(t, dir, now.option)
	if token(t, other, "K", ""); c.runs(t) != before {
		t.Error("run while it held")
	}
	now.add(time.Minute + time.Second)
	if tokenOf(t, src); c.runs(t) != before+1 {
		t.Error("not run when it held no more")
	}
	// Set again, the same even, it is run again.
	runs := c.runs(t)
	src = command(t, s, "K", c.cmd, time.Hour)
	if tokenOf(t, src); c.runs(t) != runs+1 {
		t.Error("the token of before was used")
	}
	// One value for the key, one for the token: no old ones.
	if left, _ := os.ReadDir(s.file.values); len(left) != 1 {
		t.Error(left)
	}
}

// TestMargin: what says itself when it ends is replaced before, and used to its
// end when it cannot be.
func TestMargin(t *testing.T) {
	now := newClock()
	s, _ := open(t, t.TempDir(), now.option)
	c := newCounter(t, `test -e $DIR/broken && exit 3; echo "{\"token\":\"tok$N\",\"expires_in\":600}"`)
	src := command(t, s, "K", c.cmd, 0)
	if got := tokenOf(t, src); got != "tok1" {
		t.Fatal(got)
	}
	now.add(9*time.Minute - time.Second)
	if got := tokenOf(t, src); got != "tok1" {
		t.Error(got)
	}
	now.add(2 * time.Second)
	if got := tokenOf(t, src); got != "tok2" {
		t.Error(got)
	}
	if err := os.WriteFile(filepath.Join(c.dir, "broken"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	now.add(9*time.Minute + 30*time.Second)
	for range 3 {
		if got := tokenOf(t, src); got != "tok2" || c.runs(t) != 3 {
			t.Error(got, c.runs(t))
		}
	}
	now.add(31 * time.Second)
	if tok, err := src.Token(t.Context()); err == nil || !tok.Value.IsZero() {
		t.Error("used after its end:", tok.Value.Reveal())
	}
	if !holds(now.now(), now.now(), now.now().Add(5*time.Second), true, false) {
		t.Error("a short-lived one never holds")
	}
	if holds(now.now(), now.now().Add(time.Hour), now.now().Add(2*time.Hour), true, false) {
		t.Error("one from the future holds")
	}
}

// TestRefreshedOnce: callers, sources and processes that want the same token at
// the same time have one command run.
func TestRefreshedOnce(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, dir)
	c := newCounter(t, "sleep 0.3; echo tok$N")
	src := command(t, s, "K", c.cmd, time.Hour)
	var wg sync.WaitGroup
	check := func(got string, err error) {
		if got != "tok1" || err != nil {
			t.Error(got, err)
		}
	}
	for range 8 {
		wg.Go(func() {
			tok, err := src.Token(context.Background())
			check(tok.Value.Reveal(), err)
		})
		wg.Go(func() {
			another, _, err := s.Source("K", "box")
			if err != nil {
				t.Error(err)
				return
			}
			tok, err := another.Token(context.Background())
			check(tok.Value.Reveal(), err)
		})
	}
	for range 3 {
		wg.Go(func() { check(play("token", dir, "", "K")) })
	}
	wg.Wait()
	if n := c.runs(t); n != 1 {
		t.Errorf("run %d times", n)
	}
}

// TestKilledRefresher: a process that dies while its command runs blocks nobody.
func TestKilledRefresher(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, dir)
	c := newCounter(t, `test $N = 1 && kill -9 $PPID; echo tok$N`)
	src := command(t, s, "K", c.cmd, time.Hour)
	if _, err := play("token", dir, "", "K"); !killed(err) {
		t.Fatal(err)
	}
	if got := tokenOf(t, src); got != "tok2" {
		t.Error(got)
	}
}

// TestPause: a command that fails is left alone for a while, by all processes.
func TestPause(t *testing.T) {
	now := newClock()
	dir := t.TempDir()
	s, _ := open(t, dir, now.option)
	c := newCounter(t, `echo "no session, run: op signin" >&2; test -e $DIR/fixed && echo tok || exit 7`)
	src := command(t, s, "K", c.cmd, time.Hour)
	fails := func(src Source, runs int, why string) {
		t.Helper()
		_, err := src.Token(t.Context())
		if !errors.Is(err, sandbox.ErrUnavailable) || !strings.Contains(fmt.Sprint(err), why) {
			t.Errorf("%v", err)
		}
		if n := c.runs(t); n != runs {
			t.Errorf("run %d times, not %d", n, runs)
		}
	}
	full := "the command of secret K ended with status 7: no session, run: op signin"
	for range 4 {
		fails(src, 1, full)
	}
	// Another process is not told what was on standard error, which may be anything.
	fresh, _ := open(t, dir, now.option)
	other, _, _ := fresh.Source("K", "")
	now.add(time.Second)
	fails(other, 1, "did not work 1s ago and is tried again in 1s: ended with status 7")
	for _, text := range files(t, dir) {
		if strings.Contains(text, "op signin\"") {
			t.Error("what it said is on disk")
		}
	}
	now.add(time.Second + time.Millisecond)
	fails(other, 2, full)
	now.add(3 * time.Second)
	fails(src, 2, "ended with status 7")
	now.add(time.Second + time.Millisecond)
	fails(src, 3, full)
	if err := os.WriteFile(filepath.Join(c.dir, "fixed"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fails(src, 3, full)
	now.add(8 * time.Second)
	if got := tokenOf(t, src); got != "tok" {
		t.Error(got)
	}
	if r := s.mustRecord(t, "K"); r.Failed != nil {
		t.Error(r.Failed)
	}
	// A new setting is not held back by the failures of the old.
	os.Remove(filepath.Join(c.dir, "fixed"))
	src = command(t, s, "K", c.cmd, time.Hour)
	fails(src, 5, full)
	src = command(t, s, "K", "echo new", time.Hour)
	if got := tokenOf(t, src); got != "new" {
		t.Error(got)
	}
	for failures, want := range map[int]time.Duration{1: 2 * time.Second, 2: 4 * time.Second, 5: 32 * time.Second, 6: time.Minute, 1000: time.Minute} {
		if got := pause(failures); got != want {
			t.Errorf("pause %d: %s", failures, got)
		}
	}
}

func (s *Store) mustRecord(t testing.TB, name string) *record {
	t.Helper()
	ix, err := s.current()
	if err != nil || ix.find(name, "") == nil {
		t.Fatal(err)
	}
	return ix.find(name, "")
}

func TestCommandErrors(t *testing.T) {
	half := bytesOfIt[:10]
	for name, c := range map[string]struct{ cmd, want string }{
		"status":       {"exit 3", "ended with status 3"},
		"not found":    {"no-such-program-x", "ended with status 127: "},
		"signal":       {"kill -9 $$", "was ended by a signal"},
		"nothing":      {"true", "printed nothing"},
		"too much":     {"yes " + bytesOfIt, "printed more than 65536 bytes"},
		"too much, ok": {"head -c 70000 /dev/zero | tr '\\0' x; sleep 20", "printed more than 65536 bytes"},
		"slow":         {"echo " + bytesOfIt + "; sleep 20", "took longer than 1s"},
		"slow child":   {"sleep 20 & sleep 20; wait", "took longer than 1s"},
		"deaf":         {"trap '' TERM INT HUP; sleep 20", "took longer than 1s"},
		// What it printed is shown by no error, even when it says it on both.
		"output":     {"echo " + bytesOfIt + "; exit 1", "ended with status 1"},
		"both":       {"echo " + bytesOfIt + "; echo bad " + bytesOfIt + " >&2; exit 1", "ended with status 1: bad " + redacted},
		"both, JSON": {`echo '{"token":"` + bytesOfIt + `","expires_in":"x"}'; echo '` + bytesOfIt + `' >&2`, "printed an expires_in that is no number of seconds: " + redacted},
		"in pieces":  {"printf %s " + half + "; printf '%s\\n' " + bytesOfIt[10:] + "; echo " + bytesOfIt + " >&2; exit 1", "ended with status 1: " + redacted},
		"long":       {"head -c 9000 /dev/zero | tr '\\0' y >&2; echo end >&2; exit 1", "yyyend"},
		"control":    {"printf 'a\\033[31m\\nb\\r\\n\\tc\\377' >&2; exit 1", "ended with status 1: a [31m b c?"},
		"a terminal": {"test -t 0 || (: </dev/tty) && exit 5; exit 6", "ended with status 6"},
		"input":      {"read x && exit 5; exit 6", "ended with status 6"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, n := open(t, t.TempDir(), func(o *options) {
				if strings.Contains(c.want, "longer") {
					o.runTime = time.Second
				}
			})
			src := command(t, s, "K", c.cmd, 0)
			start := time.Now()
			tok, err := src.Token(t.Context())
			if !errors.Is(err, sandbox.ErrUnavailable) || !strings.Contains(fmt.Sprint(err), "the command of secret K "+c.want) &&
				!(name == "long" && strings.HasSuffix(err.Error(), c.want)) || !tok.Value.IsZero() {
				t.Errorf("%v", err)
			}
			if err != nil && (len(err.Error()) > 700 || sandbox.HintOf(err) == "") {
				t.Errorf("%d bytes: %v", len(err.Error()), err)
			}
			if took := time.Since(start); took > 10*time.Second {
				t.Errorf("took %s", took)
			}
			shows(t, "error", fmt.Sprintf("%v %+v %#v %s", err, err, err, sandbox.HintOf(err)))
			shows(t, "notes", n.take())
			for file, text := range files(t, s.dir) {
				if file != "index.json" { // which has the command itself
					shows(t, file, text)
				}
			}
			if f := s.mustRecord(t, "K").Failed; f == nil || f.Count != 1 || strings.Contains(f.Why, "bad") || strings.Contains(f.Why, "yyy") {
				t.Errorf("%+v", f)
			}
		})
	}
}

// TestSlowCommandLeavesNoProcess: its children end with it.
func TestSlowCommandLeavesNoProcess(t *testing.T) {
	s, _ := open(t, t.TempDir(), func(o *options) { o.runTime = 2 * time.Second })
	c := newCounter(t, "sleep 60 & echo $! > $DIR/pid; wait")
	src := command(t, s, "K", c.cmd, 0)
	if _, err := src.Token(t.Context()); err == nil {
		t.Fatal("it worked")
	}
	data, err := os.ReadFile(filepath.Join(c.dir, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	fmt.Sscan(string(data), &pid)
	for range 200 {
		if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) || zombie(pid) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("process %d lives on", pid)
}

// zombie: whoever adopted it has not looked yet.
func zombie(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(data), ") Z ")
}

// TestDaemonBesideACommand: a program that starts a daemon, which keeps its
// streams, has done its work when it ends itself.
func TestDaemonBesideACommand(t *testing.T) {
	s, _ := open(t, t.TempDir())
	src := command(t, s, "K", "sleep 20 & echo tok", 0)
	start := time.Now()
	if got := tokenOf(t, src); got != "tok" || time.Since(start) > 10*time.Second {
		t.Error(got, time.Since(start))
	}
}

// TestCommandSeesNoSecret: of this shell's variables only those that it needs,
// and none of the store's secrets in its environment or its arguments.
func TestCommandSeesNoSecret(t *testing.T) {
	env := vars("PATH", os.Getenv("PATH"), "HOME", "/home/x", "SSH_AUTH_SOCK", "/s", "ANTHROPIC_API_KEY", bytesOfIt, "AWS_SECRET_ACCESS_KEY", bytesOfIt,
		"GH_TOKEN", bytesOfIt, "OP_SESSION_x", bytesOfIt)
	t.Setenv("ANTHROPIC_API_KEY", bytesOfIt) // of this process itself
	s, _ := open(t, t.TempDir(), WithEnv(env))
	set(t, s, Entry{Name: "OTHER"}, bytesOfIt)
	src := command(t, s, "K", "env; cat /proc/self/cmdline /proc/$$/cmdline | tr '\\0' '\\n'; pwd", 0)
	seen := tokenOf(t, src)
	shows(t, "the command", seen)
	for _, want := range []string{"HOME=/home/x", "SSH_AUTH_SOCK=/s", "PATH="} {
		if !strings.Contains(seen, want) {
			t.Errorf("no %s in\n%s", want, seen)
		}
	}
	if CommandVar("ANTHROPIC_API_KEY") || !CommandVar("SSH_AUTH_SOCK") {
		t.Error("CommandVar")
	}
}

// TestCallerGoes: a caller that does not wait leaves the command running for
// those that do.
func TestCallerGoes(t *testing.T) {
	s, _ := open(t, t.TempDir())
	c := newCounter(t, "sleep 2; echo tok$N")
	src := command(t, s, "K", c.cmd, time.Hour)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := src.Token(ctx); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, sandbox.ErrUnavailable) {
		t.Error(err)
	}
	if got := tokenOf(t, src); got != "tok1" || c.runs(t) != 1 {
		t.Error(got, c.runs(t))
	}
}

// TestChangedWhileItRuns: what the old command makes is nobody's any more.
func TestChangedWhileItRuns(t *testing.T) {
	s, _ := open(t, t.TempDir())
	c := newCounter(t, "sleep 0.5; echo old")
	src := command(t, s, "K", c.cmd, time.Hour)
	var wg sync.WaitGroup
	wg.Go(func() {
		if tok, err := src.Token(context.Background()); err != nil || tok.Value.Reveal() != "new" {
			t.Error(tok.Value.Reveal(), err)
		}
	})
	for c.runs(t) == 0 {
		time.Sleep(time.Millisecond)
	}
	set(t, s, Entry{Name: "K"}, "new")
	wg.Wait()
	set(t, s, Entry{Name: "L"}, "x") // cleans up
	if left, _ := os.ReadDir(s.file.values); len(left) != 2 {
		t.Error(left)
	}
}

// TestUnsaved: when the store cannot be written, the token is used all the same,
// and the command not run for each request.
func TestUnsaved(t *testing.T) {
	now := newClock()
	s, n := open(t, t.TempDir(), now.option)
	c := newCounter(t, "echo tok$N")
	src := command(t, s, "K", c.cmd, time.Hour)
	disarm := failpoint.Arm("secret.put", func() error { return syscall.ENOSPC })
	defer disarm()
	for range 3 {
		if got := tokenOf(t, src); got != "tok1" {
			t.Error(got)
		}
	}
	if said := n.take(); !strings.Contains(said, "kept in this process alone: no space left") {
		t.Errorf("said %q", said)
	}
	now.add(2 * time.Hour)
	disarm()
	if got := tokenOf(t, src); got != "tok2" {
		t.Error(got)
	}
}

// TestCommandTokensInTheKeyring: where there is one, tokens go there too.
func TestCommandTokensInTheKeyring(t *testing.T) {
	now := newClock()
	d := newDesktop(t)
	s, n := open(t, t.TempDir(), patience, onDesktop(d), now.option)
	c := newCounter(t, "echo tok$N")
	src := command(t, s, "K", c.cmd, time.Hour)
	if len(d.texts()) != 0 {
		t.Error(d.texts())
	}
	if tokenOf(t, src); d.texts()["Berth: token of K"] != "tok1" {
		t.Error(d.texts())
	}
	now.add(2 * time.Hour)
	if tokenOf(t, src); d.texts()["Berth: token of K"] != "tok2" || len(d.texts()) != 1 {
		t.Error(d.texts())
	}
	// Without it, tokens go elsewhere and nobody hears of it at each.
	d.set(func(d *desktop) { d.locked = true })
	now.add(2 * time.Hour)
	if got := tokenOf(t, src); got != "tok3" || n.take() != "" {
		t.Error(got)
	}
	d.set(func(d *desktop) { d.locked = false })
	if err := s.Remove(t.Context(), "K", ""); err != nil || len(d.texts()) != 0 {
		t.Error(d.texts(), err)
	}
}
