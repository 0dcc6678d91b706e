// Package kernel turns the distribution's kernel package into what a microVM
// boots: the kernel, an initramfs with the modules that stand before the disks,
// and an EROFS file of all others. It knows the forms (bzImage, ELF's modinfo,
// cpio) and runs nothing. What it makes lies in a folder of the host's cache,
// is made once for each version of the package, and may be deleted at any time.
package kernel

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"berth.dev/internal/atomicfile"
	"berth.dev/internal/debian"
	"berth.dev/internal/engine/microvm/bootapi"
	"berth.dev/internal/sandbox"
)

// formVersion counts what is made of the same package; raise it with every
// change of that.
const formVersion = 2

// Names in the folder of a kernel.
const (
	imageFile   = "vmlinux"
	modulesFile = "modules.erofs"
	indexFile   = "modules.json"
	baseDir     = "base"
	currentFile = "current.json"
)

// maxModule bounds a module's file, decompressed; maxImage the kernel's.
const (
	maxModule = 64 << 20
	maxImage  = 256 << 20
)

// Kernel is what a machine boots. All are paths.
type Kernel struct {
	Image, Initrd, Modules string
	Release                string // as uname -r says it
	Package                string // and its version, for people
}

// Store keeps kernels in a folder.
type Store struct {
	// Dir is the store's own; Packages is shared with whoever else unpacks the
	// distribution's packages.
	Dir, Packages string
	// Init is the program that the initramfs starts.
	Init []byte
	// Progress is told what goes on when it takes long; may be nil.
	Progress func(what string, done, total int64)
}

// current says which kernel is used.
type current struct {
	Form    int       `json:"form"`
	Dir     string    `json:"dir"`
	Package string    `json:"package"`
	Release string    `json:"release"`
	Made    time.Time `json:"made"`
}

// Current returns the kernel that is there, or sandbox.ErrNotFound.
func (s Store) Current() (Kernel, error) {
	c, err := s.read()
	if err != nil {
		return Kernel{}, err
	}
	dir := filepath.Join(s.Dir, c.Dir)
	initrd, err := s.initrd(dir)
	if err != nil {
		return Kernel{}, err
	}
	return Kernel{
		Image: filepath.Join(dir, imageFile), Modules: filepath.Join(dir, modulesFile), Initrd: initrd,
		Release: c.Release, Package: c.Package,
	}, nil
}

// read reads which kernel is the current one.
func (s Store) read() (current, error) {
	var c current
	data, err := os.ReadFile(filepath.Join(s.Dir, currentFile))
	if err == nil {
		err = json.Unmarshal(data, &c)
	}
	c.Dir = filepath.Base(c.Dir)
	if err == nil {
		_, err = os.Stat(filepath.Join(s.Dir, c.Dir, indexFile)) // written last
	}
	if err != nil || c.Form != formVersion {
		return c, sandbox.Errorf(sandbox.ErrNotFound, "there is no kernel for microVMs yet")
	}
	return c, nil
}

// Times of the search for a newer kernel: distributions mend theirs every few
// weeks.
const (
	maxAge    = 14 * 24 * time.Hour
	nextTryIn = 24 * time.Hour // after one that did not work
)

// Refresh is Ensure that looks for a newer kernel now and then. When that does
// not work, as without a network, the one that is there serves on.
func (s Store) Refresh(ctx context.Context) error {
	c, err := s.read()
	if err != nil {
		_, err = s.Ensure(ctx)
		return err
	}
	if time.Since(c.Made) < maxAge {
		return nil
	}
	return s.locked(ctx, func() error {
		c, err := s.read() // somebody else may have looked, meanwhile
		if err != nil || time.Since(c.Made) < maxAge {
			return err
		}
		return s.refresh(ctx, c)
	})
}

// refresh looks for a newer kernel than c, which stays when there is none to be
// had.
func (s Store) refresh(ctx context.Context, c current) error {
	if s.fetch(ctx) == nil {
		return nil
	}
	c.Made = time.Now().Add(nextTryIn - maxAge).UTC()
	return s.write(c)
}

// Ensure returns the kernel, fetching it when there is none. Several processes
// may call it at once; one does the work.
func (s Store) Ensure(ctx context.Context) (Kernel, error) {
	if k, err := s.Current(); !errors.Is(err, sandbox.ErrNotFound) {
		return k, err
	}
	err := s.locked(ctx, func() error {
		if _, err := s.read(); err == nil {
			return nil // by somebody else, meanwhile
		}
		return s.fetch(ctx)
	})
	if err != nil {
		return Kernel{}, fmt.Errorf("fetch the kernel for microVMs: %w", err)
	}
	return s.Current()
}

// locked runs f while no other process changes the store.
func (s Store) locked(ctx context.Context, f func() error) error {
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return err
	}
	lock := flock.New(filepath.Join(s.Dir, "lock"), flock.SetPermissions(0o600))
	if _, err := lock.TryLockContext(ctx, 50*time.Millisecond); err != nil {
		return fmt.Errorf("lock the store of kernels: %w", err)
	}
	defer lock.Close()
	return f()
}

func (s Store) write(c current) error {
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(s.Dir, currentFile), append(data, '\n'), 0o600)
}

// What goes on, for people.
const (
	fetching  = "fetching the kernel of microVMs, once"
	unpacking = "unpacking the kernel's modules"
)

