package workspace

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"berth.dev/internal/sandbox"
)

// OpenMount opens the source of a mount without following any symlink: its
// path was real when the sandbox was made, and if it is not now, somebody, who
// may be another sandbox's guest, wants something else to be mounted. The file
// is an O_PATH descriptor; /proc/self/fd/N names what was checked, whatever
// happens to the path. It is sandbox.ErrPrecondition when the source is gone
// or goes through a symlink.
func OpenMount(m sandbox.Mount) (*os.File, error) {
	fd, err := unix.Openat2(unix.AT_FDCWD, m.Host, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	switch {
	case err == nil:
		return os.NewFile(uintptr(fd), m.Host), nil
	case errors.Is(err, unix.ELOOP):
		return nil, sandbox.Errorf(sandbox.ErrPrecondition, "%s now leads through a symbolic link, which it did not when the sandbox was made", m.Host).
			WithHint("if you moved the folder yourself, remove the sandbox and make it again")
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return nil, sandbox.Errorf(sandbox.ErrPrecondition, "%s, which the sandbox was made with, is gone", m.Host).
			WithHint("put it back, or remove the sandbox and make it again")
	case errors.Is(err, unix.ENOSYS):
		return nil, sandbox.Errorf(sandbox.ErrUnavailable, "this kernel lacks openat2 (Linux 5.6)")
	}
	return nil, fmt.Errorf("open %s: %w", m.Host, err)
}

// Verify is OpenMount for all mounts, keeping none open.
func Verify(mounts []sandbox.Mount) error {
	for _, m := range mounts {
		f, err := OpenMount(m)
		if err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}
