package cli

import (
	"bytes"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"berth.dev/internal/agent"
	"berth.dev/internal/bundle"
	"berth.dev/internal/sandbox"
	"berth.dev/internal/template"
)

// at is an app in a folder of its own below a home of its own.
func at(t *testing.T, vars ...string) (a *app, dir string) {
	t.Helper()
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	home := filepath.Join(root, "home")
	dir = filepath.Join(home, "project")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	vars = append(vars, "HOME="+home, "BERTH_HOME="+filepath.Join(root, "berth"))
	return newApp(Stdio{In: strings.NewReader(""), Out: io.Discard, Err: io.Discard}, Env{Dir: dir, Vars: vars}), dir
}

func claude(t *testing.T) *agent.Agent {
	t.Helper()
	ag, err := agent.Find("claude")
	if err != nil {
		t.Fatal(err)
	}
	return &ag
}

func TestWish(t *testing.T) {
	a, dir := at(t, "ANTHROPIC_API_KEY=sk-secret", "OTHER=o")
	extra := filepath.Join(dir, "extra")
	if err := os.Mkdir(extra, 0o755); err != nil {
		t.Fatal(err)
	}
	o := &createOptions{
		Env: []string{"ANTHROPIC_API_KEY", "OTHER", "GIVEN=1"}, Memory: "2g", CPUs: 3, HostPorts: []int{80},
		Volumes: []string{"extra:/data:ro"}, IdleAfter: time.Hour, Quiet: true,
	}
	w, err := a.wish(o, claude(t), []string{".", "extra:ro"})
	if err != nil {
		t.Fatal(err)
	}
	s := w.spec
	if s.Agent != "claude" || s.Workspace != dir || s.Resources.Memory != 2<<30 || s.Resources.CPUs != 3 || s.IdleAfter != time.Hour {
		t.Errorf("got %+v", s)
	}
	want := []sandbox.Mount{{Host: dir, Guest: dir}, {Host: extra, Guest: extra, ReadOnly: true}, {Host: extra, Guest: "/data", ReadOnly: true}}
	if len(s.Mounts) != 3 || s.Mounts[0] != want[0] || s.Mounts[1] != want[1] || s.Mounts[2] != want[2] {
		t.Errorf("mounts %v", s.Mounts)
	}
	// A key is bound, and neither on disk nor in the session's environment.
	if !maps.Equal(s.Env, map[string]string{"OTHER": "o", "GIVEN": "1"}) || len(w.session) != 0 || !slices.Equal(w.secrets, []string{"ANTHROPIC_API_KEY"}) {
		t.Errorf("env %v, session %v, secrets %v", s.Env, w.session, w.secrets)
	}
	if w.exposed != nil {
		t.Error(w.exposed)
	}
}

// A key of a service of the user's own is bound as those of the built-in ones
// are; one that goes inside is warned of, with what keeps it outside.
func TestWishOfKeys(t *testing.T) {
	const long = "0123456789012345678901234567890123456789"
	a, _ := at(t, "TICKETS_URL=https://tickets.example.net", "TICKETS_TOKEN="+long, "MISTRAL_API_KEY="+long, "OTHER=sk-ant-"+long)
	if _, err := a.manager(); err != nil {
		t.Fatal(err)
	}
	config, err := a.dirs.Config()
	if err != nil {
		t.Fatal(err)
	}
	own := "[[service]]\nname = 'tickets'\nhosts = ['tickets.example.com']\nvars = ['TICKETS_TOKEN', 'TICKETS_KEY']\nbase_var = 'TICKETS_URL'\n[[service.scheme]]\nkind = 'bearer'\n"
	if err := os.WriteFile(filepath.Join(config, "services.toml"), []byte(own), 0o600); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	a.Err = &said
	w, err := a.wish(&createOptions{Env: []string{
		"TICKETS_TOKEN", "MISTRAL_API_KEY", "OTHER", "TICKETS_KEY=" + long, "GROQ_API_KEY=" + long, "OPENAI_API_KEY=local", "PLAIN=" + long,
	}}, claude(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(w.secrets, []string{"TICKETS_TOKEN", "MISTRAL_API_KEY"}) || w.spec.Env["TICKETS_TOKEN"] != "" || len(w.spec.Env) != 5 {
		t.Errorf("secrets %v, env %v", w.secrets, w.spec.Env)
	}
	if bases := a.bases(w.spec, w.offer(*claude(t))); bases["TICKETS_URL"] != "https://tickets.example.net" {
		t.Errorf("its own base_var is not looked at: %v", bases)
	}
	for _, want := range []string{
		"GROQ_API_KEY looks like a key, and whatever runs in the sandbox can read it; in a sandbox that can use secrets, -e GROQ_API_KEY without a value,",
		"TICKETS_KEY looks like a key",
		"OTHER looks like a key, and whatever runs in the sandbox can read it; berth secret set OTHER --host HOST --bearer keeps it outside",
	} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("it does not say %q:\n%s", want, &said)
		}
	}
	if n := strings.Count(said.String(), "looks like"); n != 3 || strings.Contains(said.String(), long) {
		t.Errorf("%d warnings:\n%s", n, &said)
	}
	// What could be one is not passed on as if it were none.
	if err := os.WriteFile(filepath.Join(config, "services.toml"), []byte("[[service"), 0o600); err != nil {
		t.Fatal(err)
	}
	a.readServices = sync.Once{}
	if _, err := a.wish(&createOptions{Env: []string{"TICKETS_TOKEN"}}, claude(t), nil); err == nil || strings.Contains(err.Error(), long) {
		t.Errorf("with a damaged services.toml: %v", err)
	}
	if w, err := a.wish(&createOptions{Env: []string{"MISTRAL_API_KEY", "A=b"}}, claude(t), nil); err != nil || !slices.Equal(w.secrets, []string{"MISTRAL_API_KEY"}) {
		t.Errorf("what does not rest on it: %v, %v", w.secrets, err)
	}
}

