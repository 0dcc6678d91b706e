// Package e2e drives the built binary as users do, with real machines, the
// real base system and the real agents. Every test runs as root, when root
// runs it, and as an ordinary user who has no subordinate ids.
package e2e

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds anything that takes a moment; only a hang comes near it.
const patience = 2 * time.Minute

// ordinaryUID is nobody that the host knows: it has no name, no subordinate
// ids and no group but its own.
const ordinaryUID = 54321

// suite is what all tests share.
var suite struct {
	dir   string // removed at the end
	berth string // the binary under test
	other string // the same tree with another engine build in its name
	users []*user
}

func TestMain(m *testing.M) {
	flag.Parse()
	if testing.Short() {
		fmt.Println("end-to-end tests build a template and are not for -short")
		os.Exit(0)
	}
	code, err := runSuite(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func runSuite(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "berth-e2e-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		return 1, err
	}
	suite.dir = dir
	if err := buildBinaries(); err != nil {
		return 1, err
	}
	if err := makeUsers(); err != nil {
		return 1, err
	}
	defer func() {
		for _, u := range suite.users {
			u.cleanUp()
		}
	}()
	if err := useEngine(); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// suiteEngine is the engine that all sandboxes of the run are made with whose
// test does not say otherwise; "" for the default.
var suiteEngine = os.Getenv("BERTH_TEST_ENGINE")

// useEngine makes it every user's own setting, in a folder of this run's.
func useEngine() error {
	if suiteEngine == "" {
		return nil
	}
	for i, u := range suite.users {
		if suiteEngine == microVM {
			if err := withKernel(u); err != nil {
				return err
			}
		}
		home := filepath.Join(suite.dir, fmt.Sprint("engine-", i))
		if err := u.newHome(home, "engine = \""+suiteEngine+"\"\n"); err != nil {
			return err
		}
		u.berthHome = home
	}
	return nil
}

// newHome makes a BERTH_HOME with settings of its own, in which the templates,
// and what engines fetch, are the user's.
func (u *user) newHome(home, settings string) error {
	for _, dir := range []string{"data", "config"} {
		if err := os.MkdirAll(filepath.Join(home, dir), 0o700); err != nil {
			return err
		}
	}
	cache := filepath.Join(u.berthHome, "data", "cache")
	if err := os.MkdirAll(cache, 0o700); err != nil {
		return err
	}
	if err := os.Chown(cache, u.uid, u.uid); err != nil {
		return err
	}
	for _, part := range []string{"images", "templates", "cache"} {
		if err := os.Symlink(filepath.Join(u.berthHome, "data", part), filepath.Join(home, "data", part)); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(home, "config", "config.toml"), []byte(settings), 0o644); err != nil {
		return err
	}
	return filepath.WalkDir(home, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, u.uid, u.uid)
	})
}

func buildBinaries() error {
	if out, err := exec.Command("make", "-s", "-C", "../..", "generate").CombinedOutput(); err != nil {
		return fmt.Errorf("make generate: %w\n%s", err, out)
	}
	suite.berth = filepath.Join(suite.dir, "bin", "berth")
	suite.other = filepath.Join(suite.dir, "bin", "berth-other")
	for path, flags := range map[string]string{
		suite.berth: "-s -w -X berth.dev/internal/version.Version=e2e",
		suite.other: "-s -w -X berth.dev/internal/version.Version=e2e-other -X berth.dev/internal/engine/gvisor.build=gvisor-other",
	} {
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags", flags, "-o", path, "berth.dev/cmd/berth")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go build: %w\n%s", err, out)
		}
	}
	return nil
}

// user is somebody who runs berth.
type user struct {
	name      string
	uid       int
	home      string
	berthHome string
}

