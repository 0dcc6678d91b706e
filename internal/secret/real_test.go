package secret

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

// realEnv makes the test binary the part of TestRealKeyring that runs on a bus
// of its own; it holds the folder of the store.
const realEnv = "BERTH_TEST_KEYRING"

// TestRealKeyring is the keyring with gnome-keyring on a session bus: what the
// other tests have of it is an imitation. `make test` installs both.
func TestRealKeyring(t *testing.T) {
	if testing.Short() {
		t.Skip("needs dbus-run-session and gnome-keyring-daemon")
	}
	home := shortDir(t)
	run := filepath.Join(home, "run")
	if err := os.Mkdir(run, 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	// A login keyring is made and unlocked with a password, as PAM does. The
	// daemon goes into the background; it ends with its bus.
	cmd := exec.CommandContext(ctx, "dbus-run-session", "--", "/bin/sh", "-c",
		`printf pw | gnome-keyring-daemon --unlock --components=secrets >&2 && exec "$0" -test.run '^TestOnRealKeyring$' -test.v`, os.Args[0])
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "XDG_RUNTIME_DIR=" + run, "XDG_DATA_HOME=" + home + "/data", realEnv + "=" + filepath.Join(home, "secrets")}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestOnRealKeyring") {
		t.Fatalf("%v\n%s", err, out)
	}
	// What is on disk now, keyring included.
	for name, text := range files(t, home) {
		shows(t, name, text)
	}
}

func TestOnRealKeyring(t *testing.T) {
	dir := os.Getenv(realEnv)
	if dir == "" {
		t.Skip("a part of TestRealKeyring")
	}
	ctx := t.Context()
	withEnv := WithEnv(os.Getenv)
	s, n := open(t, dir, withEnv, patience)
	set(t, s, Entry{Name: "K"}, "before")
	set(t, s, Entry{Name: "K"}, bytesOfIt)
	long := strings.Repeat("long ünïcode\n", 1000)
	set(t, s, Entry{Name: "L", Sandbox: "box"}, long)
	if said := n.take(); said != "" {
		t.Fatalf("said %q", said)
	}
	all, err := s.List(ctx)
	if err != nil || len(all) != 2 || all[0].Backend != BackendKeyring || all[1].Backend != BackendKeyring {
		t.Fatal(all, err)
	}
	fresh, _ := open(t, dir, withEnv, patience)
	if token(t, fresh, "K", "") != bytesOfIt || token(t, fresh, "L", "box") != long {
		t.Error("it comes back changed")
	}

	// As another program sees it, without our encryption on the way.
	b, err := dialBus(ctx, os.Getenv("DBUS_SESSION_BUS_ADDRESS"), 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	var answer dbus.Variant
	var session dbus.ObjectPath
	var items, locked []dbus.ObjectPath
	if err := b.call(ctx, ssName, ssPath, ssService+".OpenSession", "plain", dbus.MakeVariant("")).Store(&answer, &session); err != nil {
		t.Fatal(err)
	}
	if err := b.call(ctx, ssName, ssPath, ssService+".SearchItems", map[string]string{"application": "berth"}).Store(&items, &locked); err != nil || len(items) != 2 {
		t.Fatal(items, err)
	}
	labels := map[string]string{}
	for _, item := range items {
		var label dbus.Variant
		var sec ssSecret
		if err := errors.Join(b.call(ctx, ssName, item, properties+".Get", ssItem, "Label").Store(&label),
			b.call(ctx, ssName, item, ssItem+".GetSecret", session).Store(&sec)); err != nil {
			t.Fatal(err)
		}
		labels[fmt.Sprint(label.Value())] = string(sec.Value)
	}
	if labels["Berth: K"] != bytesOfIt || labels["Berth: L of sandbox box"] != long {
		t.Errorf("%q", labels)
	}

	// Locked: a word, soon, and a file; with nobody to show the prompt too.
	var collection, prompt dbus.ObjectPath
	var done []dbus.ObjectPath
	if err := errors.Join(b.call(ctx, ssName, ssPath, ssService+".ReadAlias", "default").Store(&collection),
		b.call(ctx, ssName, ssPath, ssService+".Lock", []dbus.ObjectPath{collection}).Store(&done, &prompt)); err != nil || len(done) != 1 {
		t.Fatal(done, err)
	}
	for what, opts := range map[string][]Option{
		"background": {withEnv},
		"prompt":     {WithPrompt(), WithEnv(func(name string) string { return map[string]string{"DISPLAY": ":99"}[name] + os.Getenv(name) })},
	} {
		opts = append(opts, patience)
		s, n := open(t, dir, opts...)
		start := time.Now()
		set(t, s, Entry{Name: "F"}, "in a file")
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("%s: took %s", what, took)
		}
		if said := n.take(); !strings.Contains(said, "it is locked") {
			t.Errorf("%s: said %q", what, said)
		}
		fresh, _ := open(t, dir, withEnv, patience)
		src, _, _ := fresh.Source("K", "")
		if _, err := src.Token(ctx); err == nil || !strings.Contains(err.Error(), "it is locked") {
			t.Errorf("%s: %v", what, err)
		}
		if got := token(t, fresh, "F", ""); got != "in a file" {
			t.Errorf("%s: %s", what, got)
		}
	}
}
