package bundle

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"berth.dev/internal/atomicfile"
	"berth.dev/internal/failpoint"
	"berth.dev/internal/sandbox"
)

// metaFile is written last, so a save that has a valid one is whole.
const metaFile = "meta.json"

// Meta describes one save.
type Meta struct {
	Format int `json:"format"` // of this file and the save's layout
	// Engine and EngineBuild are who wrote the engine's files in it, and Berth
	// the version of Berth that did.
	Engine      string    `json:"engine"`
	EngineBuild string    `json:"engine_build"`
	Berth       string    `json:"berth"`
	Created     time.Time `json:"created"`
	// Extra is the writer's own, by its own keys.
	Extra map[string]string `json:"extra,omitempty"`
	// Files are all files of the save but the meta file; CommitSave fills it in.
	Files []SaveFile `json:"files"`
}

// SaveFile is one file of a save.
type SaveFile struct {
	Path string `json:"path"` // relative to the save's folder
	Size int64  `json:"size"` // bytes
}

// Size is what the save takes on disk, in bytes.
func (m Meta) Size() int64 {
	var n int64
	for _, f := range m.Files {
		n += f.Size
	}
	return n
}

// BeginSave returns an empty folder, 0700, to write a save into. The current
// save is untouched until CommitSave. What an earlier BeginSave left goes.
func (h *Held) BeginSave() (dir string, err error) {
	// Decide first what an interrupted commit meant: what lies in save.new may
	// be the only whole save there is.
	h.recoverSaves()
	dir = filepath.Join(h.dir, newDir)
	if _, err := readMeta(dir); err == nil {
		return "", sandbox.Errorf(sandbox.ErrUnavailable, "sandbox %s: cannot put its last save in place", h.Name()).
			WithHint("look at %s: Berth must be able to write there", h.dir)
	}
	if err := removeTree(dir); err != nil {
		return "", fmt.Errorf("clear unfinished save: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", diskError("begin save", err)
	}
	return dir, nil
}

// AbortSave drops what was written since BeginSave.
func (h *Held) AbortSave() error { return removeTree(filepath.Join(h.dir, newDir)) }

// CommitSave makes what was written since BeginSave the current save. When it
// returns nil the save is durable and the previous one is gone; on an error,
// and at any crash, there is one whole save as long as there ever was one, and
// CurrentSave finds it. It sets meta's Format, Files and (when zero) Created.
func (h *Held) CommitSave(meta Meta) error {
	fresh := filepath.Join(h.dir, newDir)
	if err := seal(fresh, &meta); err != nil {
		return err
	}
	if err := failpoint.Hit("bundle.save.sealed"); err != nil {
		return err
	}
	return h.rotate()
}

// seal makes the files of a save durable, then writes its meta file.
func seal(dir string, meta *Meta) error {
	files, err := syncTree(dir)
	if err != nil {
		return diskError("finish save", err)
	}
	if err := failpoint.Hit("bundle.save.synced"); err != nil {
		return err
	}
	meta.Format, meta.Files = Format, files
	if meta.Created.IsZero() {
		meta.Created = time.Now().UTC()
	}
	data, err := json.MarshalIndent(meta, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", metaFile, err)
	}
	if err := atomicfile.Write(filepath.Join(dir, metaFile), append(data, '\n'), 0o600); err != nil {
		return diskError("finish save", err)
	}
	return nil
}

// rotate puts a sealed save.new in the place of save. The order is what the
// promise rests on: between any two steps one of save, save.new and save.prev
// is whole, and readSaves can tell which one is the newest.
func (h *Held) rotate() error {
	cur, prev, fresh := filepath.Join(h.dir, saveDir), filepath.Join(h.dir, prevDir), filepath.Join(h.dir, newDir)
	// Only left by a crash after the last rename below, when save was whole.
	if err := removeTree(prev); err != nil {
		return fmt.Errorf("remove previous save: %w", err)
	}
	if err := os.Rename(cur, prev); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return diskError("rotate saves", err)
	}
	if err := failpoint.Hit("bundle.save.moved-old"); err != nil {
		return err
	}
	if err := os.Rename(fresh, cur); err != nil {
		return diskError("rotate saves", err)
	}
	if err := failpoint.Hit("bundle.save.moved-new"); err != nil {
		return err
	}
	// The store's folder too: a sandbox whose entry there a power cut takes back
	// is lost however durable its saves are.
	if err := errors.Join(atomicfile.SyncDir(h.dir), atomicfile.SyncDir(filepath.Dir(h.dir))); err != nil {
		return diskError("rotate saves", err)
	}
	if err := failpoint.Hit("bundle.save.rotated"); err != nil {
		return err
	}
	if err := removeTree(prev); err != nil {
		return fmt.Errorf("remove previous save: %w", err)
	}
	return nil
}

