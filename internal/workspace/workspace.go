// Package workspace decides what of the host's files a sandbox sees: which
// folders and files the user named, whether they may be named, where they are
// in the guest, and what Git needs besides. It only looks; mounting is the
// engine's, writing into the guest the supervisor's business.
//
// A workspace has the same absolute path in the guest as on the host, and that
// is its real one, symlinks resolved: it is what getcwd(2) tells the agent,
// and what Git and build tools write down. When the user came there through a
// symlink, the plan has a Link for the path that they typed.
//
// What is named may have been prepared by a guest, which can put any symlink
// and any .git file into its workspace. So every rule is applied to the real
// path, and OpenMount holds the path against later changes.
package workspace

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"berth.dev/internal/sandbox"
)

// ErrNeedsForce marks what is allowed once the user confirmed it: ask, set
// Request.Force, and call Resolve again. The error's message says what would
// be shared.
var ErrNeedsForce = errors.New("needs confirmation")

// Request is what the user asked for.
type Request struct {
	// Cwd is where relative paths start, absolute; os.Getwd is right, because
	// it keeps the user's symlinks.
	Cwd string
	// Home is the user's home folder, absolute.
	Home string
	// Own are Berth's own folders: data, configuration, sockets.
	Own []string
	// Paths are workspaces, PATH[:ro]; the first one is the agent's working
	// directory. With none it is Cwd. A folder whose name ends in ":ro" is named
	// with a slash behind it.
	Paths []string
	// Volumes are HOST:GUEST[:ro], each a file or a folder.
	Volumes []string
	// Force allows what needs confirmation.
	Force bool
}

// Plan is what the sandbox will see.
type Plan struct {
	// Workspace is the primary workspace, the agent's working directory.
	Workspace string
	// Workspaces, Git and Volumes are the mounts: what the user named first,
	// Git directories that these need, and -v. Each guest path occurs once.
	Workspaces, Git, Volumes []sandbox.Mount
	// Links are symlinks that the guest should have besides.
	Links []Link
	// Warnings are for the user; the plan holds without what they are about.
	Warnings []error
}

// Link is a symlink in the guest, both paths absolute.
type Link struct{ Path, Target string }

// Mounts are all mounts in the order of sandbox.Spec: workspaces first.
func (p Plan) Mounts() []sandbox.Mount {
	return slices.Concat(p.Workspaces, p.Git, p.Volumes)
}

// Order returns the mounts in an order that can be mounted: what lies in
// another one comes after it.
func Order(mounts []sandbox.Mount) []sandbox.Mount {
	out := slices.Clone(mounts)
	slices.SortStableFunc(out, func(a, b sandbox.Mount) int { return strings.Compare(a.Guest, b.Guest) })
	return out
}

// Resolve turns a request into a plan, or says what is wrong with it.
func Resolve(req Request) (Plan, error) {
	paths := req.Paths
	if len(paths) == 0 {
		paths = []string{req.Cwd}
	}
	var p Plan
	r := newRules(req)
	for _, arg := range paths {
		m, link, err := r.workspace(arg)
		if err != nil {
			return Plan{}, err
		}
		if p.Workspace == "" {
			p.Workspace = m.Guest
		}
		if err := add(&p.Workspaces, nil, m); err != nil {
			return Plan{}, err
		}
		if link != nil && !slices.Contains(p.Links, *link) {
			p.Links = append(p.Links, *link)
		}
	}
	for _, arg := range req.Volumes {
		m, err := r.volume(arg)
		if err != nil {
			return Plan{}, err
		}
		if err := add(&p.Volumes, p.Workspaces, m); err != nil {
			return Plan{}, err
		}
	}
	p.addGit(r)
	p.Links = slices.DeleteFunc(p.Links, func(l Link) bool { return p.visible(l.Path) })
	return p, nil
}

// addGit adds what the workspaces need for Git to work in them.
func (p *Plan) addGit(r *rules) {
	for _, ws := range p.Workspaces {
		m, link, err := gitDir(ws)
		if err == nil && (m == nil || p.visible(m.Guest)) {
			continue
		}
		if err == nil {
			err = r.source(m.Host, true)
		}
		if err == nil {
			err = checkTarget(m.Guest)
		}
		if err != nil {
			p.Warnings = append(p.Warnings, err)
			continue
		}
		p.Git = append(p.Git, *m)
		if link != nil {
			p.Links = append(p.Links, *link)
		}
	}
}

