package supervisor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"berth.dev/internal/bundle"
	"berth.dev/internal/sandbox"
)

// Kinds of resources that a supervisor records.
const (
	kindSocket  = "socket"  // Name is the path
	kindRunDir  = "run-dir" // Name is the path
	kindProcess = "process" // Process is one of the engine's
)

// reapTime bounds the wait for a killed process to be gone.
const reapTime = 10 * time.Second

// Reap undoes what a killed supervisor left behind, last made first, and
// brings the record up to date. With nothing left behind it does nothing.
func Reap(h *bundle.Held) error {
	st := h.State()
	var errs []error
	for i := len(st.Resources) - 1; i >= 0; i-- {
		r := st.Resources[i]
		if err := release(r); err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, h.Forget(r.Kind, r.Name))
	}
	if st.Status == sandbox.Running || st.Status == sandbox.Creating {
		errs = append(errs, h.Update(func(st *bundle.State) {
			st.Status = sandbox.Stopped
			st.Failure = "its supervisor was killed"
		}))
	}
	return errors.Join(errs...)
}

func release(r bundle.Resource) error {
	switch r.Kind {
	case kindSocket:
		return removeFile(r.Name)
	case kindRunDir:
		return removeRunDir(r.Name)
	case kindProcess:
		return endProcess(r.Process)
	}
	return fmt.Errorf("a resource of kind %q is none that this Berth knows", r.Kind)
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// removeRunDir removes a machine's run folder, and refuses any path that does
// not look like one: it comes from a file.
func removeRunDir(dir string) error {
	if !filepath.IsAbs(dir) || !strings.HasSuffix(dir, runDirSuffix) {
		return fmt.Errorf("%q is not a run folder", dir)
	}
	return os.RemoveAll(dir)
}

// runDirSuffix ends the name of every run folder.
const runDirSuffix = ".d"

// endProcess kills a process of the engine's and waits until it is gone. The
// kernel has done so already when its parent died, unless that happened
// between its fork and its first moments.
func endProcess(p bundle.Process) error {
	deadline := time.Now().Add(reapTime)
	for p.Alive() {
		if err := p.Signal(unix.SIGKILL); err != nil && !errors.Is(err, sandbox.ErrNotFound) {
			return fmt.Errorf("end a left process: %w", err)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("process %d does not end", p.PID)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return nil
}
