package hostdir

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"berth.dev/internal/sandbox"
)

// secure makes a folder in a place that is the user's own, and its parents.
// The folder may be a symlink: only the user can have put one there, to keep
// Berth's data on another disk.
func secure(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", cannotMake(dir, err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return "", fmt.Errorf("look at folder: %w", err)
	}
	if err := check(dir, info); err != nil {
		return "", err
	}
	if info.Mode().Perm() != 0o700 {
		if err := os.Chmod(dir, 0o700); err != nil {
			return "", fmt.Errorf("close folder to others: %w", err)
		}
	}
	return dir, nil
}

// secureTmp makes a folder in a place that everybody can write to. Whatever is
// there already is suspect: only a real folder of our own, closed to everybody
// else, will do, and it is not mended, because it may have been planted in.
func secureTmp(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return cannotMake(dir, err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("look at folder: %w", err)
	}
	if info.IsDir() && info.Mode().Perm()&0o077 != 0 {
		return refused(dir, fmt.Sprintf("others may use it (mode %04o)", info.Mode().Perm()))
	}
	return check(dir, info)
}

// check refuses what is not a folder, not ours, or writable by others.
func check(dir string, info fs.FileInfo) error {
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		return refused(dir, "it is a symbolic link")
	case !info.IsDir():
		return refused(dir, "it is not a folder")
	case owner(info) != os.Geteuid():
		return refused(dir, "it belongs to another user")
	case info.Mode().Perm()&0o022 != 0:
		return refused(dir, fmt.Sprintf("others may write to it (mode %04o)", info.Mode().Perm()))
	}
	return nil
}

// usableRuntime reports whether XDG_RUNTIME_DIR can be trusted: after `sudo -E`
// it is another user's, and in a container it may not exist.
func usableRuntime(dir string) bool {
	info, err := os.Stat(dir)
	return err == nil && info.IsDir() && owner(info) == os.Geteuid() && info.Mode().Perm()&0o022 == 0
}

func owner(info fs.FileInfo) int {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return -1
	}
	return int(st.Uid)
}

func refused(dir, why string) error {
	return sandbox.Errorf(sandbox.ErrForbidden, "Berth will not use %s: %s", dir, why).
		WithHint("look at it, then remove it: Berth makes it anew")
}

func cannotMake(dir string, err error) error {
	return sandbox.Errorf(sandbox.ErrUnavailable, "make folder %s: %w", dir, err).
		WithHint("make room or give yourself access, or set BERTH_HOME to a folder that you can write to")
}

// mapUID finds uid's counterpart outside in the text of a uid_map
// (user_namespaces(7)): lines of inside, outside, count. Without one it is uid.
func mapUID(text string, uid int) int {
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		var inside, outside, count int
		if n, _ := fmt.Sscan(lines.Text(), &inside, &outside, &count); n != 3 {
			continue
		}
		if uid >= inside && uid-inside < count {
			return outside + uid - inside
		}
	}
	return uid
}
