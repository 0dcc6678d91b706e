package workspace

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"
)

// maxPublicKey bounds a public key's file, in bytes.
const maxPublicKey = 64 << 10

// Signing is how the user's commits are signed by an SSH key.
type Signing struct {
	Key           string // public, "ssh-ed25519 AAAA..."; "" when nothing is signed so
	Commits, Tags bool   // without being asked each time
}

// GitSigning asks the host's git whether the user signs with an SSH key in dir,
// and finds out which. An error means that they do and the public key cannot be
// found. A private key is never opened: where its file is named, the one beside
// it that ends in .pub is read.
//
// What the repository itself says does not count. The guest can write that, and
// has it anyway; and it must not choose which of the host's files is looked at.
func GitSigning(ctx context.Context, dir, home string, env []string) (Signing, error) {
	git, err := exec.LookPath("git")
	if err != nil {
		return Signing{}, nil // nobody commits on this host
	}
	const settings = `^(user\.signingkey|gpg\.format|commit\.gpgsign|tag\.gpgsign)$`
	args := []string{"--null", "--show-scope", "--get-regexp", settings}
	out, err := gitConfig(ctx, git, dir, env, args...)
	if err != nil {
		if out, err = gitConfig(ctx, git, "/", env, args...); err != nil {
			return Signing{}, fmt.Errorf("ask git how commits are signed: %w", err)
		}
	}
	values := userSettings(out)
	key := values["user.signingkey"]
	if values["gpg.format"] != "ssh" || key == "" {
		return Signing{}, nil
	}
	s := Signing{Commits: isTrue(values["commit.gpgsign"]), Tags: isTrue(values["tag.gpgsign"])}
	if s.Key, err = publicKey(key, home); err != nil {
		return Signing{}, fmt.Errorf("find the public key of user.signingkey: %w", err)
	}
	return s, nil
}

// userSettings reads "scope NUL key LF value NUL" and keeps the last value of
// each key that no repository has set. A key without a value is true.
func userSettings(out string) map[string]string {
	values := map[string]string{}
	fields := strings.Split(out, "\x00")
	for i := 0; i+1 < len(fields); i += 2 {
		if scope := fields[i]; scope == "local" || scope == "worktree" {
			continue
		}
		key, value, given := strings.Cut(fields[i+1], "\n")
		if !given {
			value = "true"
		}
		values[key] = value
	}
	return values
}

func isTrue(v string) bool {
	switch strings.ToLower(v) {
	case "true", "yes", "on", "1":
		return true
	}
	return false
}

// publicKey is the key that user.signingkey means: itself, or a file's.
func publicKey(value, home string) (string, error) {
	text, literal := strings.CutPrefix(value, "key::")
	if !literal && !strings.HasPrefix(value, "ssh-") {
		path := value
		if rest, ok := strings.CutPrefix(path, "~/"); ok {
			path = filepath.Join(home, rest)
		}
		if !filepath.IsAbs(path) {
			return "", fmt.Errorf("%s is neither a key nor an absolute path", value)
		}
		if !strings.HasSuffix(path, ".pub") {
			path += ".pub"
		}
		var err error
		if text, err = readSmall(resolved(path), maxPublicKey); err != nil {
			return "", err
		}
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(text))
	if err != nil {
		return "", fmt.Errorf("%s: %w", value, err)
	}
	return string(bytes.TrimSpace(ssh.MarshalAuthorizedKey(key))), nil
}

// Config is what a guest's Git has to be told; it is read after what includes
// says, and before the user's and the repository's own settings in the guest.
func (s Signing) Config(includes string) []byte {
	return fmt.Appendf(nil, "[include]\n\tpath = %s\n[gpg]\n\tformat = ssh\n[user]\n\tsigningkey = %s\n[commit]\n\tgpgsign = %t\n[tag]\n\tgpgsign = %t\n",
		gitString(includes), gitString("key::"+s.Key), s.Commits, s.Tags)
}