func TestWishOfTheHomeAsksFirst(t *testing.T) {
	a, dir := at(t)
	w, err := a.wish(&createOptions{}, claude(t), []string{filepath.Dir(dir)})
	if err != nil || !needsForce(w.exposed) || w.spec.Workspace != filepath.Dir(dir) {
		t.Errorf("got %+v, %v", w, err)
	}
	w, err = a.wish(&createOptions{Force: true}, claude(t), []string{filepath.Dir(dir)})
	if err != nil || w.exposed != nil {
		t.Errorf("got %+v, %v", w, err)
	}
}

// A sandbox that was named keeps its own workspace.
func TestWishForASandbox(t *testing.T) {
	a, _ := at(t)
	w, err := a.wish(&createOptions{Name: "box"}, nil, nil)
	if err != nil || w.spec.Workspace != "" || w.spec.Mounts != nil || w.spec.Agent != "" {
		t.Errorf("got %+v, %v", w.spec, err)
	}
	w, err = a.wish(&createOptions{Name: "box", Volumes: []string{".:/data"}}, nil, nil)
	if err != nil || w.spec.Workspace != "" || len(w.spec.Mounts) != 1 {
		t.Errorf("got %+v, %v", w.spec, err)
	}
}

func TestAgentEnv(t *testing.T) {
	a, _ := at(t, "ANTHROPIC_API_KEY=from shell", "OPENAI_API_KEY=not claude's", "TERM=xterm", "TZ=UTC")
	env := a.agentEnv(*claude(t), true, map[string]string{"ANTHROPIC_API_KEY": "placeholder"}, map[string]string{"TZ": "fixed"}, map[string]string{"SAID": "1"})
	if env["ANTHROPIC_API_KEY"] != "placeholder" || env["TERM"] != "xterm" || env["SAID"] != "1" || env["DISABLE_AUTOUPDATER"] != "1" {
		t.Errorf("got %v", env)
	}
	for _, name := range []string{"OPENAI_API_KEY", "HOME", "TZ"} {
		if v, ok := env[name]; ok {
			t.Errorf("%s is %q", name, v)
		}
	}
	// What was fixed at creation is not undone by the shell of today.
	env = a.agentEnv(*claude(t), false, map[string]string{"ANTHROPIC_API_KEY": "placeholder"}, map[string]string{"ANTHROPIC_API_KEY": "fixed"}, nil)
	if v, ok := env["ANTHROPIC_API_KEY"]; ok {
		t.Errorf("the key is %q", v)
	}
	// A key of the shell's is not passed, whatever else is.
	if v, ok := a.agentEnv(*claude(t), false, nil, nil, nil)["ANTHROPIC_API_KEY"]; ok {
		t.Errorf("the key is %q", v)
	}
}

func TestExecSpec(t *testing.T) {
	a, dir := at(t, "K=v", "ANTHROPIC_API_KEY=sk-secret")
	store, err := bundle.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b, err := store.Create(sandbox.Spec{Agent: "claude", Workspace: dir, Env: map[string]string{"LANG": "x"}})
	if err != nil {
		t.Fatal(err)
	}
	s, secrets, err := a.execSpec(&execOptions{Args: []string{"true"}, Env: []string{"K", "ANTHROPIC_API_KEY"}, Dir: "sub/..", Quiet: true}, b)
	if err != nil || !slices.Equal(secrets, []string{"ANTHROPIC_API_KEY"}) || s.Dir != dir || s.Env["K"] != "v" || s.Stdin || !s.Hangup {
		t.Errorf("got %+v, %v", s, err)
	}
	if _, ok := s.Env["ANTHROPIC_API_KEY"]; ok {
		t.Error("the agent's key was given to any command")
	}
	s, _, err = a.execSpec(&execOptions{Args: []string{"true"}, Interactive: true, Dir: "/tmp", User: "root"}, b)
	if err != nil || s.Dir != "/tmp" || !s.Stdin || s.User != "root" {
		t.Errorf("got %+v, %v", s, err)
	}
	s, _, err = a.execSpec(&execOptions{Args: []string{"true"}, Interactive: true, TTY: true, Detach: true}, b)
	if err != nil || s.Stdin || !s.TTY || s.Hangup {
		t.Errorf("got %+v, %v", s, err)
	}
}

