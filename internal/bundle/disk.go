package bundle

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"berth.dev/internal/sandbox"
)

// writeSynced writes a new file, 0600, and makes its content durable.
func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// diskError says what a user can do about a full or read-only disk; any other
// error it only names.
func diskError(doing string, err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return sandbox.Errorf(sandbox.ErrUnavailable, "%s: the disk is full: %w", doing, err).
			WithHint("free some space: `berth ls -a` shows sandboxes to remove, and BERTH_HOME moves Berth's data to another disk")
	case errors.Is(err, syscall.EROFS):
		return sandbox.Errorf(sandbox.ErrUnavailable, "%s: the file system is read-only: %w", doing, err).
			WithHint("set BERTH_HOME to a folder that you can write to")
	}
	return fmt.Errorf("%s: %w", doing, err)
}
