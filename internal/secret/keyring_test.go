package secret

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"berth.dev/internal/sandbox"
)

func TestKeyring(t *testing.T) {
	for name, noDH := range map[string]bool{"encrypted": false, "plain": true} {
		t.Run(name, func(t *testing.T) {
			d := newDesktop(t)
			d.set(func(d *desktop) { d.noDH = noDH })
			dir := t.TempDir()
			s, n := open(t, dir, patience, onDesktop(d))
			set(t, s, Entry{Name: "K"}, "before")
			set(t, s, Entry{Name: "K"}, bytesOfIt)
			set(t, s, Entry{Name: "K", Sandbox: "box"}, "own")
			if err := s.Put(t.Context(), LoginPrefix+"p", NewValue("login")); err != nil {
				t.Fatal(err)
			}
			got, want := d.texts(), map[string]string{
				"Berth: K": bytesOfIt, "Berth: K of sandbox box": "own", "Berth: login/p": "login",
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("the keyring has %v", got)
			}
			all, err := s.List(t.Context())
			if err != nil || len(all) != 2 || all[0].Backend != BackendKeyring {
				t.Error(all, err)
			}
			for name, text := range files(t, dir) {
				shows(t, name, text)
				if strings.HasSuffix(name, fileSuffix) || name == "key.txt" {
					t.Errorf("there is %s", name)
				}
			}
			fresh, _ := open(t, dir, patience, onDesktop(d))
			if got := token(t, fresh, "K", ""); got != bytesOfIt {
				t.Error(got)
			}
			if v, err := fresh.Get(t.Context(), LoginPrefix+"p"); err != nil || v.Reveal() != "login" {
				t.Error(v.Reveal(), err)
			}
			for _, w := range d.said(func(d *desktop) []string { return d.wire }) {
				if strings.Contains(w, bytesOfIt) != noDH && len(w) >= len(bytesOfIt) && !strings.Contains("before own login", w) {
					t.Errorf("on the bus: %q", w)
				}
			}
			if err := errors.Join(s.Remove(t.Context(), "K", ""), s.Remove(t.Context(), "K", "box"), s.Delete(t.Context(), LoginPrefix+"p")); err != nil {
				t.Error(err)
			}
			if got := d.texts(); len(got) != 0 {
				t.Errorf("left in the keyring: %v", got)
			}
			if said := n.take(); said != "" {
				t.Errorf("said %q", said)
			}
		})
	}
}

// TestTwoStoresInOneKeyring: each deletes only what is its own.
func TestTwoStoresInOneKeyring(t *testing.T) {
	d := newDesktop(t)
	a, _ := open(t, t.TempDir(), patience, onDesktop(d))
	b, _ := open(t, t.TempDir(), patience, onDesktop(d))
	set(t, a, Entry{Name: "K"}, "a")
	set(t, b, Entry{Name: "K"}, "b")
	if err := a.Remove(t.Context(), "K", ""); err != nil {
		t.Fatal(err)
	}
	fresh, _ := open(t, b.dir, patience, onDesktop(d))
	if got := token(t, fresh, "K", ""); got != "b" {
		t.Error(got)
	}
}

// TestNoKeyring: where there is none, nothing is said, and nothing waits.
func TestNoKeyring(t *testing.T) {
	gone := filepath.Join(shortDir(t), "bus")
	for name, c := range map[string]struct {
		env    []string
		change func(*desktop)
	}{
		"no bus":                {},
		"a bus that is gone":    {env: []string{"DBUS_SESSION_BUS_ADDRESS", "unix:path=" + gone}},
		"a bus of the network":  {env: []string{"DBUS_SESSION_BUS_ADDRESS", "tcp:host=127.0.0.1,port=1"}},
		"autolaunch":            {env: []string{"DBUS_SESSION_BUS_ADDRESS", "autolaunch:"}},
		"no service":            {change: func(d *desktop) { d.absent = true }},
		"no default collection": {change: func(d *desktop) { d.noAlias = true }},
	} {
		opts := []Option{patience, WithEnv(vars(c.env...))}
		if c.change != nil {
			d := newDesktop(t)
			d.set(c.change)
			opts[1] = onDesktop(d)
		}
		s, n := open(t, t.TempDir(), opts...)
		start := time.Now()
		set(t, s, Entry{Name: "K"}, "v")
		if all, err := s.List(t.Context()); err != nil || all[0].Backend != BackendFile {
			t.Errorf("%s: %v %v", name, all, err)
		}
		if said := n.take(); said != "" || time.Since(start) > 5*time.Second {
			t.Errorf("%s: %s, said %q", name, time.Since(start), said)
		}
	}
	d := newDesktop(t)
	s, _ := open(t, t.TempDir(), onDesktop(d), WithoutKeyring())
	set(t, s, Entry{Name: "K"}, "v")
	if calls := d.said(func(d *desktop) []string { return d.calls }); len(calls) > 0 {
		t.Error(calls)
	}
}

