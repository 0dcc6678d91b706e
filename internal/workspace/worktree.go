package workspace

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"berth.dev/internal/sandbox"
)

// maxGitFile bounds the one-line files that Git keeps paths in.
const maxGitFile = 8 << 10

// gitDir finds the Git directory that a workspace needs and that does not lie
// in it: the main repository's of a linked worktree, a submodule's own. nil
// means that it needs none. The link is for the path that the workspace has
// written down, when that is not the real one.
//
// Everything in the workspace may be a guest's doing, and what a .git file
// points at would be handed to it. So nothing of Git is run, and the target
// must itself point back at this workspace, which only somebody who can write
// to the target could have made it do. (gitrepository-layout(5), git-worktree(1).)
func gitDir(ws sandbox.Mount) (*sandbox.Mount, *Link, error) {
	dotGit := filepath.Join(ws.Host, ".git")
	info, err := os.Lstat(dotGit)
	if err != nil || !info.Mode().IsRegular() {
		return nil, nil, nil // no repository, or a whole one
	}
	line, err := readLine(dotGit)
	if err != nil {
		return nil, nil, err
	}
	target, ok := strings.CutPrefix(line, "gitdir: ")
	if !ok {
		return nil, nil, nil // Git does not take it for one either
	}
	written := against(ws.Host, target)
	dir, err := filepath.EvalSymlinks(written)
	if err != nil || checkText(dir) != nil {
		return nil, nil, unusable(ws.Host, target, "it does not exist")
	}
	share, up := dir, "."
	if common, ok := worktreeOf(dir, dotGit); ok {
		share, up = common, "../.."
	} else if !within(dir, ws.Host) && !submoduleOf(dir, ws.Host) {
		return nil, nil, unusable(ws.Host, target, "nothing there points back to this folder")
	}
	if within(share, ws.Host) {
		return nil, nil, nil
	}
	m := &sandbox.Mount{Host: share, Guest: share, ReadOnly: ws.ReadOnly}
	return m, linkFor(filepath.Join(written, up), share), nil
}

// worktreeOf returns the main repository's Git directory, when dir is the
// administrative folder of the linked worktree whose .git file is dotGit.
func worktreeOf(dir, dotGit string) (common string, ok bool) {
	if filepath.Base(filepath.Dir(dir)) != "worktrees" {
		return "", false
	}
	back, err := readLine(filepath.Join(dir, "gitdir"))
	if err != nil || !samePlace(against(dir, back), dotGit) {
		return "", false
	}
	line, err := readLine(filepath.Join(dir, "commondir"))
	if err != nil {
		return "", false
	}
	// Git allows any path here. It writes "../..", and nothing else is taken:
	// otherwise whoever can write one file could point it anywhere.
	common = filepath.Dir(filepath.Dir(dir))
	if !samePlace(against(dir, line), common) {
		return "", false
	}
	return common, isGitDir(common)
}

// submoduleOf reports whether dir is the Git directory of a submodule checked
// out in ws: its configuration names the worktree.
func submoduleOf(dir, ws string) bool {
	if !isGitDir(dir) {
		return false
	}
	worktree := coreWorktree(filepath.Join(dir, "config"))
	return worktree != "" && samePlace(against(dir, worktree), ws)
}

// isGitDir asks what Git itself asks (is_git_directory): HEAD, objects, refs.
func isGitDir(dir string) bool {
	head, err := os.Lstat(filepath.Join(dir, "HEAD"))
	if err != nil || !head.Mode().IsRegular() && head.Mode()&fs.ModeSymlink == 0 {
		return false
	}
	for _, sub := range []string{"objects", "refs"} {
		if info, err := os.Stat(filepath.Join(dir, sub)); err != nil || !info.IsDir() {
			return false
		}
	}
	return true
}

// coreWorktree reads core.worktree from one configuration file, "" when it is
// not there. Includes are not followed, and escapes other than \\ and \" make
// it count as absent: Git writes neither for a submodule.
func coreWorktree(path string) string {
	text, err := readSmall(path, 1<<20)
	if err != nil {
		return ""
	}
	section, worktree := "", ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			section = strings.ToLower(strings.TrimSuffix(strings.TrimPrefix(line, "["), "]"))
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if ok && section == "core" && strings.EqualFold(strings.TrimSpace(key), "worktree") {
			worktree = unquote(strings.TrimSpace(value))
		}
	}
	return worktree
}

func unquote(value string) string {
	if inner, ok := strings.CutPrefix(value, `"`); ok {
		inner, ok = strings.CutSuffix(inner, `"`)
		if !ok {
			return ""
		}
		value = strings.NewReplacer(`\\`, `\`, `\"`, `"`).Replace(inner)
	}
	return value
}

// against makes a path that was written in dir absolute.
func against(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return dir + "/" + path
}

// samePlace reports whether two paths lead to one file.
func samePlace(a, b string) bool {
	infoA, errA := os.Stat(a)
	infoB, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(infoA, infoB)
}

func readLine(path string) (string, error) {
	text, err := readSmall(path, maxGitFile)
	return strings.TrimRight(text, "\r\n"), err
}

// readSmall reads a regular file of at most limit bytes; a FIFO in its place
// must not make Berth wait, nor a device make it swallow.
func readSmall(path string, limit int64) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return "", fmt.Errorf("read Git's file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("read Git's file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("read Git's file: %s is not a file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = errors.New("too long")
	}
	if err != nil {
		return "", fmt.Errorf("read Git's file %s: %w", path, err)
	}
	return string(data), nil
}

func unusable(ws, target, why string) error {
	return sandbox.Errorf(sandbox.ErrForbidden, "Git will not work in %s: its .git file says that the repository is at %q, but %s", ws, target, why).
		WithHint("if the repository is yours, share its folder by naming it after the workspace")
}