func TestPlaces(t *testing.T) {
	for arg, want := range map[string]place{
		"box:/etc": {"box", "/etc"}, "box:": {"box", ""}, "box:a:b": {"box", "a:b"}, "/x:y": {"", "/x:y"},
		"./box:a": {"", "./box:a"}, "file": {"", "file"}, "-": {"", "-"}, "Not_A_Name:x": {"", "Not_A_Name:x"}, "~/x": {"", "~/x"},
	} {
		if got := parsePlace(arg); got != want {
			t.Errorf("%s: got %+v", arg, got)
		}
	}
	for p, want := range map[string]string{
		"/": "/", "/etc": "/etc", "/etc/": "/etc/", "/etc/.": "/etc/.", "x": "/home/agent/x", ".": "/home/agent/.", "~": "/home/agent",
		"~/x/": "/home/agent/x/", "../..": "/", "a/../../b": "/home/b", "/..": "/",
	} {
		if got := guestPath(p); got != want {
			t.Errorf("%s: got %s, want %s", p, got, want)
		}
	}
	a, dir := at(t)
	c := copying{app: a}
	for p, want := range map[string]string{
		"x": dir + "/x", "x/": dir + "/x/", "x/.": dir + "/x/.", ".": dir + "/.", "..": filepath.Dir(dir) + "/.", "/": "/", "~/y": filepath.Dir(dir) + "/y",
	} {
		if got := c.host(p); got != want {
			t.Errorf("%s: got %s, want %s", p, got, want)
		}
	}
}

func TestPlain(t *testing.T) {
	if got := plain("a\x1b]0;x\x07\tb\nc\u202ed\x9b\u009be é"); got != "a?]0;x?\tb\nc?d??e é" {
		t.Errorf("got %q", got)
	}
}

func TestNumbersForPeople(t *testing.T) {
	for n, want := range map[int64]string{-1: "0 B", 999: "999 B", 1000: "1.0 kB", 9_960: "10 kB", 999_600: "1.0 MB", 12_300_000: "12 MB", 5e12: "5.0 TB", 7e15: "7000 TB"} {
		if got := size(n); got != want {
			t.Errorf("%d: got %s, want %s", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{400 * time.Millisecond: "0.4 s", 12 * time.Second: "12 s", 125 * time.Second: "2 min 5 s"} {
		if got := duration(d); got != want {
			t.Errorf("%v: got %s", d, got)
		}
	}
	now := time.Unix(1e9, 0)
	for d, want := range map[time.Duration]string{
		time.Second: "just now", time.Minute: "1 minute ago", 3 * time.Hour: "3 hours ago", 48 * time.Hour: "2 days ago", 24 * 90 * time.Hour: "3 months ago",
	} {
		if got := ago(now.Add(-d), now); got != want {
			t.Errorf("%v: got %s", d, got)
		}
	}
}

func TestProgressWithoutATerminal(t *testing.T) {
	var out bytes.Buffer
	a := newApp(Stdio{Err: &out}, Env{})
	d := a.progress(false)
	p := d.template()
	p(template.Event{Step: "packages"})
	p(template.Event{Step: "packages", Done: 10, Total: 2000})
	p(template.Event{Step: "packages", Finished: true, Elapsed: 12 * time.Second})
	p(template.Event{Step: "configure", Line: "Setting up"})
	d.end()
	want := "packages\npackages: done (2.0 kB, 12 s)\nconfigure\n"
	if out.String() != want {
		t.Errorf("got %q", out.String())
	}
	if d := a.progress(true); d.template() != nil {
		t.Error("-q shows progress")
	}
	a.progress(true).end()
}

// On a terminal the bars end with the build, whatever became of it, and what is
// written afterwards comes below them.
func TestProgressOnATerminal(t *testing.T) {
	a, user := onTerminal(t)
	shown := make(chan string, 1)
	go func() {
		var all []byte
		buf := make([]byte, 4096)
		for !bytes.Contains(all, []byte("AFTER")) {
			n, err := user.Read(buf)
			all = append(all, buf[:n]...)
			if err != nil {
				break
			}
		}
		shown <- string(all)
	}()
	d := a.progress(false)
	p := d.template()
	// Long enough that bars are drawn while they change.
	for begun := time.Now(); time.Since(begun) < 600*time.Millisecond; {
		p(template.Event{Step: "packages", Done: 1000, Total: 2000})
	}
	p(template.Event{Step: "packages", Finished: true, Elapsed: 12 * time.Second})
	p(template.Event{Step: "configure", Line: "Setting up"})
	d.end()
	if _, err := io.WriteString(a.Err, "AFTER\n"); err != nil {
		t.Fatal(err)
	}
	got := <-shown
	for _, want := range []string{"packages", "done (2.0 kB, 12 s)", "configure"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in %q", want, got)
		}
	}
}
