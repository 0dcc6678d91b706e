// Package hostdir says where Berth keeps things on the host, and makes those
// folders so that nobody else can read or plant anything in them. It owns the
// names of the folders, not what lies in them.
//
// Everything is below three places, by the XDG Base Directory Specification
// (version 0.8): $XDG_DATA_HOME/berth, $XDG_CONFIG_HOME/berth and
// $XDG_RUNTIME_DIR/berth. BERTH_HOME moves all three: BERTH_HOME/data,
// BERTH_HOME/config and BERTH_HOME/run.
package hostdir

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"

	"berth.dev/internal/sandbox"
)

// MaxSocketPath is the longest path that a Unix socket can have on Linux, in
// bytes: sun_path holds 108 with its closing zero (unix(7)).
const MaxSocketPath = 107

// socketRoom is what the runtime folder leaves to the names in it.
const socketRoom = 40

// tmpRoot is where the runtime folder goes when XDG_RUNTIME_DIR is of no use.
// It is not $TMPDIR: that may be long, and may differ from shell to shell.
const tmpRoot = "/tmp"

// Dirs says where things are. Every method makes the folder that it returns,
// 0700, when it is not there; one that belongs to somebody else, or that others
// can write to, is refused with sandbox.ErrForbidden. The zero value is not
// usable; Dirs is a value, safe to copy and to use concurrently.
type Dirs struct {
	data, config, run string
	// tmp is the checked fallback below tmpRoot that run lies in, or "".
	tmp string
}

// From reads the environment and makes no folder. The uid is that of the user
// on the host (HostUID), and names the fallback in /tmp; it is not what owners
// are compared with, because in Berth's user namespace they look different.
// Relative XDG paths are ignored, as the specification says.
func From(env func(string) string, uid int) (Dirs, error) {
	var d Dirs
	runHome := ""
	if home := env("BERTH_HOME"); home != "" {
		if !filepath.IsAbs(home) {
			return d, sandbox.Errorf(sandbox.ErrInvalid, "BERTH_HOME is %q, not an absolute path", home).
				WithHint("set BERTH_HOME to an absolute path, or unset it")
		}
		home = filepath.Clean(home)
		d.data, d.config = filepath.Join(home, "data"), filepath.Join(home, "config")
		runHome = filepath.Join(home, "run")
	} else {
		var err error
		if d.data, err = xdg(env, "XDG_DATA_HOME", ".local/share"); err != nil {
			return Dirs{}, err
		}
		if d.config, err = xdg(env, "XDG_CONFIG_HOME", ".config"); err != nil {
			return Dirs{}, err
		}
		if r := env("XDG_RUNTIME_DIR"); filepath.IsAbs(r) && usableRuntime(r) {
			runHome = filepath.Join(r, "berth")
		}
	}
	d.setRun(runHome, uid)
	return d, nil
}

// setRun takes the wanted runtime folder when it is short enough for sockets,
// else one in /tmp that carries a hash of it.
func (d *Dirs) setRun(want string, uid int) {
	if want != "" && len(want)+socketRoom <= MaxSocketPath {
		d.run = want
		return
	}
	d.tmp = filepath.Join(tmpRoot, fmt.Sprintf("berth-%d", uid))
	// Sockets of two data folders must not meet in one place, or the sandboxes
	// of two BERTH_HOMEs, or of two values of XDG_DATA_HOME, would mix.
	sum := sha256.Sum256([]byte(d.data))
	d.run = filepath.Join(d.tmp, hex.EncodeToString(sum[:6]))
}

func xdg(env func(string) string, name, fallback string) (string, error) {
	if v := env(name); filepath.IsAbs(v) {
		return filepath.Join(v, "berth"), nil
	}
	home := env("HOME")
	if !filepath.IsAbs(home) {
		return "", sandbox.Errorf(sandbox.ErrPrecondition, "HOME is not set, so there is no place for Berth's data").
			WithHint("set HOME, or BERTH_HOME to a folder for all that Berth keeps")
	}
	return filepath.Join(home, fallback, "berth"), nil
}

// Data is the folder that all persistent state is below.
func (d Dirs) Data() (string, error) { return secure(d.data) }

// Config is the folder of what the user writes: configuration.
func (d Dirs) Config() (string, error) { return secure(d.config) }

// Images is the store of OCI blobs and EROFS files.
func (d Dirs) Images() (string, error) { return d.below("images") }

// Bundles holds one folder for each sandbox.
func (d Dirs) Bundles() (string, error) { return d.below("sandboxes") }

// Templates holds the records of templates and of builds under way.
func (d Dirs) Templates() (string, error) { return d.below("templates") }

// Cache is what can be deleted at any time and is then fetched again.
func (d Dirs) Cache() (string, error) { return d.below("cache") }

// Guest is where the guest's own binary lies, by its hash.
func (d Dirs) Guest() (string, error) { return d.below("guest") }

// Builds keeps the program of each build that a save needs.
func (d Dirs) Builds() (string, error) { return d.below("builds") }

// Audit is the folder of the audit logs, one folder each.
func (d Dirs) Audit() (string, error) { return d.below("audit") }

// Run is the folder of sockets. Its path leaves 40 bytes for a name.
func (d Dirs) Run() (string, error) {
	if d.tmp != "" {
		if err := secureTmp(d.tmp); err != nil {
			return "", err
		}
		return d.run, secureTmp(d.run)
	}
	return secure(d.run)
}

// Socket is the path of a socket named after a sandbox's ID. It makes the
// folder, not the socket.
func (d Dirs) Socket(id string) (string, error) {
	dir, err := d.Run()
	if err != nil {
		return "", err
	}
	p := filepath.Join(dir, id+".sock")
	if len(p) > MaxSocketPath {
		return "", sandbox.Errorf(sandbox.ErrInvalid, "%s is too long for a socket (%d of at most %d bytes)", p, len(p), MaxSocketPath)
	}
	return p, nil
}

func (d Dirs) below(name string) (string, error) {
	data, err := d.Data()
	if err != nil {
		return "", err
	}
	return secure(filepath.Join(data, name))
}

// HostUID is the uid of this process as the namespace around it sees it: 0 in
// the user namespace that Berth makes for root, where Geteuid says 1000.
func HostUID() int {
	data, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return os.Geteuid()
	}
	return mapUID(string(data), os.Geteuid())
}
