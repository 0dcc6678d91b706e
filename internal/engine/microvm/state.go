package microvm

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"berth.dev/internal/engine"
	"berth.dev/internal/engine/microvm/ext4"
	"berth.dev/internal/sandbox"
)

// stateFile is the guest's disk: in Config.StateDir, and in a Save.
const stateFile = "state.img"

// defaultDisk is the size of a disk that no cap was asked for, in bytes. It is
// a sparse file: it takes what the guest has written.
const defaultDisk = 64 << 30

// state is the guest's disk.
type state struct {
	path string
	size int64
}

// openState makes sure that the disk is there: what the last machine left, a
// copy of a save, or a new one. A disk never shrinks.
func openState(cfg engine.Config) (state, error) {
	s := state{path: filepath.Join(cfg.StateDir, stateFile), size: cfg.Resources.Disk}
	if s.size <= 0 {
		s.size = defaultDisk
	}
	if s.size < ext4.MinSize {
		return s, sandbox.Errorf(sandbox.ErrInvalid, "a disk of %d bytes is too small for a microVM", s.size).
			WithHint("ask for %d MB or more", ext4.MinSize>>20)
	}
	s.size &^= 4095
	if cfg.Restore != "" {
		fresh := s.path + ".new"
		if err := copyDisk(filepath.Join(cfg.Restore, stateFile), fresh); err != nil {
			return s, fmt.Errorf("restore the guest's disk: %w", err)
		}
		if err := os.Rename(fresh, s.path); err != nil {
			return s, err
		}
	}
	info, err := os.Stat(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, s.make()
	}
	if err != nil {
		return s, err
	}
	if info.Size() >= s.size {
		s.size = info.Size()
		return s, nil
	}
	return s, os.Truncate(s.path, s.size) // its init grows the file system
}

// make formats a new disk. It gets its name when it is whole.
func (s state) make() error {
	fresh := s.path + ".new"
	f, err := os.OpenFile(fresh, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(s.size); err != nil {
		return fmt.Errorf("make the guest's disk: %w", err)
	}
	var uuid [16]byte
	_, _ = rand.Read(uuid[:]) // never fails
	uuid[6], uuid[8] = uuid[6]&0x0f|0x40, uuid[8]&0x3f|0x80
	if err := ext4.Make(f, s.size, uuid, time.Now()); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("make the guest's disk: %w", err)
	}
	return os.Rename(fresh, s.path)
}

// copyDisk copies a disk: as a reflink where the file system can, else only
// what was ever written of it.
func copyDisk(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if unix.IoctlFileClone(int(out.Fd()), int(in.Fd())) == nil {
		return nil
	}
	if err := out.Truncate(info.Size()); err != nil {
		return err
	}
	for at := int64(0); at < info.Size(); {
		from, err := unix.Seek(int(in.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // holes to the end
		}
		if err != nil {
			return err
		}
		to, err := unix.Seek(int(in.Fd()), from, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.NewOffsetWriter(out, from), io.NewSectionReader(in, from, to-from)); err != nil {
			return err
		}
		at = to
	}
	return nil
}
