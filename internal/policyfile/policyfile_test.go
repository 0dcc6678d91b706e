package policyfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"berth.dev/internal/policy"
	"berth.dev/internal/sandbox"
)

const example = `# A comment.
version = 1
preset = "locked" # why

[[allow]]
host = "api.example.com"       # pattern
ports = [443, "8000-8100"]
methods = ["get", "HEAD"]
paths = ["/v1/**"]
inspect = true
note = "why"

# Denied for a reason.
[[deny]]
host = "**.ads.example.com"

[[allow]]
host = "fd00::1"
ports = ["443"]
`

// printed are the rules of a file, one a line.
func printed(rules []policy.Rule) string {
	var lines []string
	for _, r := range rules {
		lines = append(lines, r.String())
	}
	return strings.Join(lines, "\n")
}

func TestParse(t *testing.T) {
	f, err := Parse("/c/policy.toml", []byte(example), policy.ScopeUser)
	if err != nil {
		t.Fatal(err)
	}
	want := "allow api.example.com:443,8000-8100 GET,HEAD /v1/** inspect\ndeny **.ads.example.com\nallow [fd00::1]:443"
	if got := printed(f.Rules); got != want || f.Preset != "locked" {
		t.Errorf("preset %s\n%s", f.Preset, got)
	}
	if r := f.Rules[0]; r.Note != "why" || r.Scope != policy.ScopeUser || r.File != "/c/policy.toml" || r.Origin() != "user (/c/policy.toml)" {
		t.Errorf("%+v", r)
	}
	for _, empty := range []string{"", "\n# only a comment", "version = 1", "\ufeff"[:0]} {
		if f, err := Parse("f", []byte(empty), 0); err != nil || len(f.Rules) != 0 || f.Preset != "" {
			t.Errorf("%q: %+v, %v", empty, f, err)
		}
	}
}

// Each mistake is named with file, line and key.
func TestParseRefuses(t *testing.T) {
	rule := "version = 1\n[[allow]]\nhost = \"x.io\"\n"
	for text, want := range map[string]string{
		"version = 2":                     "use a newer one",
		"version = 0":                     "no version 0",
		"version = \"1\"":                 "line 1",
		"preset = \"wide\"":               `line 1: there is no preset "wide"`,
		"preset = \"\"":                   "line 1: there is no preset",
		"\nPreset = \"open\"":             `line 2: there is no key "Preset"`,
		"\n\ndefault = 1":                 `line 3: there is no key "default"`,
		"[allow]\nhost = \"x.io\"":        "line 1: there is no table [allow]",
		"allow = [{host = \"x.io\"}]":     "line 1: write each rule as a table",
		"[[permit]]":                      `line 1: there is no table "permit"`,
		"[[Allow]]\nhost = \"x.io\"":      `line 1: there is no table "Allow"`,
		"[[allow.x]]":                     `line 1: there is no table "allow.x"`,
		"[[allow]]\nhost.name = \"x.io\"": `line 2: there is no key "host.name"`,
		"[[allow]]":                       "line 1: the rule has no host",
		rule + "port = [443]":             `line 4: there is no key "port"`,
		rule + "Ports = [443]":            `line 4: there is no key "Ports"`,
		rule + "ports = 443":              "line 4",
		rule + "ports = [443.5]":          "line 2: ports: write numbers",
		rule + "ports = [0]":              "line 2: \"0\" is no port",
		rule + "ports = [-1]":             "is no port",
		rule + "ports = [65536]":          "is no port",
		rule + "ports = [\"80,443\"]":     "write several as",
		rule + "ports = [\"http\"]":       "is no port",
		rule + "ports = [[443]]":          "line 2: ports: write numbers",
		rule + "methods = \"GET\"":        "line 4",
		rule + "methods = [\"G T\"]":      "line 2: \"G T\" is no HTTP method",
		rule + "paths = [\"v1\"]":         "line 2: path \"v1\" does not begin",
		rule + "inspect = \"yes\"":        "line 4",
		rule + "note = 1":                 "line 4",
		rule + "host = \"y.io\"":          "line 4",
		rule + "note = \"" + strings.Repeat("x", 2000) + "\"": "longer than",
		"[[allow]]\nhost = 1":                          "line 2",
		"[[allow]]\nhost = \"x.io:443\"":               "ports = [443]",
		"[[allow]]\nhost = \"[fd00::1]:443\"":          "ports = [443]",
		"[[allow]]\nhost = \"[fd00::1]\"\nports = [1]": "without brackets",
		"[[allow]]\nhost = \"*\"":                      "line 1: \"*\" stands for one label",
		"[[allow]]\nhost = \"https://x.io\"":           "ports stand apart",
		"[[allow]]\nhost = \"host.berth.internal\"":    "say which ports",
		"[[deny]]\nhost = \"x.io\"\ninspect = true":    "line 1: inspect goes with allow",
		"version = 1\nversion = 1":                     "line 2",
		"preset = \"open\"\npreset = \"locked\"":       "line 2",
		"version = ":                                   "line 1",
		"[[allow]\nhost":                               "line 1",
		"version = 1\n\xff":                            "line 2: it is not UTF-8",
		"a = " + strings.Repeat("[", 200_000):          "line 1",
	} {
		f, err := Parse("/c/policy.toml", []byte(text), policy.ScopeUser)
		switch {
		case err == nil:
			t.Errorf("%.100q parses as %+v", text, f)
		case !errors.Is(err, sandbox.ErrInvalid) || !strings.Contains(err.Error(), "/c/policy.toml") || !strings.Contains(err.Error(), want):
			t.Errorf("%.100q: %v, want %q in it", text, err, want)
		}
	}
}

