package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"filippo.io/age"
)

// TestAdversarySecretsHost looks for keys that a sandbox uses, one of its shell and
// one that is kept, in what other programs of this machine can come by: command
// lines, environments, Berth's files, core files and the trace of a crash.
func TestAdversarySecretsHost(t *testing.T) {
	each(t, func(t *testing.T, u *user) {
		k := newKeeping(t, u)
		const kept = "sk-proj-the-kept-key-of-the-test-0123456789"
		set := k.u.command(t.Context(), k.ws, "secret", "set", "OPENAI_API_KEY")
		set.Stdin = strings.NewReader(kept)
		if r := finish(t, set); r.code != 0 || strings.Contains(r.out+r.err, kept) {
			t.Fatalf("%+v", r)
		}
		k.keptInFile(t, kept)
		// The command that has both in its environment waits for a program inside.
		ctx, cancel := context.WithCancel(t.Context())
		run := k.u.command(ctx, k.ws, "run", "-q", "--name", k.name, "shell", k.ws, "--", "-c", "sleep 1000")
		run.Env = append(run.Env, "ANTHROPIC_API_KEY="+realKey, "OPENAI_API_KEY="+kept)
		var said bytes.Buffer
		run.Stderr = &said
		if err := run.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { cancel(); _ = run.Wait() }()
		eventually(t, "the program runs", func() bool {
			return strings.Contains(k.sh(t, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '").out, "sleep 1000")
		})
		if r := k.sh(t, `curl -sS -H "x-api-key: $ANTHROPIC_API_KEY" https://`+providerHost); r.code != 0 {
			t.Fatalf("%+v", r)
		}
		in := k.u.inspect(t, k.name)
		supervisor := in.PIDs.Supervisor
		keys := []string{realKey, kept}
		if got := procFile(t, run.Process.Pid, "environ"); !has(got, keys...) {
			t.Fatal("the keys are not found in the environment of the command that was given them")
		}
		if !k.search().pid(t, supervisor) {
			t.Fatal("the key is not found in the memory of the supervisor, which has used it")
		}
		all := append(descendants(t, supervisor), append(in.PIDs.Engine, supervisor)...)
		if len(all) < 3 {
			t.Fatalf("the supervisor's processes are %v", all)
		}
		for _, pid := range all {
			for _, what := range []string{"cmdline", "environ"} {
				if got := procFile(t, pid, what); has(got, keys...) {
					t.Errorf("process %d (%s) has a key in its %s", pid, procFile(t, pid, "comm"), what)
				}
			}
			k.noCore(t, pid)
		}
		if has(procFile(t, run.Process.Pid, "cmdline"), keys...) {
			t.Error("a key is in the command line")
		}
		k.noCore(t, run.Process.Pid)
		t.Run("crash", func(t *testing.T) {
			k.crash(t, run.Process, keys)
			if _ = run.Wait(); !strings.Contains(said.String(), "SIGABRT") || has(said.String(), keys...) {
				t.Errorf("the command that crashed said:\n%s", &said)
			}
		})
	})
}

// keptInFile: with no keyring the value is in a file, which with the key beside it
// gives it, and nobody else can look at either.
func (k keeping) keptInFile(t *testing.T, kept string) {
	t.Helper()
	dir := filepath.Join(k.u.berthHome, "data", "secrets")
	values := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = fs.ModeDir | 0o700
		}
		if st := info.Sys().(*syscall.Stat_t); info.Mode() != want || int(st.Uid) != k.u.uid {
			t.Errorf("%s is %s of user %d", path, info.Mode(), st.Uid)
		}
		if d.IsDir() {
			return nil
		}
		data, err := os.ReadFile(path)
		if has(string(data), kept) {
			t.Errorf("%s has the key", path)
		}
		if strings.HasSuffix(path, ".age") {
			values++
			if got := decrypted(t, filepath.Join(dir, "key.txt"), data); !strings.Contains(got, kept) {
				t.Errorf("%s holds %q", path, got)
			}
		}
		return err
	})
	if err != nil || values != 1 {
		t.Errorf("%d values, %v", values, err)
	}
}

