package enginetest

import (
	"archive/tar"
	"encoding/json"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"berth.dev/internal/engine"
)

// node is one file of a tree.
type node struct {
	Mode     uint32 // as in stat(2), with the type
	UID, GID int
	Size     int64
	Data     string // "" when only the size is kept
	lower    bool   // the image's, unchanged
}

// tree is a guest's files: those in memory, and the mounts of the host's.
type tree struct {
	Nodes   map[string]*node
	Removed map[string]bool
	cfg     engine.Config
}

func newTree(cfg engine.Config) *tree {
	return &tree{Nodes: map[string]*node{}, Removed: map[string]bool{}, cfg: cfg}
}

func unixMode(m fs.FileMode) uint32 {
	mode := uint32(m.Perm()) | syscall.S_IFREG
	if m.IsDir() {
		mode = uint32(m.Perm()) | syscall.S_IFDIR
	}
	return mode
}

// place is where a guest's path really is.
type place struct {
	node     string // key of Nodes, when host is ""
	host     string
	readOnly bool
}

// find resolves a path as the guest's kernel would: a link in a workspace is
// followed inside the guest, never on the host.
func (t *tree) find(path string) (place, error) {
	for range 8 {
		path = filepath.Clean(path)
		p := t.at(path)
		if p.host == "" {
			return p, nil
		}
		to, err := os.Readlink(p.host)
		if err != nil {
			return p, nil
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(filepath.Dir(path), to)
		}
		path = to
	}
	return place{}, syscall.ELOOP
}

func (t *tree) at(path string) place {
	for _, m := range slices.Backward(t.cfg.Mounts) {
		if path == m.Guest || strings.HasPrefix(path, m.Guest+"/") {
			return place{host: m.Host + strings.TrimPrefix(path, m.Guest), readOnly: m.ReadOnly}
		}
	}
	for _, l := range t.cfg.Layers {
		if path == l.Guest || strings.HasPrefix(path, l.Guest+"/") {
			return place{node: path, readOnly: true}
		}
	}
	return place{node: path}
}

func (t *tree) read(path string) (string, error) {
	p, err := t.find(path)
	if err != nil {
		return "", err
	}
	if p.host != "" {
		data, err := os.ReadFile(p.host)
		return string(data), err
	}
	n := t.Nodes[p.node]
	switch {
	case n == nil:
		return "", syscall.ENOENT
	case n.Mode&syscall.S_IFMT == syscall.S_IFDIR:
		return "", syscall.EISDIR
	}
	return n.Data, nil
}

// writable is find for what is about to be changed.
func (t *tree) writable(path string) (place, error) {
	p, err := t.find(path)
	if err == nil && p.readOnly {
		err = syscall.EROFS
	}
	return p, err
}

func (t *tree) write(path, data string, size int64, mode uint32, uid int) error {
	p, err := t.writable(path)
	if err != nil {
		return err
	}
	if p.host != "" {
		if mode&(syscall.S_ISUID|syscall.S_ISGID) != 0 {
			return syscall.EPERM
		}
		return os.WriteFile(p.host, []byte(data), fs.FileMode(mode))
	}
	if max := t.cfg.Resources.Disk; max > 0 && t.used()+size > max {
		return syscall.ENOSPC
	}
	t.Nodes[p.node] = &node{Mode: mode | syscall.S_IFREG, UID: uid, GID: uid, Size: size, Data: data}
	return nil
}

func (t *tree) used() (n int64) {
	for _, f := range t.Nodes {
		if !f.lower {
			n += f.Size
		}
	}
	return n
}

func (t *tree) mkdir(path string, uid int) error {
	p, err := t.writable(path)
	if err != nil {
		return err
	}
	if p.host != "" {
		return os.MkdirAll(p.host, 0o755)
	}
	t.Nodes[p.node] = &node{Mode: 0o755 | syscall.S_IFDIR, UID: uid, GID: uid}
	return nil
}

func (t *tree) remove(path string) error {
	p, err := t.writable(path)
	if err != nil {
		return err
	}
	if p.host != "" {
		return os.Remove(p.host)
	}
	if t.Nodes[p.node] == nil {
		return syscall.ENOENT
	}
	delete(t.Nodes, p.node)
	t.Removed[p.node] = true
	return nil
}

func (t *tree) chmod(path string, mode uint32) error {
	p, err := t.writable(path)
	if err != nil {
		return err
	}
	if p.host != "" {
		if mode&(syscall.S_ISUID|syscall.S_ISGID) != 0 {
			return syscall.EPERM
		}
		return os.Chmod(p.host, fs.FileMode(mode))
	}
	n := t.Nodes[p.node]
	if n == nil {
		return syscall.ENOENT
	}
	n.Mode, n.lower = n.Mode&syscall.S_IFMT|mode, false
	return nil
}

// chown changes who owns a file of the guest's own; in a workspace it succeeds
// and does nothing.
func (t *tree) chown(path string, uid int) error {
	p, err := t.writable(path)
	if err != nil || p.host != "" {
		return err
	}
	n := t.Nodes[p.node]
	if n == nil {
		return syscall.ENOENT
	}
	n.UID, n.GID, n.lower = uid, uid, false
	return nil
}

func (t *tree) list(path string) []string {
	if path == "/proc" {
		return []string{"1", "self"}
	}
	var names []string
	for name := range t.Nodes {
		if filepath.Dir(name) == path && name != path {
			names = append(names, filepath.Base(name))
		}
	}
	slices.Sort(names)
	return names
}

// kept reports whether a path's content is part of a save.
func (t *tree) kept(path string) bool {
	for _, f := range t.cfg.Tmpfs {
		if path == f.Guest || strings.HasPrefix(path, f.Guest+"/") {
			return f.Keep
		}
	}
	return true
}

const savedFile = "tree.json"

func (t *tree) save(dir string) error {
	out := newTree(engine.Config{})
	for name, n := range t.Nodes {
		if !n.lower && t.kept(name) {
			out.Nodes[name] = n
		}
	}
	out.Removed = t.Removed
	data, err := json.Marshal(out)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, savedFile), data, 0o600)
}

func (t *tree) restore(dir string) error {
	data, err := os.ReadFile(filepath.Join(dir, savedFile))
	if err != nil {
		return err
	}
	var saved tree
	if err := json.Unmarshal(data, &saved); err != nil {
		return err
	}
	maps.Copy(t.Nodes, saved.Nodes)
	for name := range saved.Removed {
		delete(t.Nodes, name)
	}
	t.Removed = saved.Removed
	return nil
}

func (t *tree) writeLayer(w io.Writer) error {
	tw := tar.NewWriter(w)
	for _, name := range slices.Sorted(maps.Keys(t.Nodes)) {
		n := t.Nodes[name]
		if n.lower {
			continue
		}
		h := &tar.Header{Name: strings.TrimPrefix(name, "/"), Mode: int64(n.Mode & 0o7777), Uid: n.UID, Gid: n.GID, Typeflag: tar.TypeReg, Size: int64(len(n.Data))}
		if n.Mode&syscall.S_IFMT == syscall.S_IFDIR {
			h.Typeflag = tar.TypeDir
		}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.WriteString(tw, n.Data); err != nil {
			return err
		}
	}
	for name := range t.Removed {
		h := &tar.Header{Name: filepath.Join(filepath.Dir(name)[1:], ".wh."+filepath.Base(name)), Mode: 0o600}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
	}
	return tw.Close()
}
