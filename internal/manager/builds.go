package manager

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"berth.dev/internal/atomicfile"
	"berth.dev/internal/bundle"
	"berth.dev/internal/hostdir"
	"berth.dev/internal/sandbox"
)

// A save can be read by the engine build that wrote it. So that a newer Berth
// opens every sandbox that an older one saved, each build keeps its own
// executable beside the saves; a sandbox whose save another build wrote is run
// by that build's supervisor, which speaks the same protocol. One file of some
// 60 MB a build, gone when no save needs it.

// buildGrace is how long a kept executable stays without a save that needs it.
const buildGrace = time.Hour

// keptName is the file in a build's folder.
const keptName = "berth"

// keptPath is where the executable of an engine build is kept.
func keptPath(dirs hostdir.Dirs, build string) (string, error) {
	if build == "" || build != filepath.Base(build) || strings.HasPrefix(build, ".") {
		return "", sandbox.Errorf(sandbox.ErrInvalid, "%q cannot be the name of an engine's build", build)
	}
	dir, err := dirs.Builds()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, build, keptName), nil
}

// keep makes sure that this very executable is kept under its build's name. It
// is cheap when it is there, and safe in several processes at once.
func keep(dirs hostdir.Dirs, build string) error {
	path, err := keptPath(dirs, build)
	if err != nil {
		return err
	}
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	// A link costs nothing, where the owner and the file system allow it. The
	// executable is never changed in place: installing moves a new one there.
	if exe, err := os.Executable(); err == nil && sameFile(exe, "/proc/self/exe") && os.Link(exe, path) == nil {
		return nil
	}
	return copyExecutable(path)
}

func copyExecutable(path string) error {
	in, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.CreateTemp(filepath.Dir(path), ".tmp-")
	if err != nil {
		return err
	}
	defer os.Remove(out.Name()) // fails harmlessly once renamed
	_, err = io.Copy(out, in)
	err = errors.Join(err, out.Chmod(0o700), out.Sync(), out.Close())
	if err == nil {
		err = os.Rename(out.Name(), path)
	}
	if err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(path))
}

func sameFile(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}

// executableFor is the program that can run a sandbox: this one, unless its
// save was written by another build of its engine.
func (m *Manager) executableFor(b *bundle.Bundle) (string, error) {
	meta, ok := b.LastSave()
	if !ok {
		return m.cfg.Executable, nil
	}
	eng, err := m.cfg.Engines.Lookup(b.Spec().Engine)
	if err != nil {
		return "", err
	}
	if meta.EngineBuild == eng.Build() {
		return m.cfg.Executable, nil
	}
	path, err := keptPath(m.cfg.Dirs, meta.EngineBuild)
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		return "", sandbox.Errorf(sandbox.ErrPrecondition, "sandbox %s was saved by Berth %s with engine build %s, whose program is gone: %w", b.Name(), meta.Berth, meta.EngineBuild, err).
			WithHint("run it with that Berth, or remove it with: berth rm %s", b.Name())
	}
	m.log.Info("run by the build that saved it", "sandbox", b.Name(), "build", meta.EngineBuild)
	return path, nil
}

// dropBuilds removes the kept executables that no save in used needs.
func (m *Manager) dropBuilds(used map[string]bool) error {
	dir, err := m.cfg.Dirs.Builds()
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		// A fresh one may be about to be needed: its first save is being written.
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) < buildGrace {
			continue
		}
		if !used[e.Name()] {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}