// TestUnusableKeyring: what hangs, is locked or refuses makes a file of the
// secret, soon, and the user is told why and where.
func TestUnusableKeyring(t *testing.T) {
	hang := func(methods ...string) func(*desktop) {
		return func(d *desktop) {
			for _, m := range methods {
				d.hang[m] = true
			}
		}
	}
	for name, c := range map[string]struct {
		change func(*desktop)
		why    string
	}{
		"the bus hangs":       {hang("auth"), "does not answer"},
		"no Hello":            {hang("Hello"), "does not answer"},
		"no session":          {hang("OpenSession"), "does not answer"},
		"no alias":            {hang("ReadAlias"), "does not answer"},
		"no property":         {hang("Get"), "does not answer"},
		"hangs when it keeps": {hang("CreateItem"), "does not answer"},
		"locked":              {func(d *desktop) { d.locked = true }, "it is locked"},
		"locked, and hangs":   {func(d *desktop) { d.locked = true; d.hang["Unlock"] = true }, "does not answer"},
		"refuses":             {func(d *desktop) { d.refuse["CreateItem"] = true }, "it says: refused by the test"},
		"refuses a session":   {func(d *desktop) { d.refuse["OpenSession"] = true }, "it says: refused by the test"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDesktop(t)
			d.set(c.change)
			slow := patience
			if c.why == "does not answer" {
				slow = quickly
			}
			s, n := open(t, t.TempDir(), slow, onDesktop(d))
			start := time.Now()
			set(t, s, Entry{Name: "K"}, bytesOfIt)
			if took := time.Since(start); took > 4*time.Second {
				t.Errorf("took %s", took)
			}
			said := n.take()
			if !strings.Contains(said, "the desktop's keyring is not used: ") || !strings.Contains(said, c.why) || !strings.Contains(said, s.dir) {
				t.Errorf("said %q", said)
			}
			shows(t, "the note", said)
			if got := token(t, s, "K", ""); got != bytesOfIt {
				t.Error(got)
			}
			if all, _ := s.List(t.Context()); all[0].Backend != BackendFile {
				t.Error(all)
			}
		})
	}
}

// TestUnansweredOnce: a keyring that hangs costs its time once, not at each use.
func TestUnansweredOnce(t *testing.T) {
	d := newDesktop(t)
	d.set(func(d *desktop) { d.hang["OpenSession"] = true })
	s, _ := open(t, t.TempDir(), onDesktop(d), func(o *options) { o.callTime = time.Second })
	start := time.Now()
	for i := range 8 {
		set(t, s, Entry{Name: fmt.Sprint("K", i)}, "v")
	}
	if took := time.Since(start); took > 7*time.Second {
		t.Errorf("eight secrets took %s", took)
	}
}

// TestHungWithinTheBound: with the times as users have them.
func TestHungWithinTheBound(t *testing.T) {
	t.Parallel()
	d := newDesktop(t)
	d.set(func(d *desktop) { d.hang["auth"] = true })
	s, n := open(t, t.TempDir(), onDesktop(d))
	start := time.Now()
	set(t, s, Entry{Name: "K"}, "v")
	if took := time.Since(start); took < callTime || took > callTime+4*time.Second {
		t.Errorf("took %s", took)
	}
	if !strings.Contains(n.take(), "does not answer") {
		t.Error("nothing was said")
	}
}