// place is a set of sources in folders of the test.
type place struct {
	Sources
	t *testing.T
}

func newPlace(t *testing.T) place {
	config, project, bundle := t.TempDir(), t.TempDir(), t.TempDir()
	return place{t: t, Sources: ForSandbox(config, filepath.Join(bundle, FileName), sandbox.Spec{Workspace: project, Agent: "shell"}, nil)}
}

func (p place) write(path, text string) {
	p.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

func (p place) project(text string) { p.t.Helper(); p.write(ProjectFile(p.Project), text) }

func (p place) load() Effective {
	p.t.Helper()
	e, err := Load(p.Sources)
	if err != nil {
		p.t.Fatal(err)
	}
	return e
}

func (p place) approve() {
	p.t.Helper()
	pending, err := Look(p.Project, p.Approvals)
	if err == nil {
		err = Approve(pending, p.Approvals)
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

func TestLoad(t *testing.T) {
	p := newPlace(t)
	if e := p.load(); e.Preset != "balanced" || e.PresetScope != policy.ScopePreset || len(e.Rules)+len(e.Warnings) != 0 || e.Project.Status != ProjectNone {
		t.Errorf("nothing: %+v", e)
	}
	if rules, err := p.load().All(); err != nil || len(rules) < 100 {
		t.Errorf("%d rules, %v", len(rules), err)
	}
	p.write(p.User, "preset = \"locked\"\n[[allow]]\nhost = \"u.io\"")
	if e := p.load(); e.Preset != "locked" || e.PresetScope != policy.ScopeUser || printed(e.Rules) != "allow u.io" {
		t.Errorf("user: %+v", e)
	}
	p.Preset = "balanced"
	if e := p.load(); e.Preset != "balanced" || e.PresetScope != policy.ScopeSandbox {
		t.Errorf("chosen at creation: %+v", e)
	}
	p.Preset = "wide"
	if _, err := Load(p.Sources); !errors.Is(err, sandbox.ErrInvalid) {
		t.Error(err)
	}
	p.Preset = "locked"
	p.write(p.Sandbox, "preset = \"open\"\n[[deny]]\nhost = \"s.io\"")
	p.project("preset = \"balanced\"\n[[deny]]\nhost = \"p.io\"\n")
	p.Agent, p.AgentHosts, p.HostPorts = "claude", []string{"api.anthropic.com", "*.claude.ai"}, []int{5432}
	e := p.load()
	if e.Preset != "balanced" || e.PresetScope != policy.ScopeProject {
		t.Errorf("preset %s of %s", e.Preset, e.PresetScope)
	}
	want := "allow u.io\ndeny p.io\ndeny s.io\nallow host.berth.internal:5432\nallow api.anthropic.com:443\nallow **.claude.ai:443"
	if got := printed(e.Rules); got != want {
		t.Errorf("%s", got)
	}
	var origins []string
	for _, r := range e.Rules {
		origins = append(origins, r.Origin())
	}
	if !slices.Equal(origins, []string{"user (" + p.User + ")", "project (" + ProjectFile(p.Project) + ")", "sandbox (" + p.Sandbox + ")", "sandbox", "agent claude", "agent claude"}) {
		t.Errorf("%q", origins)
	}

	for _, path := range []string{p.User, p.Sandbox} {
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		p.write(path, "[[deny]]\nhsot = \"x.io\"")
		if _, err := Load(p.Sources); !errors.Is(err, sandbox.ErrInvalid) || !strings.Contains(err.Error(), path+": line 2: there is no key \"hsot\"") {
			t.Errorf("%v", err)
		}
		p.write(path, string(good))
	}
	p.HostPorts = []int{70000}
	if _, err := Load(p.Sources); !errors.Is(err, sandbox.ErrInvalid) {
		t.Error(err)
	}
}

// TestProject follows one project's file through its life.
func TestProject(t *testing.T) {
	p := newPlace(t)
	p.write(p.User, "preset = \"balanced\"")
	const wants = "preset = \"locked\"\n[[allow]]\nhost = \"a.io\"\n[[deny]]\nhost = \"d.io\"\n"
	check := func(step string, status ProjectStatus, rules, preset, warning string) {
		t.Helper()
		e := p.load()
		if e.Project.Status != status || printed(e.Rules) != rules || e.Preset != preset {
			t.Errorf("%s: %s, preset %s, rules\n%s", step, e.Project.Status, e.Preset, printed(e.Rules))
		}
		if warnings := strings.Join(e.Warnings, "\n"); warning == "" && warnings != "" || !strings.Contains(warnings, warning) {
			t.Errorf("%s: warnings %q", step, warnings)
		}
	}
	check("none", ProjectNone, "", "balanced", "")
	p.project(wants)
	check("unapproved", ProjectUnapproved, "deny d.io", "locked", "berth policy approve")
	if w := p.load().Project.Waiting; printed(w) != "allow a.io" {
		t.Errorf("waiting: %v", w)
	}
	p.approve()
	check("approved", ProjectApproved, "allow a.io\ndeny d.io", "locked", "")

	p.project("[[allow]]\nhost = \"**\"\n[[deny]]\nhost = \"e.io\"\n")
	check("changed", ProjectChanged, "deny d.io\ndeny e.io", "locked", "not what you approved")
	p.project("preset = \"open\"\n[[deny]]\nhost = \"d.io\"\n")
	check("wider preset", ProjectChanged, "deny d.io", "locked", "not what you approved")
	p.project("nonsense")
	check("broken", ProjectBroken, "deny d.io", "locked", "line 1")
	p.project(wants + " ")
	check("one space", ProjectChanged, "deny d.io", "locked", "not what you approved")
	if err := os.Remove(ProjectFile(p.Project)); err != nil {
		t.Fatal(err)
	}
	check("gone", ProjectChanged, "deny d.io", "locked", "is gone")
	p.project(wants)
	check("back", ProjectApproved, "allow a.io\ndeny d.io", "locked", "")

	// The same workspace under another name.
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(p.Project, link); err != nil {
		t.Fatal(err)
	}
	real := p.Project
	p.Project = link
	check("by a link", ProjectApproved, "allow a.io\ndeny d.io", "locked", "")
	p.Project = real

	// Approving nothing forgets.
	if err := os.RemoveAll(filepath.Join(p.Project, projectDir)); err != nil {
		t.Fatal(err)
	}
	p.approve()
	check("forgotten", ProjectNone, "", "balanced", "")

	// Wider than the user's is no wish that counts, approved or not.
	p.project("preset = \"open\"")
	check("wider", ProjectUnapproved, "", "balanced", "")
	p.approve()
	check("wider, approved", ProjectApproved, "", "balanced", "")

	// Another workspace's approval does not count here.
	other := newPlace(t)
	other.Approvals = p.Approvals
	other.project("preset = \"open\"")
	if e := other.load(); e.Project.Status != ProjectUnapproved {
		t.Errorf("%+v", e.Project)
	}
}

// TestApproveWhatWasSeen: the guest changes the file while the user reads.
func TestApproveWhatWasSeen(t *testing.T) {
	p := newPlace(t)
	p.project("[[allow]]\nhost = \"a.io\"\n")
	seen, err := Look(p.Project, p.Approvals)
	if err != nil || !seen.Present || seen.Approved || printed(seen.Added) != "allow a.io" {
		t.Fatalf("%+v, %v", seen, err)
	}
	p.project("[[allow]]\nhost = \"**\"\n")
	if err := Approve(seen, p.Approvals); err != nil {
		t.Fatal(err)
	}
	if e := p.load(); e.Project.Status != ProjectChanged || len(e.Rules) != 0 {
		t.Errorf("%+v", e)
	}
	again, err := Look(p.Project, p.Approvals)
	if err != nil || !again.Approved || again.Current || printed(again.Added) != "allow **" || printed(again.Removed) != "allow a.io" {
		t.Errorf("%+v, %v", again, err)
	}
	p.project("x")
	if _, err := Look(p.Project, p.Approvals); !errors.Is(err, sandbox.ErrInvalid) {
		t.Error(err)
	}
}

// A broken approval must not be taken for none: its denials would be lost.
func TestBrokenApproval(t *testing.T) {
	p := newPlace(t)
	p.project("[[deny]]\nhost = \"d.io\"\n")
	p.approve()
	path := approvalFile(p.Approvals, p.Project)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "{", strings.Replace(string(good), "d.io", "e.io", 1), `{"version": 99}`} {
		p.write(path, bad)
		if e, err := Load(p.Sources); err == nil || sandbox.HintOf(err) == "" {
			t.Errorf("%q: %+v, %v", bad, e, err)
		}
	}
}

// TestHostileProject: what a guest can put where the project's file should be.
func TestHostileProject(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("[[deny]]\nhost = \"secret.io\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, plant := range map[string]func(dir string) error{
		"link":    func(dir string) error { return os.Symlink(secret, filepath.Join(dir, FileName)) },
		"pipe":    func(dir string) error { return unix.Mkfifo(filepath.Join(dir, FileName), 0o600) },
		"folder":  func(dir string) error { return os.Mkdir(filepath.Join(dir, FileName), 0o700) },
		"endless": func(dir string) error { return os.Symlink("/dev/zero", filepath.Join(dir, FileName)) },
		"large":   func(dir string) error { return os.Truncate(touch(dir), maxProject+1) },
		"many rules": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, FileName), []byte(strings.Repeat("[[deny]]\nhost=\"a\"\n", maxProjectRules+1)), 0o600)
		},
		"folder link": func(dir string) error { return errors.Join(os.Remove(dir), os.Symlink(filepath.Dir(secret), dir)) },
		"folder loop": func(dir string) error { return errors.Join(os.Remove(dir), os.Symlink(dir, dir)) },
		"folder file": func(dir string) error { return errors.Join(os.Remove(dir), os.WriteFile(dir, nil, 0o600)) },
		"socket": func(dir string) error {
			return unix.Mknod(filepath.Join(dir, FileName), unix.S_IFSOCK|0o600, 0)
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			p.project("[[deny]]\nhost = \"d.io\"\n[[allow]]\nhost = \"a.io\"")
			p.approve()
			dir := filepath.Join(p.Project, projectDir)
			if err := os.Remove(filepath.Join(dir, FileName)); err != nil {
				t.Fatal(err)
			}
			if name == "folder link" {
				if err := os.Rename(secret, filepath.Join(filepath.Dir(secret), FileName)); err != nil {
					t.Fatal(err)
				}
				defer os.Rename(filepath.Join(filepath.Dir(secret), FileName), secret)
			}
			if err := plant(dir); err != nil {
				t.Fatal(err)
			}
			e := p.load()
			if e.Project.Status != ProjectBroken || printed(e.Rules) != "deny d.io" || len(e.Warnings) != 1 {
				t.Errorf("%+v", e)
			}
			if _, err := Look(p.Project, p.Approvals); err == nil || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("to be approved: %v", err)
			}
		})
	}
}