// makeUsers gives each user a home and the templates, which are built once and
// kept between runs of the suite.
func makeUsers() error {
	cache := os.Getenv("BERTH_TEST_CACHE")
	if cache == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return err
		}
		cache = filepath.Join(base, "berth-test")
	}
	me := &user{name: "root", uid: os.Geteuid(), home: filepath.Join(suite.dir, "home"), berthHome: cache}
	if me.uid != 0 {
		me.name = "user"
	}
	if err := os.MkdirAll(me.home, 0o755); err != nil {
		return err
	}
	suite.users = []*user{me}
	for _, name := range []string{"base", "claude", "codex", "gemini", "opencode", "copilot"} {
		begun := time.Now()
		cmd := me.command(context.Background(), "", "template", "build", name)
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("build template %s: %w", name, err)
		}
		fmt.Fprintf(os.Stderr, "e2e: template %s after %s\n", name, time.Since(begun).Round(100*time.Millisecond))
	}
	if me.uid != 0 {
		return nil
	}
	other := &user{name: "user", uid: ordinaryUID, home: filepath.Join(suite.dir, "user"), berthHome: filepath.Join(suite.dir, "user", ".berth")}
	for _, part := range []string{"images", "templates"} {
		dst := filepath.Join(other.berthHome, "data", part)
		if err := os.MkdirAll(filepath.Dir(dst), 0o700); err != nil {
			return err
		}
		if out, err := exec.Command("cp", "-a", filepath.Join(cache, "data", part), dst).CombinedOutput(); err != nil {
			return fmt.Errorf("copy the templates: %w\n%s", err, out)
		}
	}
	if out, err := exec.Command("chown", "-R", fmt.Sprint(ordinaryUID, ":", ordinaryUID), other.home).CombinedOutput(); err != nil {
		return fmt.Errorf("hand over the templates: %w\n%s", err, out)
	}
	suite.users = append(suite.users, other)
	return nil
}

// each runs a test as every user.
func each(t *testing.T, test func(*testing.T, *user)) {
	t.Helper()
	for _, u := range suite.users {
		t.Run(u.name, func(t *testing.T) { test(t, u) })
	}
}

// least runs a test as the user who may do least, where it takes minutes and
// who runs it decides about nothing that it looks at.
func least(t *testing.T, test func(*testing.T, *user)) {
	t.Helper()
	u := suite.users[len(suite.users)-1]
	t.Run(u.name, func(t *testing.T) { test(t, u) })
}

// command is berth as this user.
func (u *user) command(ctx context.Context, dir string, args ...string) *exec.Cmd {
	return u.program(ctx, suite.berth, dir, args...)
}

func (u *user) program(ctx context.Context, path, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = dir
	if dir == "" {
		cmd.Dir = u.home
	}
	cmd.Env = []string{"HOME=" + u.home, "BERTH_HOME=" + u.berthHome, "PATH=" + os.Getenv("PATH"), "LANG=C.UTF-8"}
	for _, name := range []string{"SSL_CERT_FILE", "SSL_CERT_DIR"} {
		if v := os.Getenv(name); v != "" {
			cmd.Env = append(cmd.Env, name+"="+v)
		}
	}
	if u.uid != os.Geteuid() {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(u.uid), Gid: uint32(u.uid)}}
	}
	return cmd
}

// result is what a command printed and ended with.
type result struct {
	out, err string
	code     int
}

// run runs berth to its end, with env beside the user's own.
func (u *user) run(t *testing.T, dir string, env []string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := u.command(ctx, dir, args...)
	cmd.Env = append(cmd.Env, env...)
	return finish(t, cmd)
}

func finish(t *testing.T, cmd *exec.Cmd) result {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var ee *exec.ExitError
	if err != nil && !errors.As(err, &ee) {
		t.Fatalf("%s: %v", strings.Join(cmd.Args, " "), err)
	}
	return result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// must is run for what has to work; it returns what was printed.
func (u *user) must(t *testing.T, dir string, args ...string) string {
	t.Helper()
	r := u.run(t, dir, nil, args...)
	if r.code != 0 {
		t.Fatalf("berth %s: status %d\n%s%s", strings.Join(args, " "), r.code, r.out, r.err)
	}
	return r.out
}

// workspace makes a folder that belongs to the user.
func (u *user) workspace(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(u.home, "ws-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, u.uid, u.uid); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

var counter struct {
	sync.Mutex
	n int
}

// fresh is a new sandbox name; the sandbox is removed when the test ends.
func (u *user) fresh(t *testing.T) string {
	t.Helper()
	counter.Lock()
	counter.n++
	name := fmt.Sprintf("e2e-%d-%d", os.Getpid(), counter.n)
	counter.Unlock()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = u.command(ctx, "", "rm", "-f", name).Run() // a test may have removed it
	})
	return name
}

// cleanUp removes what tests that failed left running.
func (u *user) cleanUp() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, err := u.command(ctx, "", "ls", "-q").Output()
	if err != nil {
		return
	}
	for id := range strings.FieldsSeq(string(out)) {
		fmt.Fprintln(os.Stderr, "e2e: left behind:", id)
		_ = u.command(ctx, "", "rm", "-f", id).Run()
	}
}
