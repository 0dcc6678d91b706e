// Package bundle owns one folder for each sandbox: where everything in it
// lies, which process may change it, what it was asked to be, what became of
// it, and its saves. It starts nothing and talks to nobody; what the files of
// an engine or the bytes of a log mean is their owners' business.
//
// A bundle is BUNDLES/NAME, 0700, and holds
//
//	spec.json    what was asked for, the ID, the format version; never changes
//	state.json   the runtime record (State); written by the holder of the lock
//	lock         flock: held by the running supervisor for its whole life
//	gate         flock: held for the moment of trying or probing lock
//	start.lock   flock: held by whoever is starting a supervisor
//	keys/        SSH keys of the wire between the host and this guest, 0600
//	policy.toml  the user's network rules for this sandbox; see policyfile
//	log/         what the agent and the supervisor wrote, bounded
//	save/        the current save; save.prev/ and save.new/ exist only while
//	             it is being replaced, or after that was cut short
//	root/        the engine's file store while it runs
//
// A *Bundle may be used by anybody and only reads. What changes a bundle hangs
// off *Held, which only the process that has the lock can get.
package bundle

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"berth.dev/internal/sandbox"
)

// Format is the version of the layout and of spec.json that this Berth writes,
// and the newest that it reads.
const Format = 1

// Names in a bundle. They are part of the format.
const (
	specFile   = "spec.json"
	stateFile  = "state.json"
	lockFile   = "lock"
	gateFile   = "gate"
	startFile  = "start.lock"
	keysDir    = "keys"
	policyFile = "policy.toml"
	logDir     = "log"
	rootDir    = "root"
	saveDir    = "save"
	prevDir    = "save.prev"
	newDir     = "save.new"
)

// Bundle is one sandbox's folder as it was when it was looked up. Its values
// never change, so it is safe for concurrent use; the folder may be deleted
// beneath it, and every method then says sandbox.ErrNotFound.
type Bundle struct {
	dir string
	rec record
}

// record is the content of spec.json.
type record struct {
	Format  int          `json:"format"`
	ID      string       `json:"id"`
	Created time.Time    `json:"created"`
	Named   bool         `json:"named,omitempty"` // the user chose the name
	Spec    sandbox.Spec `json:"spec"`
}

// Name is the sandbox's name, unique among the sandboxes of a Store.
func (b *Bundle) Name() string { return b.rec.Spec.Name }

// ID is the sandbox's identifier, 12 hex digits, never used twice.
func (b *Bundle) ID() string { return b.rec.ID }

// Created is when the sandbox was made.
func (b *Bundle) Created() time.Time { return b.rec.Created }

// Named reports whether the user chose the name, rather than Berth.
func (b *Bundle) Named() bool { return b.rec.Named }

// Spec is what the sandbox was asked to be, Name included. The caller must not
// change the maps and slices in it.
func (b *Bundle) Spec() sandbox.Spec { return b.rec.Spec }

// Dir is the bundle's folder, absolute.
func (b *Bundle) Dir() string { return b.dir }

// PolicyFile is the path of the sandbox's own network policy. The file need not
// exist; package policyfile reads and changes it under a lock of its own.
func (b *Bundle) PolicyFile() string { return filepath.Join(b.dir, policyFile) }

// RootDir is the folder of the engine's own files while the sandbox runs. It
// exists from the bundle's creation on, 0700; the engine may empty it.
func (b *Bundle) RootDir() string { return filepath.Join(b.dir, rootDir) }

// LogDir is the folder of the logs, 0700.
func (b *Bundle) LogDir() string { return filepath.Join(b.dir, logDir) }

// load reads the bundle in dir. A name that does not match the folder's means
// that somebody moved or copied it, and two bundles would share an identity.
func load(dir string) (*Bundle, error) {
	data, err := os.ReadFile(filepath.Join(dir, specFile))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			if _, derr := os.Lstat(dir); errors.Is(derr, fs.ErrNotExist) {
				return nil, notFound(filepath.Base(dir))
			}
		}
		return nil, broken(dir, err)
	}
	b := &Bundle{dir: dir}
	var version struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(data, &version); err != nil {
		return nil, broken(dir, err)
	}
	if version.Format > Format {
		return nil, sandbox.Errorf(sandbox.ErrPrecondition, "sandbox %s was made by a newer Berth (format %d, this one knows %d)",
			filepath.Base(dir), version.Format, Format).WithHint("use the newer berth")
	}
	if err := json.Unmarshal(data, &b.rec); err != nil {
		return nil, broken(dir, err)
	}
	if b.rec.Format < 1 || b.rec.ID == "" || b.rec.Spec.Name != filepath.Base(dir) {
		return nil, broken(dir, fmt.Errorf("%s does not describe this folder", specFile))
	}
	return b, nil
}

func broken(dir string, cause error) error {
	name := filepath.Base(dir)
	return sandbox.Errorf(sandbox.ErrInternal, "sandbox %s is broken: %w", name, cause).
		WithHint("remove it with: berth rm -f %s", name)
}

func notFound(name string) *sandbox.Error {
	return sandbox.Errorf(sandbox.ErrNotFound, "there is no sandbox %q", name).
		WithHint("see them all with: berth ls -a")
}
