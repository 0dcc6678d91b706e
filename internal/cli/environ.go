package cli

import (
	"bufio"
	"bytes"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	"berth.dev/internal/sandbox"
)

// maxEnvFile bounds an --env-file, in bytes.
const maxEnvFile = 4 << 20

// lookup reads a variable of the shell that called berth.
type lookup func(name string) (value string, ok bool)

// parseEnv reads what -e was given: K=V, or K for the value that K has in this
// shell. Those that have none are left out and returned as missing.
func parseEnv(entries []string, shell lookup) (env map[string]string, missing []string, err error) {
	env = map[string]string{}
	for _, entry := range entries {
		key, value, given := strings.Cut(entry, "=")
		if err := checkEnvName(key); err != nil {
			return nil, nil, err
		}
		if !given {
			var ok bool
			if value, ok = shell(key); !ok {
				missing = append(missing, key)
				continue
			}
		}
		if strings.ContainsRune(value, 0) {
			return nil, nil, sandbox.Errorf(sandbox.ErrInvalid, "the value of the variable %s holds a zero byte", key)
		}
		env[key] = value
	}
	return env, missing, nil
}

func checkEnvName(key string) error {
	if key == "" || strings.ContainsFunc(key, func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r) || r == '='
	}) {
		return sandbox.Errorf(sandbox.ErrInvalid, "%q cannot be the name of a variable", key).
			WithHint("write -e NAME=VALUE, or -e NAME to pass on this shell's value")
	}
	return nil
}

// parseEnvFile reads the format of Docker's --env-file into entries as -e takes
// them: one a line, NAME=VALUE with the value taken as it stands (no quotes, no
// expansion), or NAME alone; empty lines and those that begin with # are
// skipped, as is white space before a name. The name is for errors.
func parseEnvFile(name string, data []byte) ([]string, error) {
	bad := func(line int, what string) error {
		return sandbox.Errorf(sandbox.ErrInvalid, "env file %s, line %d: %s", name, line, what).
			WithHint("write one NAME=VALUE a line, without export and without quotes")
	}
	var entries []string
	lines := bufio.NewScanner(bytes.NewReader(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))))
	lines.Buffer(nil, maxEnvFile+1)
	for n := 1; lines.Scan(); n++ {
		if !utf8.Valid(lines.Bytes()) {
			return nil, bad(n, "it is not UTF-8")
		}
		line := strings.TrimLeftFunc(lines.Text(), unicode.IsSpace)
		if line == "" || line[0] == '#' {
			continue
		}
		key, _, _ := strings.Cut(line, "=")
		if checkEnvName(key) != nil {
			return nil, bad(n, "it does not begin with the name of a variable")
		}
		entries = append(entries, line)
	}
	return entries, lines.Err()
}

// readEnvFiles reads several; later ones win, as later lines do.
func readEnvFiles(names []string) ([]string, error) {
	var entries []string
	for _, name := range names {
		info, err := os.Stat(name)
		if err != nil {
			return nil, sandbox.Errorf(sandbox.ErrNotFound, "read env file: %w", err)
		}
		if info.Size() > maxEnvFile {
			return nil, sandbox.Errorf(sandbox.ErrInvalid, "env file %s is larger than %d bytes", name, maxEnvFile)
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, sandbox.Errorf(sandbox.ErrInvalid, "read env file: %w", err)
		}
		more, err := parseEnvFile(name, data)
		if err != nil {
			return nil, err
		}
		entries = append(entries, more...)
	}
	return entries, nil
}

// terminfo are the terminals that every template describes (Debian's
// ncurses-base). A program that asks for another finds nothing and gives up
// colours, or refuses to start, so the nearest known one is named instead.
var terminfo = map[string]bool{
	"ansi": true, "dumb": true, "linux": true, "rxvt": true, "rxvt-unicode": true, "rxvt-unicode-256color": true,
	"screen": true, "screen-256color": true, "screen.xterm-256color": true, "tmux": true, "tmux-256color": true,
	"vt100": true, "vt102": true, "vt220": true, "xterm": true, "xterm-256color": true, "xterm-color": true, "xterm-mono": true,
}

// sessionEnv are the variables of this shell that every session is given, so
// that a program in it looks as it does at home: about the terminal, the
// language and the time zone, and nothing else.
func sessionEnv(shell lookup, tty bool) map[string]string {
	env := map[string]string{}
	pass := func(names ...string) {
		for _, name := range names {
			if v, ok := shell(name); ok && v != "" {
				env[name] = v
			}
		}
	}
	pass("TZ", "NO_COLOR")
	locale(env, shell)
	if !tty {
		return env
	}
	pass("COLORTERM", "TERM_PROGRAM", "TERM_PROGRAM_VERSION")
	switch term, _ := shell("TERM"); {
	case term == "":
		env["TERM"] = "xterm"
	case terminfo[term]:
		env["TERM"] = term
	default:
		env["TERM"] = "xterm-256color"
	}
	return env
}

// locale passes on what the C library always has. The host's other locales do
// not exist in a template, and every perl and apt-get would complain about
// them; what remains of a UTF-8 one is that it is UTF-8.
func locale(env map[string]string, shell lookup) {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		v, _ := shell(name)
		switch upper := strings.ToUpper(v); {
		case v == "":
			continue
		case v == "C" || v == "POSIX":
			env[name] = v
		case strings.HasSuffix(upper, ".UTF-8") || strings.HasSuffix(upper, ".UTF8"):
			env["LANG"] = "C.UTF-8"
		default:
			continue
		}
		return
	}
}
