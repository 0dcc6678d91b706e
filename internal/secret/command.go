package secret

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode"

	"berth.dev/internal/sandbox"
)

// Bounds of a command.
const (
	commandTime = 30 * time.Second
	maxOutput   = 64 << 10 // of standard output, in bytes
	keptStderr  = 4 << 10  // of standard error, in bytes
	shownStderr = 500      // of that in an error
)

// commandVars are the variables that a command is given: what password managers
// and cloud tools need to find their settings, the desktop and the network. No
// secret is among them, whatever the shell of the user holds.
var commandVars = []string{
	"HOME", "PATH", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR",
	"XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR", "XDG_CURRENT_DESKTOP", "XDG_SESSION_TYPE",
	"DBUS_SESSION_BUS_ADDRESS", "DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "SSH_AUTH_SOCK", "GNUPGHOME", "PASSWORD_STORE_DIR",
	"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR",
	"AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CA_BUNDLE",
	"CLOUDSDK_CONFIG", "CLOUDSDK_ACTIVE_CONFIG_NAME", "AZURE_CONFIG_DIR", "KUBECONFIG", "GH_CONFIG_DIR",
	"VAULT_ADDR", "VAULT_NAMESPACE", "VAULT_CACERT", "OP_ACCOUNT", "OP_CONFIG_DIR",
}

// CommandVar reports whether the commands of secrets are given a variable.
// Whoever runs a Store in a process with fewer variables lets it have these.
func CommandVar(name string) bool { return slices.Contains(commandVars, name) }

// commandError is a command that did not work. What it printed on standard
// error is for the one who waits, and is not kept.
type commandError struct {
	what   string // what happened
	stderr string
}

// Error implements error.
func (e *commandError) Error() string {
	if e.stderr == "" {
		return e.what
	}
	return e.what + ": " + e.stderr
}

// why is the part of an error that may be kept on disk.
func why(err error) string {
	var ce *commandError
	if errors.As(err, &ce) {
		return ce.what
	}
	return "it could not be run"
}

// run runs the command of an entry, and understands what it prints.
func (s *Store) run(ctx context.Context, e Entry) (output, error) {
	fail := func(stderr, format string, args ...any) error {
		ce := &commandError{what: fmt.Sprintf(format, args...), stderr: stderr}
		return sandbox.Errorf(sandbox.ErrUnavailable, "the command of secret %s %w", e.Label(), ce).
			WithHint("try it in a terminal; with another one: berth secret set %s --command '...'", e.Name)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, s.opt.runTime, errTooSlow)
	defer cancel()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	stdout := &bounded{limit: maxOutput, full: func() { stop(errTooLong) }}
	stderr := &tail{limit: keptStderr}
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", e.Command)
	cmd.Env = s.commandEnv()
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = stdout, stderr
	// In a session of its own it has no terminal to ask on, where nobody looks.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	said := stderr.text(string(stdout.buf))
	var exit *exec.ExitError
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errTooLong):
		return output{}, fail("", "printed more than %d bytes", maxOutput)
	case errors.Is(cause, errTooSlow):
		return output{}, fail(said, "took longer than %s", s.opt.runTime)
	case errors.As(err, &exit) && exit.Exited():
		return output{}, fail(said, "ended with status %d", exit.ExitCode())
	case errors.As(err, &exit):
		return output{}, fail(said, "was ended by a signal")
	case err != nil && !errors.Is(err, exec.ErrWaitDelay): // a daemon that it started may hold its streams
		return output{}, fail("", "could not be run: %v", err)
	}
	out, err := understand(stdout.buf, s.opt.now(), e.TTL)
	if err != nil {
		return output{}, fail(said, "%v", err)
	}
	return out, nil
}

var (
	errTooSlow = errors.New("too slow")
	errTooLong = errors.New("too long")
)

func (s *Store) commandEnv() []string {
	env := []string{}
	for _, name := range commandVars {
		if v := s.opt.getenv(name); v != "" {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// bounded holds the first bytes that are written, and calls full when there are
// more.
type bounded struct {
	buf   []byte // no bytes.Buffer within: its ReadFrom knows no bound
	limit int
	full  func()
}

func (b *bounded) Write(p []byte) (int, error) {
	n := len(p)
	if room := b.limit - len(b.buf); len(p) > room {
		b.full()
		p = p[:room]
	}
	b.buf = append(b.buf, p...)
	return n, nil
}

// tail holds the last bytes that are written.
type tail struct {
	buf   []byte
	limit int
}

func (t *tail) Write(p []byte) (int, error) {
	n := len(p)
	t.buf = append(t.buf, p[max(0, len(p)-t.limit):]...)
	t.buf = t.buf[max(0, len(t.buf)-t.limit):]
	return n, nil
}

// text is what was written, on one line and bounded. Of what the command also
// printed as its secret, nothing is in it: some tools say it twice.
func (t *tail) text(secret string) string {
	said := string(t.buf)
	hide := []string{strings.TrimSpace(secret)}
	hide = append(hide, strings.FieldsFunc(secret, func(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune(`"',:{}[]=`, r) })...)
	slices.SortFunc(hide, func(a, b string) int { return len(b) - len(a) })
	for _, h := range hide {
		if len(h) >= 6 {
			said = strings.ReplaceAll(said, h, redacted)
		}
	}
	return clip(said, shownStderr)
}

// clip puts text on one line, and keeps the end of one that is too long.
func clip(s string, most int) string {
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }), " ")
	s = strings.ToValidUTF8(s, "?")
	if len(s) > most {
		s = "..." + strings.ToValidUTF8(s[len(s)-most:], "")
	}
	return s
}
