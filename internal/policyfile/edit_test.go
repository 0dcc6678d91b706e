package policyfile

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"berth.dev/internal/failpoint"
	"berth.dev/internal/policy"
	"berth.dev/internal/sandbox"
)

// TestMain lets the test binary be a process that edits a file.
func TestMain(m *testing.M) {
	if path := os.Getenv("POLICYFILE_EDIT"); path != "" {
		os.Exit(editor(path, os.Getenv("POLICYFILE_WHO"), os.Getenv("POLICYFILE_DIE") != ""))
	}
	os.Exit(m.Run())
}

// editor adds some rules to a file; with die, it is killed before it writes
// the second.
func editor(path, who string, die bool) int {
	for i := range perEditor {
		if die && i == 1 {
			failpoint.Arm("policyfile.write", func() error { return syscall.Kill(os.Getpid(), syscall.SIGKILL) })
		}
		if err := addOne(path, fmt.Sprintf("r%d.%s.example", i, who)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return 0
}

const perEditor = 8

func addOne(path, host string) error {
	return Edit(path, func(d *Draft) error {
		r, err := policy.ParseRule(policy.Allow, host)
		if err != nil {
			return err
		}
		_, err = d.Add(r)
		return err
	})
}

// TestEditAtOnce: processes and goroutines change one file, one process is
// killed on the way, and nothing is lost.
func TestEditAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), FileName)
	const editors = 4
	var wg sync.WaitGroup
	run := func(do func() error) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err := do(); err != nil {
				t.Error(err)
			}
		}()
	}
	for n := range editors {
		run(func() error {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), "POLICYFILE_EDIT="+path, fmt.Sprintf("POLICYFILE_WHO=p%d", n))
			out, err := cmd.CombinedOutput()
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		})
		run(func() error {
			for i := range perEditor {
				if err := addOne(path, fmt.Sprintf("r%d.g%d.example", i, n)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	run(func() error {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "POLICYFILE_EDIT="+path, "POLICYFILE_WHO=victim", "POLICYFILE_DIE=1")
		var exit *exec.ExitError
		if err := cmd.Run(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			return fmt.Errorf("the victim ended by itself: %w", err)
		}
		return nil
	})
	wg.Wait()
	f, err := Read(path, policy.ScopeUser)
	if err != nil || len(f.Rules) != 2*editors*perEditor+1 {
		t.Errorf("%d rules, %v", len(f.Rules), err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info.Mode(), err)
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 2 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestEditFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), FileName)
	boom := errors.New("boom")
	if err := Edit(path, func(*Draft) error { return boom }); !errors.Is(err, boom) {
		t.Error(err)
	}
	if err := Edit(path, func(*Draft) error { return nil }); err != nil {
		t.Error(err)
	}
	disarm := failpoint.Arm("policyfile.write", func() error { return boom })
	err := addOne(path, "a.io")
	disarm()
	if !errors.Is(err, boom) {
		t.Error(err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("a failed change made a file")
	}
	if err := os.WriteFile(path, []byte("[[deny"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := addOne(path, "a.io"); !errors.Is(err, sandbox.ErrInvalid) {
		t.Error(err)
	}
	if text, _ := os.ReadFile(path); string(text) != "[[deny" {
		t.Errorf("a file that makes no sense became %q", text)
	}
}

// A user who keeps the file elsewhere keeps the link.
func TestEditThroughLink(t *testing.T) {
	dir := t.TempDir()
	path, real := filepath.Join(dir, FileName), filepath.Join(t.TempDir(), "mine.toml")
	if err := errors.Join(os.WriteFile(real, []byte("# mine\n"), 0o644), os.Symlink(real, path)); err != nil {
		t.Fatal(err)
	}
	if err := addOne(path, "a.io"); err != nil {
		t.Fatal(err)
	}
	if to, err := os.Readlink(path); err != nil || to != real {
		t.Error("the link is gone", err)
	}
	if text, _ := os.ReadFile(real); !strings.HasPrefix(string(text), "# mine\n\n[[allow]]\nhost = \"a.io\"\n") {
		t.Errorf("%s", text)
	}
}

func draft(t testing.TB, text string) *Draft {
	t.Helper()
	d, err := NewDraft("f", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestAdd(t *testing.T) {
	r, err := policy.ParseText("allow api.example.com:443,8000-8100 GET /v1/** /v2/** inspect")
	if err != nil {
		t.Fatal(err)
	}
	r.Note = `say "why" \ not`
	const want = `[[allow]]
host = "api.example.com"
ports = [443, "8000-8100"]
methods = ["GET"]
paths = ["/v1/**", "/v2/**"]
inspect = true
note = "say \"why\" \\ not"
`
	for before, after := range map[string]string{
		"":                         want,
		"version = 1\n":            "version = 1\n\n" + want,
		"version = 1 # x":          "version = 1 # x\n\n" + want,
		"[[deny]]\r\nhost='a'\r\n": "[[deny]]\r\nhost='a'\r\n\n" + want,
		"# only a comment":         "# only a comment\n\n" + want,
	} {
		d := draft(t, before)
		if added, err := d.Add(r); err != nil || !added || string(d.Text()) != after || !d.Changed() {
			t.Errorf("%q: %v, %v\n%s", before, added, err, d.Text())
		}
		if added, err := d.Add(r); err != nil || added || string(d.Text()) != after {
			t.Errorf("%q: added twice: %v\n%s", before, err, d.Text())
		}
		if rules := d.Rules(); rules[len(rules)-1].Note != r.Note {
			t.Errorf("note %q", rules[len(rules)-1].Note)
		}
	}
	for _, bad := range []policy.Rule{{}, {Host: r.Host, Note: "a\nb"}, {Host: r.Host, Note: strings.Repeat("x", 2000)}, {Host: r.Host, Note: "\xff"}} {
		d := draft(t, example)
		if _, err := d.Add(bad); err == nil || d.Changed() {
			t.Errorf("added %+v", bad)
		}
	}
}

func TestRemove(t *testing.T) {
	const text = `# top
version = 1

# one
[[allow]] # a
host = "a.io" # x
# inside
ports = [
  443, # [[allow]]
]

# two
  [["deny"]]
host = """b.io"""
note = """
[[allow]]
# not a comment
"""
# after two

[[allow]]
host = "c.io"`
	for i, want := range []string{
		"# top\nversion = 1\n\n# one\n# two\n  [[\"deny\"]]\nhost = \"\"\"b.io\"\"\"\nnote = \"\"\"\n[[allow]]\n# not a comment\n\"\"\"\n# after two\n\n[[allow]]\nhost = \"c.io\"",
		"# top\nversion = 1\n\n# one\n[[allow]] # a\nhost = \"a.io\" # x\n# inside\nports = [\n  443, # [[allow]]\n]\n\n# two\n# after two\n\n[[allow]]\nhost = \"c.io\"",
		strings.TrimSuffix(text, "\n\n[[allow]]\nhost = \"c.io\"") + "\n",
	} {
		d := draft(t, text)
		if err := d.Remove(i); err != nil || string(d.Text()) != want {
			t.Errorf("rule %d: %v\n%s", i, err, d.Text())
		}
	}
	d := draft(t, text)
	for range 3 {
		if err := d.Remove(0); err != nil {
			t.Fatal(err)
		}
	}
	if got := string(d.Text()); got != "# top\nversion = 1\n\n# one\n# two\n# after two\n" {
		t.Errorf("%q", got)
	}
	for _, i := range []int{-1, 0, 7} {
		if err := d.Remove(i); !errors.Is(err, sandbox.ErrNotFound) {
			t.Error(err)
		}
	}
	// What was added and removed leaves nothing.
	d = draft(t, "version = 1\n")
	r, _ := policy.ParseRule(policy.Deny, "x.io")
	if _, err := d.Add(r); err != nil {
		t.Fatal(err)
	}
	if err := d.Remove(0); err != nil || d.Changed() {
		t.Errorf("%q, %v", d.Text(), err)
	}
}

func TestSetPreset(t *testing.T) {
	for before, want := range map[string]string{
		"":                                      "preset = \"open\"\n",
		"version = 1":                           "version = 1\npreset = \"open\"\n",
		"version = 1 # x\n\n[[deny]]\nhost='a'": "version = 1 # x\npreset = \"open\"\n\n[[deny]]\nhost='a'",
		"# c\n[[deny]]\nhost='a'":               "preset = \"open\"\n# c\n[[deny]]\nhost='a'",
		"preset = 'locked' # why\nversion = 1":  "preset = \"open\" # why\nversion = 1",
		"preset=\"\"\"locked\"\"\"":             "preset=\"open\"",
		"\"preset\" = \"open\"":                 "\"preset\" = \"open\"",
	} {
		d := draft(t, before)
		if err := d.SetPreset("open"); err != nil || string(d.Text()) != want || d.Preset() != "open" {
			t.Errorf("%q: %v\n%s", before, err, d.Text())
		}
	}
	if err := draft(t, "").SetPreset("wide"); !errors.Is(err, sandbox.ErrInvalid) {
		t.Error(err)
	}
}

// FuzzEdit changes any file that makes sense, and holds that the change and
// nothing else came of it.
func FuzzEdit(f *testing.F) {
	for _, s := range []string{example, "", "version = 1", "preset='open'", "[[deny]]\nhost='a' # c\n# d\n[[allow]]\nhost='b'\nnote='''\n# [[allow]]'''"} {
		f.Add([]byte(s), uint(1), "allow x.example:443 GET /a", "a note")
	}
	f.Fuzz(func(t *testing.T, text []byte, n uint, added, note string) {
		d, err := NewDraft("f", text)
		if err != nil {
			return
		}
		rules, preset := d.Rules(), d.Preset()
		check := func(step string, err error) {
			t.Helper()
			if err != nil && sandbox.ClassOf(err) != sandbox.ErrPrecondition && sandbox.ClassOf(err) != sandbox.ErrInvalid {
				t.Fatalf("%s: %v", step, err)
			}
			file, perr := Parse("f", d.Text(), policy.ScopeUser)
			if perr != nil || file.Preset != preset || !slices.EqualFunc(file.Rules, rules, policy.Rule.Same) {
				t.Fatalf("%s: %v, %v\n%s\nbecame\n%s", step, err, perr, text, d.Text())
			}
		}
		if r, err := policy.ParseText(added); err == nil {
			r.Note = note
			ok, err := d.Add(r)
			if ok && err == nil {
				rules = append(rules, r)
			}
			check("add", err)
		}
		if len(rules) > 0 {
			i := int(n % uint(len(rules)))
			err := d.Remove(i)
			if err == nil {
				rules = slices.Delete(slices.Clone(rules), i, i+1)
			}
			check("remove", err)
		}
		name := policy.Presets()[n%3]
		err = d.SetPreset(name)
		if err == nil {
			preset = name
		}
		check("preset", err)
	})
}
