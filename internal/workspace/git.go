package workspace

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
	"unicode"
)

// gitTimeout bounds one call of git: a repository that a guest can write to
// may hold a pipe where Git expects a file.
const gitTimeout = 5 * time.Second

// Identity is who commits.
type Identity struct{ Name, Email string }

// GitIdentity asks the host's git who would commit in dir: GIT_AUTHOR_NAME and
// GIT_AUTHOR_EMAIL of env (in os.Environ's form), else user.name and user.email
// with every include that applies there, else EMAIL. What is not configured is
// "", and so is all of it when there is no git. An error means that git failed
// on its own configuration; what was found is returned with it.
//
// Only `git config` runs, which executes nothing that a repository can name:
// no hooks, no fsmonitor, no pager, no alias.
func GitIdentity(ctx context.Context, dir string, env []string) (Identity, error) {
	var id Identity
	git, err := exec.LookPath("git")
	if err == nil {
		id, err = configured(ctx, git, dir, env)
	} else {
		err = nil // nobody commits on this host
	}
	if v := lookup(env, "GIT_AUTHOR_NAME"); v != "" {
		id.Name = v
	}
	if v := lookup(env, "GIT_AUTHOR_EMAIL"); v != "" {
		id.Email = v
	} else if id.Email == "" {
		id.Email = lookup(env, "EMAIL")
	}
	return id, err
}

// configured reads the identity in dir, and without dir's repository when that
// makes git fail: a broken repository is no reason to lose the user's name.
func configured(ctx context.Context, git, dir string, env []string) (Identity, error) {
	id, err := runGitConfig(ctx, git, dir, env)
	if err == nil {
		return id, nil
	}
	if id, outside := runGitConfig(ctx, git, "/", env); outside == nil {
		return id, nil
	}
	return Identity{}, err
}

func runGitConfig(ctx context.Context, git, dir string, env []string) (Identity, error) {
	out, err := gitConfig(ctx, git, dir, env, "--null", "--get-regexp", `^user\.(name|email)$`)
	if err != nil {
		return Identity{}, fmt.Errorf("ask git who commits: %w", err)
	}
	return parseIdentity(out), nil
}

// gitConfig asks git for settings that match; without any it is "".
func gitConfig(ctx context.Context, git, dir string, env []string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, gitTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, git, append([]string{"--no-pager", "-C", dir, "config"}, args...)...)
	cmd.Env = gitEnv(env)
	cmd.WaitDelay = time.Second
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 1 && stderr.Len() == 0 {
		return "", nil // none is set
	}
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, strings.TrimSpace(stderr.String()))
	}
	return string(out), nil
}

// parseIdentity reads "key LF value NUL", in the order of the files: the last
// value of a key is the one that counts.
func parseIdentity(out string) Identity {
	var id Identity
	for entry := range strings.SplitSeq(out, "\x00") {
		key, value, _ := strings.Cut(entry, "\n")
		switch key {
		case "user.name":
			id.Name = value
		case "user.email":
			id.Email = value
		}
	}
	return id
}

// gitEnv is env without what would point git at another repository, as when
// berth is called by a hook, and without what would make it ask or trace.
func gitEnv(env []string) []string {
	out := []string{"GIT_TERMINAL_PROMPT=0", "GIT_OPTIONAL_LOCKS=0"}
	drop := []string{"GIT_DIR=", "GIT_CONFIG=", "GIT_WORK_TREE=", "GIT_COMMON_DIR=", "GIT_INDEX_FILE=", "GIT_NAMESPACE=", "GIT_PREFIX=",
		"GIT_OBJECT_DIRECTORY=", "GIT_EXTERNAL_DIFF=", "GIT_TRACE", "GIT_TERMINAL_PROMPT=", "GIT_OPTIONAL_LOCKS="}
next:
	for _, kv := range env {
		for _, prefix := range drop {
			if strings.HasPrefix(kv, prefix) {
				continue next
			}
		}
		out = append(out, kv)
	}
	return out
}

// lookup returns the last value of a variable, which is the one that counts.
func lookup(env []string, name string) string {
	value := ""
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			value = v
		}
	}
	return value
}

// GlobalConfig is the content of the guest's ~/.gitconfig: who commits. It is
// nil when nothing is known, and Git in the guest then asks as it does anywhere.
func (id Identity) GlobalConfig() []byte {
	if id.Name == "" && id.Email == "" {
		return nil
	}
	var b strings.Builder
	b.WriteString("[user]\n")
	if id.Name != "" {
		fmt.Fprintf(&b, "\tname = %s\n", gitString(id.Name))
	}
	if id.Email != "" {
		fmt.Fprintf(&b, "\temail = %s\n", gitString(id.Email))
	}
	return []byte(b.String())
}

// SystemConfig is the content of the guest's /etc/gitconfig. Every workspace
// is trusted, for every user of the guest: the sandbox, not Git, is the
// boundary there, and root works on files of the agent's. And the guest sees a
// main repository without most of its worktrees, whose records a garbage
// collection there would otherwise take for those of deleted ones.
//
// Over HTTPS, Git signs in with the tokens that the usual variables have.
func SystemConfig() []byte {
	var b strings.Builder
	b.WriteString("[safe]\n\tdirectory = *\n[gc]\n\tworktreePruneExpire = never\n")
	for _, h := range []struct{ host, user, token string }{
		{"github.com", "x-access-token", "${GH_TOKEN:-$GITHUB_TOKEN}"},
		{"gist.github.com", "x-access-token", "${GH_TOKEN:-$GITHUB_TOKEN}"},
		{"gitlab.com", "oauth2", "${GITLAB_TOKEN:-$GITLAB_ACCESS_TOKEN}"},
	} {
		helper := fmt.Sprintf(`!f() { t="%s"; test "$1" = get && test -n "$t" && printf 'username=%s\npassword=%%s\n' "$t"; }; f`, h.token, h.user)
		fmt.Fprintf(&b, "[credential \"https://%s\"]\n\thelper = %s\n", h.host, gitString(helper))
	}
	return []byte(b.String())
}

// gitString quotes a value for a Git configuration file (git-config(1),
// "Syntax"). Control characters, which no name holds, are left out.
func gitString(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case unicode.IsControl(r):
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
