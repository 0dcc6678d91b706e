package cli

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"berth.dev/internal/engine"
	"berth.dev/internal/secret"
)

// echoes reports whether a terminal shows what is typed.
func echoes(t *testing.T, tty *os.File) bool {
	t.Helper()
	mode, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return mode.Lflag&unix.ECHO != 0
}

// setOnTerminal runs `berth secret set` on a terminal, and calls typing when it
// is asked for the value.
func setOnTerminal(t *testing.T, home string, typing func(user *os.File)) (status int, shown string) {
	t.Helper()
	user, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer user.Close()
	seen := make(chan string, 1)
	go func() {
		var all bytes.Buffer
		buf := make([]byte, 4096)
		asked := false
		for {
			n, err := user.Read(buf)
			all.Write(buf[:n])
			if !asked && strings.Contains(all.String(), "not shown): ") {
				asked = true
				if echoes(t, tty) {
					t.Error("asked on a terminal that shows what is typed")
				}
				typing(user)
			}
			if err != nil {
				seen <- all.String()
				return
			}
		}
	}()
	var out bytes.Buffer
	status = Main([]string{"secret", "set", "OPENAI_API_KEY"}, Stdio{In: tty, Out: &out, Err: tty}, Env{
		Vars: []string{"BERTH_HOME=" + home, "HOME=" + home}, Dir: home, Engines: engine.NewRegistry(absent{}),
	})
	if !echoes(t, tty) {
		t.Error("the terminal stays silent")
	}
	tty.Close()
	return status, <-seen + out.String()
}

// TestSecretPrompt: what is typed is kept and not shown; an interrupt keeps
// nothing, and leaves the terminal as it was.
func TestSecretPrompt(t *testing.T) {
	const value = "sk-typed-by-hand"
	home := t.TempDir()
	open := func() *secret.Store {
		s, err := secret.Open(filepath.Join(home, "data", "secrets"), secret.WithEnv(func(string) string { return "" }))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for what, typing := range map[string]func(*os.File){
		"interrupt": func(*os.File) { _ = syscall.Kill(os.Getpid(), syscall.SIGINT) },
		"nothing":   func(user *os.File) { _, _ = user.WriteString("\n") },
		"end":       func(user *os.File) { _, _ = user.WriteString("\x04") },
		"too long":  func(user *os.File) { _, _ = user.WriteString(strings.Repeat("x", 5000) + "\n") },
	} {
		status, shown := setOnTerminal(t, home, typing)
		if status == 0 || strings.Contains(shown, "xxx") {
			t.Errorf("%s: status %d, shown %q", what, status, shown)
		}
		if all, err := open().List(context.Background()); err != nil || len(all) != 0 {
			t.Errorf("%s: kept %v, %v", what, all, err)
		}
	}
	status, shown := setOnTerminal(t, home, func(user *os.File) { _, _ = user.WriteString(value + "\n") })
	if status != 0 || strings.Contains(shown, value) || !strings.Contains(shown, "OPENAI_API_KEY is kept") {
		t.Errorf("status %d, shown %q", status, shown)
	}
	src, _, err := open().Source("OPENAI_API_KEY", "")
	if err != nil {
		t.Fatal(err)
	}
	if tok, err := src.Token(t.Context()); err != nil || !tok.Value.Equal(secret.NewValue(value)) {
		t.Error(err)
	}
}

// TestKeyringSwitch: a keyring that does not work is tried and said; one that the
// settings rule out is not even connected to.
func TestKeyringSwitch(t *testing.T) {
	home := t.TempDir()
	bus, err := net.Listen("unix", filepath.Join(home, "bus"))
	if err != nil {
		t.Fatal(err)
	}
	defer bus.Close()
	var calls atomic.Int32
	go func() {
		for {
			conn, err := bus.Accept()
			if err != nil {
				return
			}
			calls.Add(1)
			conn.Close()
		}
	}()
	set := func() string {
		var out bytes.Buffer
		status := Main([]string{"secret", "set", "OPENAI_API_KEY"}, Stdio{In: strings.NewReader("value"), Out: &out, Err: &out}, Env{
			Vars: []string{"BERTH_HOME=" + home, "HOME=" + home, "DBUS_SESSION_BUS_ADDRESS=unix:path=" + bus.Addr().String()},
			Dir:  home, Engines: engine.NewRegistry(absent{}),
		})
		if status != 0 {
			t.Fatalf("status %d: %s", status, &out)
		}
		return out.String()
	}
	if said := set(); !strings.Contains(said, "the desktop's keyring is not used") || calls.Load() == 0 {
		t.Errorf("%d calls, and it says %s", calls.Load(), said)
	}
	config := filepath.Join(home, "config")
	if err := os.MkdirAll(config, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(config, "config.toml"), []byte("[secrets]\nkeyring = false\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := calls.Load()
	if said := set(); !strings.Contains(said, "is kept in an encrypted file") || strings.Contains(said, "keyring") || calls.Load() != before {
		t.Errorf("%d more calls, and it says %s", calls.Load()-before, said)
	}
}