func TestPrompt(t *testing.T) {
	d := newDesktop(t)
	d.set(func(d *desktop) { d.locked, d.password = true, true })
	dir := t.TempDir()
	// Not in the background, and not without a display.
	for _, opts := range [][]Option{{onDesktop(d, "DISPLAY", ":0")}, {onDesktop(d), WithPrompt()}} {
		s, n := open(t, dir, append(opts, patience)...)
		set(t, s, Entry{Name: "F"}, "v")
		if d.prompts() != 0 || !strings.Contains(n.take(), "it is locked") {
			t.Fatal(d.prompts())
		}
	}
	s, n := open(t, dir, onDesktop(d, "WAYLAND_DISPLAY", "wayland-0"), WithPrompt(), patience)
	set(t, s, Entry{Name: "K"}, "v")
	if said := n.take(); d.prompts() != 1 || said != "the desktop asks for the password of its keyring" {
		t.Errorf("asked %d times, said %q", d.prompts(), said)
	}
	if d.texts()["Berth: K"] != "v" {
		t.Error(d.texts())
	}
	// Locked again, and the user does not want to.
	d.set(func(d *desktop) { d.locked, d.password = true, false })
	set(t, s, Entry{Name: "L"}, "w")
	if said := n.take(); d.prompts() != 2 || !strings.Contains(said, "password was not given; L goes into an encrypted file") {
		t.Errorf("asked %d times, said %q", d.prompts(), said)
	}
	// A secret of the file's is removed without a question.
	if err := s.Remove(t.Context(), "L", ""); err != nil || d.prompts() != 2 {
		t.Errorf("asked %d times: %v", d.prompts(), err)
	}
	// What is in the keyring goes from the list, and from the keyring later.
	if err := s.Remove(t.Context(), "K", ""); err != nil || !strings.Contains(n.take(), "an old secret stays in the desktop's keyring") {
		t.Error(err)
	}
	if _, _, err := s.Source("K", ""); !errors.Is(err, sandbox.ErrNotFound) {
		t.Error(err)
	}
	if d.prompts() != 2 {
		t.Error("asked again in the same command")
	}
	d.set(func(d *desktop) { d.password = true })
	s, _ = open(t, dir, onDesktop(d, "WAYLAND_DISPLAY", "wayland-0"), WithPrompt(), patience)
	set(t, s, Entry{Name: "M"}, "x")
	if got := d.texts(); len(got) != 1 || got["Berth: M"] != "x" {
		t.Error(got)
	}
}

// TestLockedLater: reading from a keyring that cannot be used any more is an
// error that says so; what was read before stays usable.
func TestLockedLater(t *testing.T) {
	d := newDesktop(t)
	dir := t.TempDir()
	s, _ := open(t, dir, onDesktop(d), patience)
	set(t, s, Entry{Name: "K"}, "v")
	set(t, s, Entry{Name: "L"}, "w")
	src, _, _ := s.Source("K", "")
	if tokenOf(t, src) != "v" {
		t.Fatal()
	}
	for name, c := range map[string]struct {
		change func(*desktop)
		why    string
	}{
		"locked": {func(d *desktop) { d.locked = true }, "it is locked"},
		"hangs":  {func(d *desktop) { d.locked = false; d.hang["SearchItems"] = true }, "it does not answer"},
		"absent": {func(d *desktop) { d.hang["SearchItems"] = false; d.absent = true }, "there is no keyring"},
	} {
		d.set(func(d *desktop) { d.locked, d.absent, d.hang = false, false, map[string]bool{} })
		d.set(c.change)
		slow := patience
		if name == "hangs" {
			slow = quickly
		}
		fresh, _ := open(t, dir, onDesktop(d), slow)
		other, _, err := fresh.Source("L", "")
		if err != nil {
			t.Fatal(err)
		}
		_, err = other.Token(t.Context())
		if !errors.Is(err, sandbox.ErrUnavailable) || !strings.Contains(fmt.Sprint(err), c.why) || sandbox.HintOf(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
		if got := tokenOf(t, src); got != "v" {
			t.Errorf("%s: %s", name, got)
		}
	}
	// Deleted with the desktop's own tool.
	d.set(func(d *desktop) {
		d.locked, d.absent, d.hang = false, false, map[string]bool{}
		clear(d.items)
	})
	fresh, _ := open(t, dir, onDesktop(d), patience)
	other, _, _ := fresh.Source("L", "")
	if _, err := other.Token(t.Context()); !errors.Is(err, sandbox.ErrPrecondition) || !strings.Contains(fmt.Sprint(err), "another program deleted it") {
		t.Error(err)
	}
}

// TestCutConnection: a bus that ends at any byte of an answer ends the call, not
// the process.
func TestCutConnection(t *testing.T) {
	d := newDesktop(t)
	path, _ := strings.CutPrefix(d.address, "unix:path=")
	for cut := 1; cut < 400; cut += 7 {
		through := relayUntil(t, path, cut)
		s, n := open(t, t.TempDir(), patience, WithEnv(vars("DBUS_SESSION_BUS_ADDRESS", through)))
		set(t, s, Entry{Name: "K"}, "v")
		if said := n.take(); !strings.Contains(said, "is not used") {
			t.Errorf("cut after %d bytes: said %q", cut, said)
		}
	}
}

// relayUntil passes on a bus until it has said a number of bytes.
func relayUntil(t *testing.T, to string, most int) (address string) {
	path := filepath.Join(shortDir(t), "bus")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		defer l.Close()
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		up, err := net.Dial("unix", to)
		if err != nil {
			return
		}
		defer up.Close()
		go func() { _, _ = copyN(up, c, 1<<30) }()
		_, _ = copyN(c, up, most)
	}()
	return "unix:path=" + path
}

