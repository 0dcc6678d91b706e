package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	reader "gvisor.dev/gvisor/pkg/erofs"

	"berth.dev/internal/image/erofs"
	"berth.dev/internal/sandbox"
)

// ent is one tar entry of a test.
type ent struct {
	h    tar.Header
	data string
}

var epoch = time.Unix(1_700_000_000, 123456789)

func dirEnt(name string) ent {
	return ent{h: tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755}}
}
func fileEnt(name, data string) ent {
	return ent{h: tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(data))}, data: data}
}
func linkEnt(name, target string) ent {
	return ent{h: tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target}}
}
func symEnt(name, target string) ent {
	return ent{h: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}}
}
func xattrEnt(e ent, name, value string) ent {
	e.h.PAXRecords = map[string]string{"SCHILY.xattr." + name: value}
	return e
}
func whiteoutDev(name string) ent {
	return ent{h: tar.Header{Typeflag: tar.TypeChar, Name: name}}
}

func tarOf(t testing.TB, ents ...ent) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range ents {
		h := e.h
		if h.Typeflag != tar.TypeXGlobalHeader {
			h.Format = tar.FormatPAX
			if h.ModTime.IsZero() {
				h.ModTime = epoch
			}
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipped(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, err := w.Write(b)
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zstded(t testing.TB, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return w.EncodeAll(b, nil)
}

func openStore(t testing.TB, opts ...Option) *Store {
	t.Helper()
	return openAt(t, filepath.Join(t.TempDir(), "images"), opts...)
}

func openAt(t testing.TB, dir string, opts ...Option) *Store {
	t.Helper()
	s, err := Open(dir, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func addLayer(t testing.TB, s *Store, opts LayerOptions, ents ...ent) Layer {
	t.Helper()
	l, err := s.AddLayer(t.Context(), bytes.NewReader(tarOf(t, ents...)), opts)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func commit(t testing.TB, s *Store, ref string, base *Image, layers ...Layer) Image {
	t.Helper()
	img, err := s.Commit(t.Context(), ref, base, layers, Config{})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func rootOf(t testing.TB, s *Store, img Image) Rootfs {
	t.Helper()
	r, err := s.Root(t.Context(), img, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// merged returns the listing of the image that the layers make.
func merged(t testing.TB, layers ...[]ent) map[string]string {
	t.Helper()
	s := openStore(t)
	var ls []Layer
	for _, ents := range layers {
		ls = append(ls, addLayer(t, s, LayerOptions{}, ents...))
	}
	return list(t, rootOf(t, s, commit(t, s, "test", nil, ls...)).Root)
}

// list reads an EROFS file with gVisor's reader: every path with what is there.
// Hard links show the first of their names.
func list(t testing.TB, file string) map[string]string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	img, err := reader.OpenImage(f)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	out, first := map[string]string{}, map[uint64]string{}
	if err := walkImage(img, img.RootNid(), "", out, first); err != nil {
		t.Fatal(err)
	}
	return out
}

func walkImage(img *reader.Image, nid uint64, path string, out map[string]string, first map[uint64]string) error {
	n, err := img.Inode(nid)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	key := path
	if path == "" {
		key = "/"
	}
	if old, ok := first[nid]; ok {
		out[key] = "link " + old
		return nil
	}
	first[nid] = key
	desc := fmt.Sprintf("%o %d:%d", n.Mode()&0o7777, n.UID(), n.GID())
	switch n.Mode() & erofs.TypeMask {
	case erofs.TypeDir:
		out[key] = "dir " + desc
		var names []string
		nids := map[string]uint64{}
		err := n.IterDirents(func(name string, _ uint8, nid uint64) error {
			if name != "." && name != ".." {
				names, nids[name] = append(names, name), nid
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		sort.Strings(names)
		for _, name := range names {
			if err := walkImage(img, nids[name], path+"/"+name, out, first); err != nil {
				return err
			}
		}
	case erofs.TypeRegular:
		off, err := n.DataOffset()
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		var b []byte
		if n.Size() > 0 {
			if b, err = img.BytesAt(off, n.Size()); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
		}
		if len(b) > 40 {
			b = []byte(fmt.Sprintf("%d bytes %s", len(b), short(digestOf(b))))
		}
		out[key] = fmt.Sprintf("file %s %s", desc, b)
	case erofs.TypeSymlink:
		s, err := n.Readlink()
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		out[key] = "-> " + s
	default:
		out[key] = fmt.Sprintf("%o %s", n.Mode()&erofs.TypeMask, desc)
	}
	return nil
}

// want compares listings; dirs that are 0755 root are left out of both.
func want(t testing.TB, got map[string]string, lines ...string) {
	t.Helper()
	var have []string
	for k, v := range got {
		if v != "dir 755 0:0" {
			have = append(have, k+" "+v)
		}
	}
	slices.Sort(have)
	slices.Sort(lines)
	if g, w := strings.Join(have, "\n"), strings.Join(lines, "\n"); g != w {
		t.Errorf("got:\n%s\nwant:\n%s", g, w)
	}
}

// snapshot lists what a store holds, its locks and empty work folder left out.
func snapshot(t testing.TB, dir string) string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		skip := rel == "lock" || strings.HasPrefix(rel, "locks/") || (strings.HasPrefix(rel, "work/") && (d.IsDir() || d.Name() == sessionLock))
		if skip {
			return nil
		}
		line := rel
		if !d.IsDir() {
			info, err := d.Info()
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %v %d", info.Mode(), info.Size())
		}
		out = append(out, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(out, "\n")
}

// refused asserts that an error is a refusal that names the layer and the entry,
// and says why.
func refused(t testing.TB, err error, entry, why string) {
	t.Helper()
	var le *LayerError
	if !errors.As(err, &le) || !errors.Is(err, sandbox.ErrInvalid) {
		t.Fatalf("got %v, want a refused layer", err)
	}
	if le.Layer == "" || le.Entry != entry || !strings.Contains(err.Error(), le.Layer) {
		t.Errorf("blames layer %q entry %q in %q; want entry %q", le.Layer, le.Entry, err, entry)
	}
	if entry != "" && !strings.Contains(err.Error(), fmt.Sprintf("%q", entry)) {
		t.Errorf("%q does not name the entry %q", err, entry)
	}
	if !strings.Contains(err.Error(), why) {
		t.Errorf("%q does not say %q", err, why)
	}
	if sandbox.HintOf(err) == "" {
		t.Errorf("%q has no hint", err)
	}
}

// pack is an image archive in the making.
type pack struct {
	t     testing.TB
	files []ent
}

func (p *pack) file(name string, b []byte) { p.files = append(p.files, fileEnt(name, string(b))) }

func (p *pack) blob(media string, b []byte) descriptor {
	d := digestOf(b)
	for _, f := range p.files {
		if strings.HasSuffix(f.h.Name, strings.TrimPrefix(d, digestPrefix)) {
			return descriptor{MediaType: media, Digest: d, Size: int64(len(b))}
		}
	}
	p.file("blobs/sha256/"+strings.TrimPrefix(d, digestPrefix), b)
	return descriptor{MediaType: media, Digest: d, Size: int64(len(b))}
}

func (p *pack) json(media string, v any) descriptor {
	b, err := json.Marshal(v)
	if err != nil {
		p.t.Fatal(err)
	}
	return p.blob(media, b)
}

// save writes the archive and returns its path.
func (p *pack) save(wrap func(testing.TB, []byte) []byte) string {
	p.t.Helper()
	b := tarOf(p.t, p.files...)
	if wrap != nil {
		b = wrap(p.t, b)
	}
	path := filepath.Join(p.t.TempDir(), "archive.tar")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		p.t.Fatal(err)
	}
	return path
}

// blobOf is a layer for an archive: its blob and the tar inside.
type blobOf struct {
	blob, plain []byte
	media       string
	mount       string
}

func configOf(layers []blobOf) imageConfig {
	var c imageConfig
	c.OS, c.Created = "linux", &epoch
	c.Config.Env = []string{"PATH=/bin"}
	c.Config.Labels = map[string]string{"k": "v"}
	c.RootFS.Type = "layers"
	for i, l := range layers {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, digestOf(l.plain))
		c.History = append(c.History, history{CreatedBy: fmt.Sprintf("step %d", i)})
	}
	return c
}

// ociImage adds an image to the archive and returns the manifest's descriptor.
func (p *pack) ociImage(layers ...blobOf) descriptor {
	m := manifest{SchemaVersion: 2, MediaType: mediaManifest}
	for _, l := range layers {
		media := l.media
		if media == "" {
			media = "application/vnd.oci.image.layer.v1.tar"
		}
		d := p.blob(media, l.blob)
		if l.mount != "" {
			d.Annotations = map[string]string{MountAnnotation: l.mount}
		}
		m.Layers = append(m.Layers, d)
	}
	m.Config = p.json(mediaConfig, configOf(layers))
	return p.json(mediaManifest, m)
}

func (p *pack) index(ds ...descriptor) {
	b, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": ds})
	if err != nil {
		p.t.Fatal(err)
	}
	p.file("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	p.file("index.json", b)
}

// named gives a descriptor an image name.
func named(d descriptor, name string) descriptor {
	d.Annotations = map[string]string{annotationContainerd: name}
	return d
}

// ociFile is an OCI archive with one image called docker.io/library/test:latest.
func ociFile(t testing.TB, layers ...blobOf) string {
	p := &pack{t: t}
	p.index(named(p.ociImage(layers...), "test"))
	return p.save(nil)
}

// dockerFile is an archive as docker save wrote it for ten years.
func dockerFile(t testing.TB, tag string, layers ...blobOf) string {
	p := &pack{t: t}
	b, err := json.Marshal(configOf(layers))
	if err != nil {
		t.Fatal(err)
	}
	hex := strings.TrimPrefix(digestOf(b), digestPrefix)
	var names []string
	for i, l := range layers {
		name := fmt.Sprintf("%d/layer.tar", i)
		p.file(name, l.blob)
		names = append(names, name)
	}
	p.file(hex+".json", b)
	m, err := json.Marshal([]map[string]any{{"Config": hex + ".json", "RepoTags": []string{tag}, "Layers": names}})
	if err != nil {
		t.Fatal(err)
	}
	p.file("manifest.json", m)
	return p.save(nil)
}

func plainBlob(b []byte) blobOf { return blobOf{blob: b, plain: b} }

func importOK(t testing.TB, s *Store, path string) Image {
	t.Helper()
	imgs, err := s.Import(context.Background(), path, ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(imgs) != 1 {
		t.Fatalf("got %d images", len(imgs))
	}
	return imgs[0]
}
