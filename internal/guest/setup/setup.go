// Package setup brings the guest's root file system into the state that its
// configuration asks for, at every start of PID 1: mounts, host name, the
// resolver's files, and files of the agent. It changes nothing that the
// configuration does not name.
package setup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"berth.dev/internal/guestapi"
)

// System is what setup works on; tests give it another root.
type System struct {
	Root        string // "/" for the running system
	Mount       func(source, target, fstype string, flags uintptr, data string) error
	Sethostname func([]byte) error
}

// Running is the system that this process runs in.
func Running() System {
	return System{Root: "/", Mount: unix.Mount, Sethostname: unix.Sethostname}
}

// Apply does all that the configuration asks for. It goes on after what went
// wrong and returns all errors joined: a sandbox in which one file could not
// be written is of more use than none, and the caller decides.
func (s System) Apply(c *guestapi.Config) error {
	var errs []error
	for _, m := range c.Mounts {
		errs = append(errs, s.mount(m))
	}
	errs = append(errs, s.hostname(c.Hostname))
	if c.Hosts != "" {
		errs = append(errs, s.write(etc("hosts", c.Hosts)))
	}
	if c.ResolvConf != "" {
		errs = append(errs, s.write(etc("resolv.conf", c.ResolvConf)))
	}
	errs = append(errs, s.files(c))
	if len(c.TrustCA) > 0 {
		errs = append(errs, s.trust(c.TrustCA, c.Env))
	}
	return errors.Join(errs...)
}

func etc(name, content string) guestapi.File {
	return guestapi.File{Path: "/etc/" + name, Mode: 0o644, Content: []byte(content)}
}

// path is where a guest path lies under the root.
func (s System) path(p string) string { return filepath.Join(s.Root, p) }

func (s System) mount(m guestapi.MountPoint) error {
	target := s.path(m.Target)
	if err := os.MkdirAll(target, 0o755); err != nil {
		return fmt.Errorf("mount %s: %w", m.Target, err)
	}
	flags := uintptr(unix.MS_NOSUID)
	if m.Type != "devpts" && m.Type != "devtmpfs" {
		flags |= unix.MS_NODEV
	}
	if m.NoExec {
		flags |= unix.MS_NOEXEC
	}
	err := s.Mount(m.Type, target, m.Type, flags, m.Data)
	if errors.Is(err, unix.EBUSY) { // the engine was there before
		return nil
	}
	if err != nil {
		return fmt.Errorf("mount %s on %s: %w", m.Type, m.Target, err)
	}
	return nil
}

func (s System) hostname(name string) error {
	if name == "" {
		return nil
	}
	// The engine may have set it already and not let us.
	if err := s.Sethostname([]byte(name)); err != nil && !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("set the host name: %w", err)
	}
	return s.write(etc("hostname", name+"\n"))
}

// files writes the configuration's files. Those to be written once are done
// when this creation has no marker yet; the marker comes last, so that an
// interrupted first start is made up for.
func (s System) files(c *guestapi.Config) error {
	marker := s.path(filepath.Join(c.StateDir, "created-"+c.Creation))
	_, err := os.Lstat(marker)
	first := errors.Is(err, fs.ErrNotExist)
	var errs []error
	once := false
	for _, f := range c.Files {
		if f.Policy == guestapi.Once {
			once = true
			if !first {
				continue
			}
		}
		if f.Policy == guestapi.IfAbsent {
			if _, err := os.Lstat(s.path(f.Path)); err == nil {
				continue
			}
		}
		errs = append(errs, s.write(f))
	}
	if err := errors.Join(errs...); err != nil || !once || !first {
		return err
	}
	return s.write(guestapi.File{Path: filepath.Join(c.StateDir, "created-"+c.Creation), Mode: 0o644})
}

// write replaces a file: a new one beside it, then a rename, so that nobody
// ever sees half of it and a symbolic link in its place is replaced, not
// followed. A file that cannot be replaced because something is mounted on it
// is written in place.
func (s System) write(f guestapi.File) error {
	p := s.path(f.Path)
	if err := s.parents(filepath.Dir(f.Path), f); err != nil {
		return fmt.Errorf("write %s: %w", f.Path, err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(p), ".berth-")
	if err != nil {
		return fmt.Errorf("write %s: %w", f.Path, err)
	}
	defer os.Remove(tmp.Name()) // fails harmlessly once renamed
	err = fill(tmp, f)
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), p)
	}
	if errors.Is(err, unix.EBUSY) {
		err = os.WriteFile(p, f.Content, fs.FileMode(f.Mode))
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", f.Path, err)
	}
	return nil
}

func fill(w *os.File, f guestapi.File) error {
	if _, err := w.Write(f.Content); err != nil {
		return err
	}
	if err := own(w.Name(), f.UID, f.GID); err != nil {
		return err
	}
	return w.Chmod(fs.FileMode(f.Mode))
}

// own gives a path to somebody. A guest that is not root owns what it makes
// already and can give nothing away.
func own(p string, uid, gid uint32) error {
	if os.Geteuid() != 0 {
		return nil
	}
	return os.Lchown(p, int(uid), int(gid))
}

// parents makes the missing folders above a file, with the file's owner.
func (s System) parents(dir string, f guestapi.File) error {
	at := s.Root
	for name := range strings.SplitSeq(strings.Trim(dir, "/"), "/") {
		at = filepath.Join(at, name)
		err := os.Mkdir(at, 0o755)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := own(at, f.UID, f.GID); err != nil {
			return err
		}
	}
	return nil
}
