package docker

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"berth.dev/internal/guest/runc"
)

// runcDir has this program under the name of runc.
const runcDir = "run/berth/bin"

// searchPath is the daemon's PATH. Where containers are to trust the sandbox's
// authority it begins with a folder in which runc is this program; see package
// runc. Without that the daemon works all the same.
func (a *Activator) searchPath() string {
	if !a.cfg.Trust {
		return a.cfg.Path
	}
	dir := a.path(runcDir)
	if err := linkSelf(dir, a.cfg.Self); err != nil {
		a.cfg.Logf("have containers trust the sandbox's authority: %v", err)
		return a.cfg.Path
	}
	return dir + string(filepath.ListSeparator) + a.cfg.Path
}

func linkSelf(dir, self string) error {
	name := filepath.Join(dir, runc.Name)
	if old, err := os.Readlink(name); err == nil && old == self {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make %s: %w", dir, err)
	}
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("link %s: %w", name, err)
	}
	return os.Symlink(self, name)
}