func copyN(to, from net.Conn, most int) (int, error) {
	buf, n := make([]byte, 4096), 0
	for n < most {
		r, err := from.Read(buf[:min(len(buf), most-n)])
		if err != nil {
			return n, err
		}
		if _, err := to.Write(buf[:r]); err != nil {
			return n, err
		}
		n += r
	}
	return n, nil
}

func TestBusAddress(t *testing.T) {
	run := shortDir(t)
	if got := busAddress(vars("XDG_RUNTIME_DIR", run)); got != "" {
		t.Error(got)
	}
	if err := os.WriteFile(filepath.Join(run, "bus"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := busAddress(vars("XDG_RUNTIME_DIR", run)); got != "" {
		t.Errorf("a file as a socket: %s", got)
	}
	os.Remove(filepath.Join(run, "bus"))
	l, err := net.Listen("unix", filepath.Join(run, "bus"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if got := unixName(busAddress(vars("XDG_RUNTIME_DIR", run))); got != filepath.Join(run, "bus") {
		t.Error(got)
	}
	for address, want := range map[string]string{
		"unix:path=/run/user/1000/bus":            "/run/user/1000/bus",
		"unix:guid=00,path=/a%20b":                "/a b",
		"unix:abstract=/tmp/dbus-x,guid=0":        "@/tmp/dbus-x",
		"unix:path=/%zz":                          "",
		"tcp:host=localhost,port=1":               "",
		"unix:":                                   "",
		"unixexec:path=/bin/sh":                   "",
		"unix:runtime=yes":                        "",
		"nonce-tcp:noncefile=/x,host=x,port=1":    "",
		"unix:path":                               "",
		"unix:tmpdir=/tmp,path=/tmp/a%3bb%2cc%3d": "/tmp/a;b,c=",
	} {
		if got := unixName(address); got != want {
			t.Errorf("%s: %q", address, got)
		}
	}
	// The first that answers counts.
	d := newDesktop(t)
	b, err := dialBus(context.Background(), "tcp:host=x;unix:path="+run+"/none;"+d.address, 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	b.close()
}

func TestDH(t *testing.T) {
	a, _ := newDH()
	b, _ := newDH()
	ca, err := a.agree(b.public())
	if err != nil {
		t.Fatal(err)
	}
	cb, err := b.agree(a.public())
	if err != nil {
		t.Fatal(err)
	}
	for n := range 40 {
		text := strings.Repeat("x", n)
		iv, sealed, err := ca.seal([]byte(text))
		if err != nil || n > 2 && strings.Contains(string(sealed), text) {
			t.Fatal(err)
		}
		if got, err := cb.open(iv, sealed); err != nil || string(got) != text {
			t.Fatalf("%q %v", got, err)
		}
		for _, bad := range [][2][]byte{{iv[1:], sealed}, {iv, sealed[1:]}, {iv, nil}} {
			if _, err := cb.open(bad[0], bad[1]); err == nil {
				t.Error("opened")
			}
		}
	}
	for _, weak := range [][]byte{nil, {0}, {1}, dhPrime.Bytes(), append([]byte{1}, dhPrime.Bytes()...)} {
		if _, err := a.agree(weak); err == nil {
			t.Errorf("agreed with %x", weak)
		}
	}
}