// CurrentSave returns the folder of the newest whole save and what it is,
// after finishing or undoing a commit that was cut short. It is
// sandbox.ErrNotFound when the sandbox was never saved, and another error when
// there is a save that this Berth cannot use: starting without it would lose
// it at the next CommitSave. The folder stays as it is until then.
func (h *Held) CurrentSave() (dir string, meta Meta, err error) {
	h.recoverSaves()
	dir = filepath.Join(h.dir, saveDir)
	meta, err = readMeta(dir)
	if err == nil {
		return dir, meta, nil
	}
	if _, serr := os.Lstat(dir); errors.Is(serr, fs.ErrNotExist) {
		return "", Meta{}, sandbox.Errorf(sandbox.ErrNotFound, "sandbox %s was never saved", h.Name())
	}
	if sandbox.ClassOf(err) == sandbox.ErrPrecondition {
		return "", Meta{}, err
	}
	return "", Meta{}, sandbox.Errorf(sandbox.ErrInternal, "the save of sandbox %s is damaged: %w", h.Name(), err).
		WithHint("remove the sandbox with: berth rm %s; or move %s away to start from its template", h.Name(), dir)
}

// recoverSaves brings the newest whole save to its place. It removes nothing
// but what a whole save replaces, and on an error leaves things for next time.
func (h *Held) recoverSaves() {
	cur, prev, fresh := filepath.Join(h.dir, saveDir), filepath.Join(h.dir, prevDir), filepath.Join(h.dir, newDir)
	if _, err := readMeta(fresh); err == nil {
		// Sealed, so its writer was in CommitSave: finish what it began. A whole
		// save.prev beside a missing save is the one that it replaces.
		if _, err := os.Lstat(cur); err != nil {
			if os.Rename(fresh, cur) != nil || atomicfile.SyncDir(h.dir) != nil {
				return
			}
			_ = removeTree(prev)
		} else {
			_ = h.rotate()
		}
		return
	}
	_, curErr := readMeta(cur)
	_, prevErr := readMeta(prev)
	switch {
	case curErr == nil:
		_ = removeTree(prev)
	case prevErr == nil && !errors.Is(curErr, sandbox.ErrPrecondition): // a newer Berth's is not ours to drop
		if removeTree(cur) == nil && os.Rename(prev, cur) == nil {
			_ = atomicfile.SyncDir(h.dir)
		}
	}
}

// LastSave describes the newest whole save without changing anything, for
// those who do not hold the bundle.
func (b *Bundle) LastSave() (Meta, bool) {
	// In the order of age, newest first. A commit that goes on meanwhile moves
	// each save to an older place, so one look in this order misses none...
	for range 3 {
		for _, name := range []string{newDir, saveDir, prevDir} {
			if meta, err := readMeta(filepath.Join(b.dir, name)); err == nil {
				return meta, true
			}
		}
		// ...except for one that was moved while it was being looked at.
	}
	return Meta{}, false
}

// readMeta reads a save's meta file and holds the files against it.
func readMeta(dir string) (Meta, error) {
	var meta Meta
	data, err := os.ReadFile(filepath.Join(dir, metaFile))
	if err != nil {
		return meta, err
	}
	if err := json.Unmarshal(data, &meta); err != nil {
		return meta, fmt.Errorf("read %s: %w", metaFile, err)
	}
	if meta.Format < 1 || meta.Format > Format {
		return meta, sandbox.Errorf(sandbox.ErrPrecondition, "the save in %s has format %d, this Berth knows %d", dir, meta.Format, Format)
	}
	for _, f := range meta.Files {
		info, err := os.Lstat(filepath.Join(dir, f.Path))
		if err != nil {
			return meta, fmt.Errorf("save in %s: %w", dir, err)
		}
		if !info.Mode().IsRegular() || info.Size() != f.Size {
			return meta, fmt.Errorf("save in %s: %s is damaged", dir, f.Path)
		}
	}
	return meta, nil
}

// syncTree makes every file and folder below dir durable and lists the files.
func syncTree(dir string) ([]SaveFile, error) {
	files := []SaveFile{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return atomicfile.SyncDir(path)
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if !d.Type().IsRegular() {
			return fmt.Errorf("save: %s is not a regular file", rel)
		}
		size, err := syncFile(path)
		if err == nil && rel != metaFile {
			files = append(files, SaveFile{Path: rel, Size: size})
		}
		return err
	})
	return files, err
}

func syncFile(path string) (size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}
