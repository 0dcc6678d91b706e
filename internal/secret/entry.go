package secret

import (
	"strings"
	"time"
	"unicode/utf8"

	"berth.dev/internal/sandbox"
)

// Bounds, in bytes. What is beyond is no credential.
const (
	maxName    = 128
	maxValue   = 64 << 10
	maxCommand = 8 << 10
	maxService = 64 << 10
)

// maxTTL keeps a duration in the index from being nonsense.
const maxTTL = 366 * 24 * time.Hour

// Backends that a value is kept in.
const (
	BackendKeyring = "keyring" // the desktop's, by the Secret Service
	BackendFile    = "file"    // encrypted, beside the index
)

// Entry is what is known of a stored secret: never its bytes.
type Entry struct {
	// Name is a variable's, such as ANTHROPIC_API_KEY, or one that the user made
	// up: letters, digits, "_", "." and "-".
	Name string
	// Sandbox is the name of the one that it is for, "" for all.
	Sandbox string
	// Command makes the secret when it is used: sh -c runs it on the host. ""
	// when a value is kept.
	Command string
	// TTL is how long what a command printed holds when that does not say so
	// itself; 0 for a default.
	TTL time.Duration
	// Service is the text of the user's own service; "" for one that is known by
	// the name. What it means is not this package's business.
	Service string
	// Set is when it was set.
	Set time.Time
	// Backend says where the value is kept; "" for a command.
	Backend string
}

// Label names the entry for people.
func (e Entry) Label() string {
	if e.Sandbox == "" {
		return e.Name
	}
	return e.Name + " of sandbox " + e.Sandbox
}

// CheckName says whether a secret can have this name. What was given is not
// repeated: users write the value where a name belongs.
func CheckName(name string) error {
	ok := name != "" && len(name) <= maxName
	for i := range len(name) {
		c := name[i]
		ok = ok && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '.' || c == '-')
	}
	if !ok || name[0] == '-' || name[0] == '.' {
		return sandbox.Errorf(sandbox.ErrInvalid, "that cannot be the name of a secret").
			WithHint("use at most %d letters, digits, \"_\", \".\" and \"-\", such as OPENAI_API_KEY", maxName)
	}
	return nil
}

func (e Entry) check(v Value) error {
	if err := CheckName(e.Name); err != nil {
		return err
	}
	if e.Sandbox != "" {
		if err := sandbox.CheckName(e.Sandbox); err != nil {
			return err
		}
	}
	bad := func(format string, args ...any) error {
		return sandbox.Errorf(sandbox.ErrInvalid, "secret %s "+format, append([]any{e.Name}, args...)...)
	}
	switch text := v.Reveal(); {
	case e.Command == "" && text == "":
		return bad("has no value")
	case e.Command != "" && text != "":
		return bad("has both a value and a command")
	case len(text) > maxValue:
		return bad("is longer than %d bytes", maxValue)
	case strings.ContainsRune(text, 0):
		return bad("holds a zero byte")
	case len(e.Command) > maxCommand:
		return bad("has a command of more than %d bytes", maxCommand)
	case strings.ContainsRune(e.Command, 0) || !utf8.ValidString(e.Command):
		return bad("has a command that is no text")
	case e.TTL < 0 || e.TTL > maxTTL:
		return bad("cannot hold for %s", e.TTL)
	case e.TTL != 0 && e.Command == "":
		return bad("has no command whose output could expire")
	case len(e.Service) > maxService || !utf8.ValidString(e.Service):
		return bad("has a service that is no text, or more than %d bytes", maxService)
	}
	return nil
}