// decrypted decrypts a file of age's with the identities in another.
func decrypted(t *testing.T, identities string, data []byte) string {
	t.Helper()
	f, err := os.Open(identities)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ids, err := age.ParseIdentities(f)
	if err != nil {
		t.Fatal(err)
	}
	r, err := age.Decrypt(bytes.NewReader(data), ids...)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if _, err := out.ReadFrom(r); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// crash ends the supervisor and the command in the ways that have the most written
// down, and looks through all that is left.
func (k keeping) crash(t *testing.T, command *os.Process, keys []string) {
	in := k.u.inspect(t, k.name)
	dumped := k.dumps(t)
	for _, pid := range []int{in.PIDs.Supervisor, command.Pid} {
		if err := syscall.Kill(pid, syscall.SIGABRT); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the supervisor is gone", func() bool { return !alive(in.PIDs.Supervisor) })
	trace := k.u.must(t, k.ws, "logs", "--supervisor", k.name)
	if !strings.Contains(trace, "SIGABRT") || !strings.Contains(trace, "goroutine ") {
		t.Errorf("the supervisor's log has no trace of its crash:\n%s", trace)
	}
	if has(trace, keys...) {
		t.Errorf("the trace has a key:\n%s", trace)
	}
	for _, dir := range []string{"/", k.ws, k.u.berthHome} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if path := filepath.Join(dir, e.Name()); strings.HasPrefix(e.Name(), "core") && e.Type().IsRegular() && !slices.Contains(dumped, path) {
				t.Errorf("there is %s", path)
			}
		}
	}
	// Nothing of Berth's on disk has one, but what its user put into a sandbox.
	leaky := k.leaky(t)
	spec := filepath.Join(k.u.inspect(t, leaky).Dir, "spec.json")
	found := filesWith(t, k.u.berthHome, keys)
	if !slices.Equal(found, []string{spec}) {
		t.Errorf("keys are in %q, and should be in %s alone", found, spec)
	}
}

// dumps shows that this machine writes core files, and that one of a process with
// the key has it; it returns those that there are.
func (k keeping) dumps(t *testing.T) []string {
	t.Helper()
	pattern, err := os.ReadFile("/proc/sys/kernel/core_pattern")
	if err != nil {
		t.Fatal(err)
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_CORE, &limit); err != nil {
		t.Fatal(err)
	}
	if name := strings.TrimSpace(string(pattern)); !strings.HasPrefix(name, "core") || limit.Max < 1<<20 {
		t.Logf("core files of at most %d bytes go to %s: that none is made follows from the limits alone", limit.Max, name)
		return nil
	}
	dir := t.TempDir()
	cmd := exec.Command("sh", "-c", "ulimit -c unlimited; kill -ABRT $$")
	cmd.Dir, cmd.Env = dir, []string{"KEY=" + realKey}
	_ = cmd.Run() // it crashes
	cores, err := filepath.Glob(filepath.Join(dir, "core*"))
	if err != nil || len(cores) != 1 {
		t.Fatalf("a process that crashes leaves %q, %v", cores, err)
	}
	if len(filesWith(t, dir, []string{realKey})) != 1 {
		t.Error("the key is not found in the core file of a process that has it")
	}
	// Of those that others left.
	old, _ := filepath.Glob("/core*")
	return old
}

// filesWith are the files below a folder that have one of the keys. Links, such
// as the suite's to its templates, are not followed.
func filesWith(t *testing.T, dir string, keys []string) (found []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if has(string(data), keys...) {
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// noCore: the limit is the one by which the kernel neither writes a core file nor
// hands one to a program.
func (k keeping) noCore(t *testing.T, pid int) {
	t.Helper()
	for line := range strings.Lines(procFile(t, pid, "limits")) {
		if rest, ok := strings.CutPrefix(line, "Max core file size"); ok && !slices.Equal(strings.Fields(rest), []string{"1", "1", "bytes"}) {
			t.Errorf("process %d (%s): %s", pid, procFile(t, pid, "comm"), line)
		}
	}
}

// procFile is a file of a process's.
func procFile(t *testing.T, pid int, name string) string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

// has says whether a text has one of the keys.
func has(text string, keys ...string) bool {
	return slices.ContainsFunc(keys, func(key string) bool { return strings.Contains(text, key) })
}

// descendants are the processes that a process has started, and theirs.
func descendants(t *testing.T, pid int) (all []int) {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		data, err := os.ReadFile(task)
		if err != nil {
			continue // a thread that has ended
		}
		for word := range strings.FieldsSeq(string(data)) {
			child, err := strconv.Atoi(word)
			if err != nil {
				t.Fatal(err)
			}
			all = append(append(all, child), descendants(t, child)...)
		}
	}
	return all
}
