package policyfile

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"berth.dev/internal/policy"
	"berth.dev/internal/sandbox"
)

// ProjectStatus says how far a project's file counts.
type ProjectStatus string

// The states of a project's file.
const (
	// ProjectNone: there is no file and none was approved.
	ProjectNone ProjectStatus = ""
	// ProjectUnapproved: a file that nobody approved. What narrows acts: its
	// deny rules, and a narrower preset.
	ProjectUnapproved ProjectStatus = "unapproved"
	// ProjectApproved: the file is exactly what was approved. All of it acts.
	ProjectApproved ProjectStatus = "approved"
	// ProjectChanged: the file is not what was approved, or is gone. What
	// narrows acts, of the approved content and of the file as it is now.
	ProjectChanged ProjectStatus = "changed"
	// ProjectBroken: the file cannot be read or makes no sense. What narrows
	// acts of the approved content, and nothing of the file. To deny everything
	// instead would be no safer, as the guest that broke it could have emptied
	// it, and would let it lock the user out.
	ProjectBroken ProjectStatus = "broken"
)

// ProjectState is what became of a project's file.
type ProjectState struct {
	File   string // its path, "" with ProjectNone
	Status ProjectStatus
	// Waiting are the allow rules that do not act until the file is approved.
	Waiting []policy.Rule
}

// ProjectFile is the path of the policy of a workspace.
func ProjectFile(workspace string) string { return filepath.Join(workspace, projectDir, FileName) }

// addProject adds what acts of a project's file.
func (e *Effective) addProject(src Sources) error {
	path := ProjectFile(src.Project)
	approved, err := readApproval(src.Approvals, src.Project)
	if err != nil {
		return err
	}
	now, err := readProject(src.Project)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if approved == nil {
			return nil
		}
		e.project(path, ProjectChanged, "%s is gone; what it denied when you approved it still is. Forget it with: berth policy approve", path)
	case err != nil:
		e.project(path, ProjectBroken, "%v; it is not heeded", err)
	case approved == nil:
		e.project(path, ProjectUnapproved, "")
	case approved.Content == now.content:
		e.project(path, ProjectApproved, "")
		e.Rules = append(e.Rules, now.file.Rules...)
		e.narrow(now.file)
		return nil
	default:
		e.project(path, ProjectChanged, "%s is not what you approved: nothing that it allows acts until you look at it with: berth policy approve", path)
	}
	if approved != nil {
		old, err := Parse(path, []byte(approved.Content), policy.ScopeProject)
		if err != nil {
			return fmt.Errorf("read what was approved: %w", err)
		}
		e.addDenies(old)
	}
	if err != nil {
		return nil
	}
	e.addDenies(now.file)
	for _, r := range now.file.Rules {
		if r.Verdict == policy.Allow {
			e.Project.Waiting = append(e.Project.Waiting, r)
		}
	}
	if n := len(e.Project.Waiting); n > 0 && e.Project.Status == ProjectUnapproved {
		e.warn("%s allows more (%d of its rules), which does not act until you look at it with: berth policy approve", path, n)
	}
	return nil
}

func (e *Effective) project(path string, status ProjectStatus, warning string, args ...any) {
	e.Project = ProjectState{File: path, Status: status}
	if warning != "" {
		e.warn(warning, args...)
	}
}

func (e *Effective) warn(format string, args ...any) {
	e.Warnings = append(e.Warnings, fmt.Sprintf(format, args...))
}

// narrow takes a project's preset when it allows less.
func (e *Effective) narrow(f File) {
	if f.Preset != "" && f.Preset != e.Preset && policy.Narrower(e.Preset, f.Preset) == f.Preset {
		e.Preset, e.PresetScope = f.Preset, policy.ScopeProject
	}
}

func (e *Effective) addDenies(f File) {
	e.narrow(f)
	for _, r := range f.Rules {
		if r.Verdict == policy.Deny && !slices.ContainsFunc(e.Rules, func(o policy.Rule) bool { return o.Scope == policy.ScopeProject && o.Same(r) }) {
			e.Rules = append(e.Rules, r)
		}
	}
}

// project is a project's file that makes sense.
type project struct {
	content string
	file    File
}

// readProject reads the file of a workspace. The error is fs.ErrNotExist when
// there is none, and one for the user otherwise.
func readProject(workspace string) (project, error) {
	data, err := openProject(workspace)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return project{}, err
		}
		return project{}, sandbox.Errorf(sandbox.ErrInvalid, "read policy %s: %w", ProjectFile(workspace), err)
	}
	f, err := Parse(ProjectFile(workspace), data, policy.ScopeProject)
	if err == nil && len(f.Rules) > maxProjectRules {
		err = sandbox.Errorf(sandbox.ErrInvalid, "policy %s has more than %d rules", ProjectFile(workspace), maxProjectRules)
	}
	return project{string(data), f}, err
}

// openProject reads a file that the guest may have put there. Each component
// below the workspace is opened by itself and must not be a link, or what the
// guest points at would be read with the user's rights; and nothing but a
// regular file is read, as opening a pipe would wait for a writer.
func openProject(workspace string) ([]byte, error) {
	const flags = unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC
	root, err := os.Open(workspace)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	dir, err := openAt(root, projectDir, flags|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	f, err := openAt(dir, FileName, flags)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readBounded(f, maxProject)
}

func openAt(dir *os.File, name string, flags int) (*os.File, error) {
	for {
		fd, err := unix.Openat(int(dir.Fd()), name, flags, 0)
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), name), nil
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ELOOP):
			return nil, fmt.Errorf("%s is a link", name)
		case errors.Is(err, unix.ENOTDIR):
			return nil, fmt.Errorf("%s is no folder, or a link", name)
		case errors.Is(err, unix.ENXIO):
			return nil, fmt.Errorf("%s is no regular file", name)
		}
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
}

// sum is the SHA-256 of a content, in hex.
func sum(content string) string {
	s := sha256.Sum256([]byte(content))
	return hex.EncodeToString(s[:])
}
