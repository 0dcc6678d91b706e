package session

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"berth.dev/internal/guest/account"
	"berth.dev/internal/guestapi"
)

// DefaultPath is the PATH of a session whose environment names none.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// command is a specification resolved against the running system.
type command struct {
	path string
	argv []string
	env  []string
	dir  string
	who  account.Account
	cred *syscall.Credential // nil: as this process
}

// resolve finds out who, where and what a specification means.
func (st *Store) resolve(spec *guestapi.SessionSpec) (*command, error) {
	who, err := st.Account(spec.User)
	if err != nil {
		return nil, err
	}
	c := &command{who: who, argv: spec.Args, dir: spec.Dir}
	if c.cred, err = credential(who); err != nil {
		return nil, err
	}
	if c.dir == "" {
		c.dir = st.cfg.Dir
	}
	switch fi, err := os.Stat(c.dir); {
	case err != nil:
		return nil, guestapi.Errorf(guestapi.NoDir, "working directory %s: %v", c.dir, cause(err))
	case !fi.IsDir():
		return nil, guestapi.Errorf(guestapi.NoDir, "working directory %s is not a folder", c.dir)
	}
	env := st.environment(who, spec)
	for _, k := range slices.Sorted(maps.Keys(env)) {
		c.env = append(c.env, k+"="+env[k])
	}
	c.path, err = lookPath(spec.Args[0], c.dir, env["PATH"], who)
	return c, err
}

// Account finds whom a SessionSpec's User means.
func (st *Store) Account(user string) (account.Account, error) {
	u := st.cfg.User
	if user == "" || user == u.Name {
		// The configured user need not be in /etc/passwd; its groups are.
		a, err := st.cfg.Accounts.Lookup(u.Name)
		if err != nil {
			a = account.Account{}
		}
		a.Name, a.UID, a.GID, a.Home = u.Name, u.UID, u.GID, u.Home
		if u.Shell != "" {
			a.Shell = u.Shell
		}
		if a.Shell == "" {
			a.Shell = "/bin/sh"
		}
		return a, nil
	}
	a, err := st.cfg.Accounts.Lookup(user)
	if errors.Is(err, account.ErrUnknown) {
		return a, guestapi.Errorf(guestapi.NoUser, "%v", err)
	}
	if err != nil {
		return a, guestapi.Errorf(guestapi.Internal, "look up %q: %v", user, err)
	}
	return a, nil
}

// credential is what execve needs to become who. A guest that is not root can
// only be itself.
func credential(who account.Account) (*syscall.Credential, error) {
	if os.Geteuid() == 0 {
		return &syscall.Credential{Uid: who.UID, Gid: who.GID, Groups: who.Groups, NoSetGroups: groupsDenied()}, nil
	}
	if int(who.UID) != os.Geteuid() || int(who.GID) != os.Getegid() {
		return nil, guestapi.Errorf(guestapi.Denied, "the guest is not root and cannot become uid %d, gid %d", who.UID, who.GID)
	}
	return nil, nil
}

// groupsDenied reports whether the kernel lets nobody change supplementary
// groups, as in a user namespace that an ordinary user made
// (user_namespaces(7)).
func groupsDenied() bool {
	b, err := os.ReadFile("/proc/self/setgroups")
	return err == nil && strings.TrimSpace(string(b)) == "deny"
}

// environment puts a session's environment together: what login(1) sets, then
// the configuration's, then the specification's.
func (st *Store) environment(who account.Account, spec *guestapi.SessionSpec) map[string]string {
	env := map[string]string{"PATH": DefaultPath, "HOME": who.Home, "SHELL": who.Shell}
	if who.Name != "" {
		env["USER"], env["LOGNAME"] = who.Name, who.Name
	}
	if spec.TTY {
		env["TERM"] = "xterm-256color"
	}
	maps.Copy(env, st.cfg.Env)
	maps.Copy(env, spec.Env)
	return env
}

// lookPath finds the file of a command as execvp(3) does, and tells a missing
// command (127) from one that may not be executed (126).
func lookPath(name, dir, path string, who account.Account) (string, error) {
	if strings.Contains(name, "/") {
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		return name, runnable(name, who)
	}
	var denied error
	for _, d := range filepath.SplitList(path) {
		if !filepath.IsAbs(d) { // "" and "." mean the working directory
			d = filepath.Join(dir, d)
		}
		p := filepath.Join(d, name)
		err := runnable(p, who)
		if err == nil {
			return p, nil
		}
		var e *guestapi.Error
		if errors.As(err, &e) && e.Code == guestapi.NotExecutable && !isDir(p) {
			denied = err
		}
	}
	if denied != nil {
		return "", denied
	}
	return "", guestapi.Errorf(guestapi.CommandNotFound, "%s: command not found", name)
}

func isDir(p string) bool {
	fi, err := os.Stat(p)
	return err == nil && fi.IsDir()
}

// runnable reports why who cannot execute the file at p.
func runnable(p string, who account.Account) error {
	fi, err := os.Stat(p)
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR):
		return guestapi.Errorf(guestapi.CommandNotFound, "%s: no such file", p)
	case err != nil:
		return guestapi.Errorf(guestapi.NotExecutable, "%s: %v", p, cause(err))
	case fi.IsDir():
		return guestapi.Errorf(guestapi.NotExecutable, "%s: is a folder", p)
	case !mayExecute(fi, who):
		return guestapi.Errorf(guestapi.NotExecutable, "%s: permission denied", p)
	}
	return nil
}

// mayExecute applies the permission bits; the kernel has the last word.
func mayExecute(fi fs.FileInfo, who account.Account) bool {
	perm := fi.Mode().Perm()
	st, ok := fi.Sys().(*syscall.Stat_t)
	switch {
	case !ok || who.UID == 0:
		return perm&0o111 != 0
	case st.Uid == who.UID:
		return perm&0o100 != 0
	case st.Gid == who.GID || slices.Contains(who.Groups, st.Gid):
		return perm&0o010 != 0
	}
	return perm&0o001 != 0
}

// startError turns the kernel's refusal of an execve into the guest's error.
func startError(c *command, err error) error {
	switch {
	case errors.Is(err, unix.ENOENT):
		// The file was there a moment ago: it is what it names that is not.
		return guestapi.Errorf(guestapi.NotExecutable, "%s: its interpreter is missing", c.path)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return guestapi.Errorf(guestapi.NotExecutable, "%s: permission denied (user %s in %s)", c.path, c.who.Name, c.dir)
	case errors.Is(err, unix.E2BIG):
		return guestapi.Errorf(guestapi.NotExecutable, "%s: argument list too long", c.path)
	case errors.Is(err, unix.ENOEXEC):
		return guestapi.Errorf(guestapi.NotExecutable, "%s: not a program of this machine", c.path)
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOMEM):
		return guestapi.Errorf(guestapi.Limit, "start %s: %v", c.path, err)
	}
	return guestapi.Errorf(guestapi.Internal, "start %s: %v", c.path, err)
}

// cause strips the path that an os error repeats.
func cause(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
