package image

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	"github.com/gofrs/flock"

	"berth.dev/internal/image/erofs"
)

// Progress is told how many of how many bytes are done. It is called often, from
// one goroutine at a time.
type Progress func(done, total int64)

// Rootfs is what a sandbox mounts of an image.
type Rootfs struct {
	Root   string       // EROFS file of the root
	Mounts []AgentMount // to be mounted over it, read-only; sorted by folder
	// Xattrs are the extended attributes of the files in Root and Mounts. EROFS
	// as gVisor reads it has none; an engine that can set them on the writable
	// layer may do so.
	Xattrs []Xattr
}

// AgentMount is one more file system, that of a layer with MountAnnotation.
type AgentMount struct {
	File string // EROFS file; its root is the folder's content
	Dir  string // absolute path in the guest
}

// Xattr is one extended attribute.
type Xattr struct {
	Path  string `json:"path"` // absolute, in the guest
	Name  string `json:"name"`
	Value []byte `json:"value"`
}

// Root makes sure that an image's EROFS files exist and returns them. Images
// that share all their merged layers share the file. Processes that ask at once
// wait for the one that builds; ctx ends the wait as well as the work. The image
// is kept until Close, whatever GC is told. progress may be nil.
func (s *Store) Root(ctx context.Context, img Image, progress Progress) (Rootfs, error) {
	t, err := s.stage()
	if err != nil {
		return Rootfs{}, hostError(err)
	}
	hex, err := hexOf(img.Digest)
	if err != nil {
		return Rootfs{}, err
	}
	if _, err := t.have(pinImage, hex, s.blobPath(hex)); err != nil {
		return Rootfs{}, hostError(err)
	}
	// What the store says counts, not what the caller has made of it.
	stored, err := s.load(img.Digest)
	if err != nil {
		t.abort()
		return Rootfs{}, err
	}
	r, err := t.root(ctx, &stored, progress)
	if err != nil {
		t.abort()
		return Rootfs{}, hostError(fmt.Errorf("prepare image %s: %w", short(img.Digest), err))
	}
	return r, nil
}

func (t *stage) root(ctx context.Context, img *Image, progress Progress) (Rootfs, error) {
	var r Rootfs
	for _, mount := range img.mounts() {
		hex, err := hexOf(chainID(img.diffIDsAt(mount)))
		if err != nil {
			return Rootfs{}, err
		}
		if err := t.build(ctx, img, mount, hex, progress); err != nil {
			return Rootfs{}, err
		}
		xattrs, err := readXattrs(t.s.xattrPath(hex))
		if err != nil {
			return Rootfs{}, err
		}
		for _, x := range xattrs {
			x.Path = path.Join("/", mount, x.Path)
			r.Xattrs = append(r.Xattrs, x)
		}
		if mount == "" {
			r.Root = t.s.erofsPath(hex)
		} else {
			r.Mounts = append(r.Mounts, AgentMount{File: t.s.erofsPath(hex), Dir: mount})
		}
	}
	return r, nil
}

// buildPoll is how often somebody who waits for another process's build looks
// whether the user has given up.
const buildPoll = 20 * time.Millisecond

// build makes one EROFS file, unless it is there or another process makes it.
func (t *stage) build(ctx context.Context, img *Image, mount, hex string, progress Progress) error {
	done := func() (bool, error) { return exists(t.s.erofsPath(hex)) }
	if ok, err := done(); ok || err != nil {
		return err
	}
	// Locks are shared by files with the same first digits, so that they need
	// never be deleted (deleting a lock that somebody waits for is a race).
	l := flock.New(filepath.Join(t.s.dir, "locks", hex[:2]), flock.SetPermissions(0o600))
	if ok, err := l.TryLockContext(ctx, buildPoll); err != nil || !ok {
		return errors.Join(ctx.Err(), err)
	}
	defer l.Close()
	if ok, err := done(); ok || err != nil {
		return err
	}
	tr, err := t.merge(ctx, img, mount)
	if err != nil {
		return err
	}
	f, err := t.w.temp("erofs")
	if err != nil {
		return err
	}
	if err := t.writeRoot(ctx, f, img, mount, hex, tr, progress); err != nil {
		discard(f)
		return err
	}
	// The attributes first: whoever finds the file reads them.
	if err := t.addXattrs(t.s.xattrPath(hex), tr.top()); err != nil {
		discard(f)
		return err
	}
	if err := t.add(f, t.s.erofsPath(hex)); err != nil {
		return err
	}
	return t.commit()
}

func (t *stage) writeRoot(ctx context.Context, f *os.File, img *Image, mount, id string, tr *tree, progress Progress) error {
	w := erofs.NewWriter(f)
	if _, err := hex.Decode(w.UUID[:], []byte(id[:2*len(w.UUID)])); err != nil {
		return err
	}
	c := contents{ctx: ctx, w: w, progress: progress}
	c.find(tr.top())
	number := 0
	for _, l := range img.Layers {
		if l.Mount != mount {
			continue
		}
		if err := c.copyLayer(t.s, l, int32(number)); err != nil {
			return err
		}
		number++
	}
	return w.Finish(erofsTree(tr.top(), map[*node]*erofs.Inode{}))
}

// erofsTree hands the tree over to the writer. made keeps hard links together.
func erofsTree(n *node, made map[*node]*erofs.Inode) *erofs.Inode {
	if in := made[n]; in != nil {
		return in
	}
	in := &n.Inode
	made[n] = in
	for name, c := range n.children {
		in.Children = append(in.Children, erofs.Dirent{Name: name, Inode: erofsTree(c, made)})
	}
	return in
}

// addXattrs stages the file that lists the extended attributes of a tree.
func (t *stage) addXattrs(file string, top *node) error {
	list := []Xattr{}
	var walk func(n *node, at string)
	walk = func(n *node, at string) {
		for _, x := range n.xattrs {
			list = append(list, Xattr{Path: at, Name: x.Name, Value: []byte(x.Value)})
		}
		for _, name := range slices.Sorted(maps.Keys(n.children)) {
			walk(n.children[name], path.Join(at, name))
		}
	}
	walk(top, "/")
	f, err := t.w.temp("xattrs")
	if err != nil {
		return err
	}
	if err := json.NewEncoder(f).Encode(list); err != nil {
		discard(f)
		return err
	}
	return t.add(f, file)
}

func readXattrs(file string) ([]Xattr, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var list []Xattr
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	return list, nil
}
