package secret

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"berth.dev/internal/sandbox"
)

// secureDir makes a folder of the store that only its user can enter. One in
// which others could have put something is refused: what lies there says which
// commands are run.
func secureDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return sandbox.Errorf(sandbox.ErrUnavailable, "make folder %s: %w", dir, err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("look at folder: %w", err)
	}
	if !info.IsDir() {
		return refused(dir, "it is not a folder")
	}
	if err := checkOwner(dir, info); err != nil {
		return err
	}
	if info.Mode().Perm() != 0o700 {
		if err := os.Chmod(dir, 0o700); err != nil {
			return fmt.Errorf("close folder to others: %w", err)
		}
	}
	return nil
}

// readPrivate reads a file that nobody but its owner may read. One that others
// may write to is refused; one that they can only read is closed, and mended is
// true: nothing else mends what they may have read.
func readPrivate(path string, limit int64) (data []byte, mended bool, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ELOOP) {
		return nil, false, refused(path, "it is a symbolic link")
	}
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, false, err
	}
	if !info.Mode().IsRegular() {
		return nil, false, refused(path, "it is no regular file")
	}
	if err := checkOwner(path, info); err != nil {
		return nil, false, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		if err := f.Chmod(0o600); err != nil {
			return nil, false, fmt.Errorf("close %s to others: %w", path, err)
		}
		mended = true
	}
	data, err = io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = sandbox.Errorf(sandbox.ErrInvalid, "%s is longer than %d bytes", path, limit)
	}
	return data, mended, err
}

func checkOwner(path string, info fs.FileInfo) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok || int(st.Uid) != os.Geteuid():
		return refused(path, "it belongs to another user")
	case info.Mode().Perm()&0o022 != 0:
		return refused(path, fmt.Sprintf("others may write to it (mode %04o)", info.Mode().Perm()))
	}
	return nil
}

func refused(path, why string) error {
	return sandbox.Errorf(sandbox.ErrForbidden, "Berth will not use %s: %s", path, why).
		WithHint("look at it, and move it away when it is not yours")
}
