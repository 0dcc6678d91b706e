package workspace

import (
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"berth.dev/internal/sandbox"
)

// Where the host and the guest have their systems. A project does not lie
// there, and what does must not cover the guest's.
var (
	// kernelDirs are not files on a disk at all, or are sockets of services
	// that would do things for the guest outside of its sandbox.
	kernelDirs = []string{"/proc", "/sys", "/dev", "/run", "/var/run"}
	// removable media are mounted in /run by desktops.
	mediaDir = "/run/media"
	// systemTrees hold no project at any depth...
	systemTrees = []string{"/bin", "/boot", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/sbin", "/usr"}
	// ...but here.
	sourceTrees = []string{"/usr/src", "/usr/local/src"}
	// systemDirs are no project themselves, while one may lie in them.
	systemDirs = []string{"/home", "/opt", "/srv", "/mnt", "/media", "/tmp", "/usr/src", "/usr/local/src", "/var",
		"/var/cache", "/var/lib", "/var/lib/docker", "/var/local", "/var/log", "/var/opt", "/var/spool", "/var/tmp", "/var/www"}
	// secretDirs, in the home, are hardly ever meant as a workspace.
	secretDirs = []string{sshDir, ".gnupg", ".aws", ".azure", ".kube", ".docker", ".config", ".local", ".password-store"}
)

// sshDir, in the home, has the keys that --ssh-agent is there to keep outside;
// of what lies in it these alone are no secret.
const sshDir = ".ssh"

var sshPublic = []string{"*.pub", "known_hosts*", "config"}

// rules are the request's facts, their paths resolved.
type rules struct {
	req  Request
	home string
	own  []string
}

func newRules(req Request) *rules {
	r := &rules{req: req, home: resolved(req.Home)}
	for _, dir := range req.Own {
		r.own = append(r.own, resolved(dir))
	}
	return r
}

// resolved is the real path of what exists, else the clean path.
func resolved(path string) string {
	if p, err := filepath.EvalSymlinks(path); err == nil {
		return p
	}
	return filepath.Clean(path)
}

// workspace reads one PATH[:ro].
func (r *rules) workspace(arg string) (sandbox.Mount, *Link, error) {
	named, readOnly := cutMode(arg)
	if named == "" {
		return sandbox.Mount{}, nil, sandbox.Errorf(sandbox.ErrInvalid, "%q names no folder", arg)
	}
	abs := absolute(named, r.req.Cwd, r.req.Home)
	host, info, err := realPath(abs, named)
	if err != nil {
		return sandbox.Mount{}, nil, err
	}
	if !info.IsDir() {
		return sandbox.Mount{}, nil, sandbox.Errorf(sandbox.ErrInvalid, "%s is not a folder", named).
			WithHint("name the folder it is in, or use -v %s:GUEST for a single file", named)
	}
	if err := r.project(host); err != nil {
		return sandbox.Mount{}, nil, err
	}
	if err := r.source(host, true); err != nil {
		return sandbox.Mount{}, nil, err
	}
	if err := checkTarget(host); err != nil {
		return sandbox.Mount{}, nil, err
	}
	m := sandbox.Mount{Host: host, Guest: host, ReadOnly: readOnly}
	return m, linkFor(filepath.Clean(abs), host), m.Check()
}

// linkFor is the symlink for a path that was typed, nil when it needs none or
// cannot be in the guest.
func linkFor(typed, host string) *Link {
	if typed == host || checkText(typed) != nil || checkTarget(typed) != nil || resolved(typed) != host {
		return nil
	}
	if (sandbox.Mount{Host: host, Guest: typed}).Check() != nil {
		return nil
	}
	return &Link{Path: typed, Target: host}
}

// volume reads one HOST:GUEST[:ro]. The first ":/" separates: GUEST starts
// with a slash, so that HOST may hold colons.
func (r *rules) volume(arg string) (sandbox.Mount, error) {
	rest, readOnly := cutMode(arg)
	named, guest, ok := strings.Cut(rest, ":/")
	if !ok || named == "" || strings.Contains(guest, ":/") {
		return sandbox.Mount{}, sandbox.Errorf(sandbox.ErrInvalid, "%q is not HOST:GUEST[:ro]", arg).
			WithHint("GUEST is an absolute path in the sandbox: -v ./data:/data:ro")
	}
	guest = filepath.Clean("/" + guest)
	host, info, err := realPath(absolute(named, r.req.Cwd, r.req.Home), named)
	if err != nil {
		return sandbox.Mount{}, err
	}
	if err := r.source(host, info.IsDir()); err != nil {
		return sandbox.Mount{}, err
	}
	if !info.IsDir() && !info.Mode().IsRegular() {
		return sandbox.Mount{}, sandbox.Errorf(sandbox.ErrForbidden, "%s is a %s, and only files and folders can be shared", named, kindOf(info.Mode())).
			WithHint("what listens there would act for the sandbox outside of it; --host-port opens one TCP port of this machine")
	}
	if err := checkText(guest); err != nil {
		return sandbox.Mount{}, err
	}
	if err := checkTarget(guest); err != nil {
		return sandbox.Mount{}, err
	}
	m := sandbox.Mount{Host: host, Guest: guest, ReadOnly: readOnly}
	return m, m.Check()
}

func kindOf(mode fs.FileMode) string {
	switch {
	case mode&fs.ModeSocket != 0:
		return "socket"
	case mode&fs.ModeNamedPipe != 0:
		return "pipe"
	}
	return "device"
}

// project refuses what cannot be a project.
func (r *rules) project(host string) error {
	inTree := func(dir string) bool { return within(host, dir) }
	if slices.ContainsFunc(systemTrees, inTree) && !slices.ContainsFunc(sourceTrees, inTree) || slices.Contains(systemDirs, host) {
		if within(r.home, host) {
			return nil // a parent of the home: its own message says more
		}
		return sandbox.Errorf(sandbox.ErrForbidden, "%s is a system folder, not a workspace", host).
			WithHint("name the project's own folder; -v HOST:GUEST shares single files and folders")
	}
	if err := r.sshKeys(host, true); err != nil {
		return err
	}
	for _, name := range secretDirs {
		dir := filepath.Join(r.home, name)
		deep := name != ".config" && name != ".local" // these two hold projects, too
		if host == dir || deep && within(host, dir) {
			return r.unlessForced("%s holds settings and keys, and the agent could read and change them", host)
		}
	}
	return nil
}

// source refuses what must not be shared, as a workspace or as a volume.
func (r *rules) source(host string, isDir bool) error {
	inTree := func(dir string) bool { return within(host, dir) }
	if host == "/" {
		return sandbox.Errorf(sandbox.ErrForbidden, "the whole file system cannot be shared with a sandbox, which has its own").
			WithHint("name the project's folder; -v HOST:GUEST adds others")
	}
	if slices.ContainsFunc(kernelDirs, inTree) && (!within(host, mediaDir) || host == mediaDir) {
		return sandbox.Errorf(sandbox.ErrForbidden, "%s is part of this machine's running system and cannot be shared", host).
			WithHint("--host-port opens one TCP port of this machine to the sandbox")
	}
	if isDir && slices.Contains(systemTrees, host) {
		return sandbox.Errorf(sandbox.ErrForbidden, "%s is a system folder and cannot be shared as a whole", host).
			WithHint("share the file or folder in it that is needed")
	}
	if err := r.sshKeys(host, isDir); err != nil {
		return err
	}
	for _, own := range r.own {
		if within(host, own) {
			return sandbox.Errorf(sandbox.ErrForbidden, "%s belongs to Berth itself: a sandbox that can change it is none", host).
				WithHint("name another folder")
		}
	}
	switch {
	case host == r.home:
		return r.unlessForced("%s is your home folder: the agent could read and change everything in it, keys and shell start-up files included", host)
	case within(r.home, host):
		return r.unlessForced("%s contains your home folder: the agent could read and change everything in it, keys and shell start-up files included", host)
	}
	for _, own := range r.own {
		if within(own, host) {
			return r.unlessForced("%s contains %s, where Berth keeps all sandboxes: the agent could change every one of them", host, own)
		}
	}
	return nil
}

// sshKeys refuses the user's SSH keys, which nobody can want inside: what they
// are good for is there without them.
func (r *rules) sshKeys(host string, isDir bool) error {
	dir := resolved(filepath.Join(r.home, sshDir))
	public := func(pattern string) bool { ok, _ := filepath.Match(pattern, filepath.Base(host)); return ok }
	if !within(host, dir) || !isDir && slices.ContainsFunc(sshPublic, public) {
		return nil
	}
	return sandbox.Errorf(sandbox.ErrForbidden, "%s is where your SSH keys are, and a sandbox gets none", host).
		WithHint("--ssh-agent lets it sign in and sign commits with the keys of your SSH agent, each host after your yes")
}

func (r *rules) unlessForced(format string, host string, more ...any) error {
	if r.req.Force {
		return nil
	}
	e := sandbox.Errorf(sandbox.ErrPrecondition, format, append([]any{host}, more...)...).
		WithHint("go to the project's own folder, or confirm with --force")
	e.Cause = ErrNeedsForce
	return e
}

// checkTarget refuses places in the guest that a mount must not cover.
func checkTarget(guest string) error {
	if guest == "/" || slices.Contains(systemTrees, guest) || slices.Contains(systemDirs, guest) || within("/var/lib/docker", guest) ||
		within(guest, "/var/lib/docker") || within(guest, "/run") && !within(guest, mediaDir) {
		return sandbox.Errorf(sandbox.ErrForbidden, "%s belongs to the sandbox's own system and cannot be replaced", guest).
			WithHint("choose another place in the sandbox with -v HOST:GUEST")
	}
	if within(sandbox.UserHome, guest) {
		// Settings and credentials that the agent writes to its home would land
		// on the host, under the names that the host's own agent reads.
		return sandbox.Errorf(sandbox.ErrForbidden, "%s is the home of the sandbox's own user and cannot be replaced", guest).
			WithHint("choose a folder below %s with -v HOST:GUEST", sandbox.UserHome)
	}
	return nil
}