// metaPackages name the kernel for virtual machines, by distribution.
var metaPackages = map[string]string{"debian": "linux-image-cloud-amd64", "ubuntu": "linux-image-virtual"}

// fetch gets the newest kernel of the distribution that templates are of, and
// makes it the current one.
func (s Store) fetch(ctx context.Context) error {
	src, err := debian.Detect("/", os.Getenv)
	if err != nil {
		return err
	}
	boot := debian.Bootstrap{CacheDir: s.Packages, Include: []string{metaPackages[src.Distribution]}}
	boot.Progress = func(e debian.Event) { s.report(fetching, e.Done, e.Total) }
	plan, err := boot.Resolve(ctx, src)
	if err != nil {
		return err
	}
	plan = plan.Only(func(p debian.Package) bool {
		return strings.HasPrefix(p.Name, "linux-image-") || strings.HasPrefix(p.Name, "linux-modules-")
	})
	if err := boot.Download(ctx, plan); err != nil {
		return err
	}
	return s.add(ctx, boot, plan)
}

func (s Store) report(what string, done, total int64) {
	if s.Progress != nil {
		s.Progress(what, done, total)
	}
}

// add unpacks a plan's packages into a folder of their own.
func (s Store) add(ctx context.Context, boot debian.Bootstrap, plan debian.Plan) error {
	h := sha256.New()
	fmt.Fprintf(h, "form %d\n", formVersion)
	name := ""
	for _, p := range plan.Packages {
		fmt.Fprintf(h, "%s\n", p.SHA256)
		if name == "" || len(p.Name) > len(name) {
			name = p.Name + " " + p.Version
		}
	}
	dir := filepath.Join(s.Dir, hex.EncodeToString(h.Sum(nil))[:16])
	c := current{Form: formVersion, Dir: filepath.Base(dir), Package: name, Made: time.Now().UTC()}
	old, err := s.read()
	if err == nil && old.Dir == c.Dir {
		c.Release = old.Release // it is still the newest
		return s.write(c)
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(dir, baseDir), 0o700); err != nil {
		return err
	}
	var b builder
	for _, p := range plan.Packages {
		err := boot.Files(ctx, p, func(h *tar.Header, r io.Reader) error { return b.file(h, r) })
		if err != nil {
			return fmt.Errorf("unpack %s: %w", p.Name, err)
		}
	}
	if err := b.write(ctx, dir, s.report); err != nil {
		return err
	}
	c.Release = b.release
	if err := s.write(c); err != nil {
		return err
	}
	s.sweep(c.Dir, old.Dir)
	return nil
}

// sweep removes what no start uses any more, but not the last kernel before this
// one: somebody may be at its start.
func (s Store) sweep(keep ...string) {
	entries, _ := os.ReadDir(s.Dir)
	for _, e := range entries {
		if e.IsDir() && !slices.Contains(keep, e.Name()) {
			_ = os.RemoveAll(filepath.Join(s.Dir, e.Name()))
		}
	}
}

// initrd returns the initramfs for this build's init, making it when need be.
func (s Store) initrd(dir string) (string, error) {
	sum := sha256.Sum256(s.Init)
	file := filepath.Join(dir, "initrd-"+hex.EncodeToString(sum[:8]))
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	index, err := os.ReadFile(filepath.Join(dir, indexFile))
	if err != nil {
		return "", err
	}
	var x bootapi.Index
	if err := json.Unmarshal(index, &x); err != nil {
		return "", err
	}
	a := archive{}
	for _, d := range []string{"dev", "proc", "sys", "base", "modules"} {
		a.folder(d)
	}
	a.console()
	a.file("init", 0o755, s.Init)
	a.file(strings.TrimPrefix(bootapi.ModulesIndex, "/"), 0o644, index)
	for _, name := range x.Base {
		data, err := os.ReadFile(filepath.Join(dir, baseDir, path.Base(name)))
		if err != nil {
			return "", err
		}
		a.file("base/"+path.Base(name), 0o644, data)
	}
	old, _ := filepath.Glob(filepath.Join(dir, "initrd-*"))
	if err := atomicfile.Write(file, a.end(), 0o600); err != nil {
		return "", err
	}
	for _, o := range old { // of builds before this one
		if err := os.Remove(o); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	return file, nil
}

// archive is a cpio archive in the form of the kernel's initramfs (newc).
type archive struct {
	bytes.Buffer
	inode int
}

func (a *archive) folder(name string) { a.entry(name, 0o40755, 0, 0, nil) }

func (a *archive) file(name string, mode int, data []byte) {
	a.entry(name, 0o100000|mode, 0, 0, data)
}

// console is what the first process's output goes to.
func (a *archive) console() { a.entry("dev/console", 0o20600, 5, 1, nil) }

func (a *archive) entry(name string, mode, major, minor int, data []byte) {
	a.inode++
	fmt.Fprintf(a, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		a.inode, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0)
	a.WriteString(name + "\x00")
	a.pad()
	a.Write(data)
	a.pad()
}

func (a *archive) pad() {
	for a.Len()%4 != 0 {
		a.WriteByte(0)
	}
}

// end returns the archive.
func (a *archive) end() []byte {
	a.entry("TRAILER!!!", 0, 0, 0, nil)
	return a.Bytes()
}