func touch(dir string) string {
	path := filepath.Join(dir, FileName)
	_ = os.WriteFile(path, nil, 0o600)
	return path
}

func TestStamp(t *testing.T) {
	p := newPlace(t)
	last := Stamp(p.Sources)
	if again := Stamp(p.Sources); again != last {
		t.Fatal("a stamp changes by itself")
	}
	changed := func(step string) {
		t.Helper()
		now := Stamp(p.Sources)
		if now == last {
			t.Errorf("%s: the stamp is the same", step)
		}
		last = now
	}
	p.write(p.User, "version = 1")
	changed("user")
	p.write(p.Sandbox, "version = 1")
	changed("sandbox")
	p.project("version = 1")
	changed("project")
	p.approve()
	changed("approval")
	if err := Edit(p.User, func(d *Draft) error { return d.SetPreset("open") }); err != nil {
		t.Fatal(err)
	}
	changed("edit")
	if err := os.RemoveAll(filepath.Join(p.Project, projectDir)); err != nil {
		t.Fatal(err)
	}
	changed("removed")
	if err := os.WriteFile(filepath.Join(p.Project, "other"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if now := Stamp(p.Sources); now != last {
		t.Error("another file changed the stamp")
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{example, "", "version=1", "[[allow]]\nhost='a'\nports=[1,'2-3']", "a.b.c = 1", "[[deny]]\n\"host\" = \"\"\"\na\"\"\""} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Parse("f", data, policy.ScopeProject)
		if err != nil {
			if !errors.Is(err, sandbox.ErrInvalid) {
				t.Fatalf("%v is of no class", err)
			}
			return
		}
		var text strings.Builder
		for _, r := range file.Rules {
			if err := r.Check(); err != nil || r.Scope != policy.ScopeProject {
				t.Fatalf("%s: %v", r, err)
			}
			text.WriteString(block(r))
		}
		again, err := Parse("f", []byte(text.String()), policy.ScopeProject)
		if err != nil || printed(again.Rules) != printed(file.Rules) {
			t.Fatalf("%s\ncomes back as %v, %v", text.String(), again, err)
		}
	})
}