// visible reports whether a guest path lies in one of the mounts.
func (p *Plan) visible(guest string) bool {
	return slices.ContainsFunc(p.Mounts(), func(m sandbox.Mount) bool { return within(guest, m.Guest) })
}

// add appends a mount, once; two that claim one place in the guest are an
// error.
func add(list *[]sandbox.Mount, others []sandbox.Mount, m sandbox.Mount) error {
	for _, old := range slices.Concat(others, *list) {
		switch {
		case old == m:
			return nil
		case old.Guest == m.Guest && old.Host == m.Host:
			return sandbox.Errorf(sandbox.ErrInvalid, "%s is asked for both read-only and writable", m.Host).
				WithHint("name it once")
		case old.Guest == m.Guest:
			return sandbox.Errorf(sandbox.ErrInvalid, "both %s and %s are to be at %s in the sandbox", old.Host, m.Host, m.Guest).
				WithHint("give one of them another place with -v HOST:GUEST")
		}
	}
	*list = append(*list, m)
	return nil
}

// IsWorkspace reports whether a word after the agent's name is a workspace,
// rather than the first of the agent's arguments: a folder, or what can only
// be meant as a path, whether or not it exists.
func IsWorkspace(word, cwd, home string) bool {
	path, _ := cutMode(word)
	if path == "" || strings.HasPrefix(word, "-") {
		return false
	}
	if info, err := os.Stat(absolute(path, cwd, home)); err == nil && info.IsDir() {
		return true
	}
	if path == "." || path == ".." || path == "~" {
		return true
	}
	return strings.Contains(path, "/") && !strings.Contains(path, "://") && !strings.ContainsFunc(path, unicode.IsSpace)
}

// cutMode takes a ":ro" or ":rw" off the end.
func cutMode(arg string) (path string, readOnly bool) {
	if p, ok := strings.CutSuffix(arg, ":ro"); ok {
		return p, true
	}
	return strings.TrimSuffix(arg, ":rw"), false
}

// absolute makes a path absolute without looking at it, and without cleaning
// it: "link/.." is where the link leads, which only the file system knows.
func absolute(path, cwd, home string) string {
	switch {
	case path == "~" || strings.HasPrefix(path, "~/"):
		return home + path[1:]
	case filepath.IsAbs(path):
		return path
	}
	return cwd + "/" + path
}

// checkText refuses paths that could not be written down and shown: the spec
// is JSON, which has no way to say bytes that are not UTF-8.
func checkText(path string) error {
	if !utf8.ValidString(path) || strings.ContainsFunc(path, unicode.IsControl) {
		return sandbox.Errorf(sandbox.ErrInvalid, "the path %q holds control characters or is not UTF-8", path).
			WithHint("rename the folder")
	}
	return nil
}

// realPath resolves a path that must exist and be readable.
func realPath(path, arg string) (string, fs.FileInfo, error) {
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", nil, lookError(arg, err)
	}
	if err := checkText(resolved); err != nil {
		return "", nil, err
	}
	info, err := os.Stat(resolved)
	if err != nil {
		return "", nil, lookError(arg, err)
	}
	want := uint32(unix.R_OK)
	if info.IsDir() {
		want |= unix.X_OK
	}
	if err := unix.Access(resolved, want); err != nil {
		return "", nil, lookError(arg, err)
	}
	return resolved, info, nil
}

func lookError(arg string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return sandbox.Errorf(sandbox.ErrNotFound, "%s does not exist", arg).
			WithHint("make it first; arguments for the agent itself go after --")
	case errors.Is(err, fs.ErrPermission):
		return sandbox.Errorf(sandbox.ErrUnavailable, "you may not read %s: %w", arg, err).
			WithHint("name a folder that you can read")
	}
	return sandbox.Errorf(sandbox.ErrInvalid, "look at %s: %w", arg, err)
}

// within reports whether path is dir or lies in it; both are clean.
func within(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}
