package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"berth.dev/internal/sandbox"
)

// ImportOptions say how Import works.
type ImportOptions struct {
	// Ref is the name for the image, instead of what the archive says. The
	// archive must then have exactly one image.
	Ref string
	// Progress is told the bytes of layers that were read; may be nil.
	Progress Progress
}

// Import reads the images in an archive: the tar of an OCI image layout, or what
// docker save or podman save write, as a whole plain or compressed with gzip or
// zstd, and each layer likewise. Of an image for several platforms the one for
// this machine is taken. Every digest is verified, every layer checked as by
// AddLayer and all layers of an image together as by Commit. It is all or
// nothing: after an error the store is what it was, and what was refused is
// sandbox.ErrInvalid, with a *LayerError when a layer was at fault.
func (s *Store) Import(ctx context.Context, path string, opts ImportOptions) ([]Image, error) {
	if opts.Ref != "" {
		if err := checkRef(opts.Ref); err != nil {
			return nil, err
		}
	}
	t, err := s.stage()
	if err != nil {
		return nil, hostError(err)
	}
	defer t.abort() // the names hold it when all went well
	f, closeFile, err := t.openFile(ctx, path)
	if err != nil {
		return nil, importError(ctx, path, err)
	}
	defer closeFile()
	st, err := f.Stat()
	if err != nil {
		return nil, importError(ctx, path, err)
	}
	digests, err := t.importArchive(ctx, f, st.Size(), opts)
	if err != nil {
		return nil, importError(ctx, path, err)
	}
	var out []Image
	for _, d := range digests {
		img, err := s.load(d)
		if err != nil {
			return nil, err
		}
		out = append(out, img)
	}
	return out, nil
}

// importError adds the file's name, and the class of a fault in the file to
// what has no other.
func importError(ctx context.Context, path string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	err = hostError(err)
	var se *sandbox.Error
	if errors.As(err, &se) {
		return sandbox.Errorf(se.Class, "import %s: %w", path, err).WithHint("%s", sandbox.HintOf(err))
	}
	return sandbox.Errorf(sandbox.ErrInvalid, "import %s: %w", path, err).
		WithHint("the file must be an OCI image layout or what `docker save` writes, whole and undamaged")
}

// found is one image of an archive.
type found struct {
	manifest []byte // nil for docker save's own format, which has none
	config   []byte
	refs     []string
	layers   []source
}

// source is where a layer's blob lies in the archive.
type source struct {
	m  member
	ok bool // false: not in the archive, so the store must have it
}

// importArchive stages and publishes all images of an archive, and returns the
// digests of their manifests.
func (t *stage) importArchive(ctx context.Context, r io.ReaderAt, size int64, opts ImportOptions) ([]string, error) {
	a, err := openArchive(ctx, r, size, &t.s.limits)
	if err != nil {
		return nil, err
	}
	images, err := a.images(&t.s.limits)
	if err != nil {
		return nil, err
	}
	refs, err := nameImages(images, opts.Ref)
	if err != nil {
		return nil, err
	}
	p := &importProgress{report: opts.Progress}
	for _, im := range images {
		for _, l := range im.layers {
			p.total += l.m.size
		}
	}
	names, digests := map[string]string{}, []string{}
	for i, im := range images {
		img, err := t.importImage(ctx, a, im, p)
		if err != nil {
			return nil, err
		}
		for _, ref := range refs[i] {
			names[ref] = img.Digest
		}
		if !slices.Contains(digests, img.Digest) {
			digests = append(digests, img.Digest)
		}
	}
	return digests, t.publish(names)
}

// images lists the images of an archive of either kind. Docker writes archives
// that are both; then the OCI part is read, because it has more digests.
func (a *archive) images(l *Limits) ([]found, error) {
	switch {
	case a.has("oci-layout") && a.has("index.json"):
		return a.ociImages(l)
	case a.has("manifest.json"):
		return a.dockerImages(l)
	}
	return nil, errors.New("the archive has neither the index.json of an OCI image layout nor the manifest.json of docker save")
}

// nameImages returns the names for each image.
func nameImages(images []found, ref string) ([][]string, error) {
	if len(images) == 0 {
		return nil, errors.New("the archive has no image for this machine")
	}
	if ref != "" {
		if len(images) != 1 {
			return nil, sandbox.Errorf(sandbox.ErrInvalid, "the archive has %d images, so they cannot all be named %s", len(images), ref).
				WithHint("leave the name out, and each keeps its own")
		}
		return [][]string{{ref}}, nil
	}
	var out [][]string
	for _, im := range images {
		var names []string
		for _, r := range im.refs {
			if err := checkRef(r); err != nil {
				return nil, err
			}
			names = append(names, normalize(r))
		}
		if len(names) == 0 {
			return nil, sandbox.Errorf(sandbox.ErrInvalid, "the archive does not say what its image is called").
				WithHint("give the image a name")
		}
		out = append(out, names)
	}
	return out, nil
}

// importImage stages one image.
func (t *stage) importImage(ctx context.Context, a *archive, im found, p *importProgress) (Image, error) {
	var c imageConfig
	if err := json.Unmarshal(im.config, &c); err != nil {
		return Image{}, fmt.Errorf("parse the image's configuration: %w", err)
	}
	if err := c.checkPlatform(); err != nil {
		return Image{}, err
	}
	if im.manifest == nil {
		return t.importDocker(ctx, a, im, &c, p)
	}
	img, err := buildImage(digestOf(im.manifest), im.manifest, im.config, &t.s.limits)
	if err != nil {
		return Image{}, err
	}
	for i, l := range img.Layers {
		if err := t.importBlob(ctx, a, im.layers[i], l, p); err != nil {
			return Image{}, err
		}
	}
	for _, b := range [][]byte{im.config, im.manifest} {
		if _, err := t.addBytes(b); err != nil {
			return Image{}, err
		}
	}
	return img, t.checkMerge(ctx, &img)
}

// importBlob stages one layer of an OCI image, unless the store has it.
func (t *stage) importBlob(ctx context.Context, a *archive, src source, l Layer, p *importProgress) error {
	x, err := t.known(l.DiffID)
	if err != nil {
		return err
	}
	// Digest and DiffID must be known to belong together: the EROFS file goes
	// by DiffIDs, so a blob under a false one could take the place of another
	// image's root.
	if x != nil && x.Digest == l.Digest && x.Size == l.Size {
		p.skip(src.m.size)
		return checkBelow(x.Entries, l)
	}
	if !src.ok {
		return refuse(l.label(), "", errors.New("the archive does not have it"))
	}
	return t.addVerbatim(ctx, p.reader(a.open(src.m)), l)
}

// known returns the index of a layer that is stored or staged together with its
// blob, or nil. It pins both.
func (t *stage) known(diffID string) (*layerIndex, error) {
	hex, err := hexOf(diffID)
	if err != nil {
		return nil, err
	}
	path := t.s.indexPath(hex)
	if ok, err := t.have(pinIndex, hex, path); !ok || err != nil {
		return nil, err
	}
	x, err := readIndex(t.where(path))
	if err != nil || x.DiffID != diffID {
		return nil, nil // it will be made again
	}
	bhex, err := hexOf(x.Digest)
	if err != nil {
		return nil, err
	}
	ok, err := t.have(pinBlob, bhex, t.s.blobPath(bhex))
	if err != nil || !ok {
		return nil, err
	}
	return x, nil
}

// importDocker stages an image that has no manifest: its layers are stored
// compressed, and a manifest is written for it.
func (t *stage) importDocker(ctx context.Context, a *archive, im found, c *imageConfig, p *importProgress) (Image, error) {
	if len(im.layers) != len(c.RootFS.DiffIDs) || len(im.layers) > t.s.limits.Layers {
		return Image{}, fmt.Errorf("the archive lists %d layers, the image's configuration %d", len(im.layers), len(c.RootFS.DiffIDs))
	}
	made := c.createdBy(len(im.layers))
	m := manifest{SchemaVersion: 2, MediaType: mediaManifest, Layers: []descriptor{}}
	for i, src := range im.layers {
		l := Layer{DiffID: c.RootFS.DiffIDs[i], MediaType: mediaLayerZstd, CreatedBy: made[i]}
		x, err := t.known(l.DiffID)
		if err != nil {
			return Image{}, err
		}
		if x == nil {
			if x, err = t.addPlain(ctx, p.reader(a.open(src.m)), l, l.DiffID); err != nil {
				return Image{}, err
			}
		} else {
			p.skip(src.m.size)
		}
		// The history stays in the configuration; a manifest that repeats it
		// would not be the same for the same image.
		m.Layers = append(m.Layers, Layer{Digest: x.Digest, Size: x.Size, MediaType: l.MediaType}.descriptor())
	}
	digest, err := t.addBytes(im.config)
	if err != nil {
		return Image{}, err
	}
	m.Config = descriptor{MediaType: mediaConfig, Digest: digest, Size: int64(len(im.config))}
	return t.addManifest(ctx, m, im.config)
}

// importProgress counts the bytes of layers.
type importProgress struct {
	report      Progress
	done, total int64
}

func (p *importProgress) skip(n int64) {
	p.done += n
	if p.report != nil {
		p.report(p.done, p.total)
	}
}

func (p *importProgress) reader(r io.Reader) io.Reader { return &progressReader{r, p} }

type progressReader struct {
	r io.Reader
	p *importProgress
}

func (r *progressReader) Read(b []byte) (int, error) {
	n, err := r.r.Read(b)
	r.p.skip(int64(n))
	return n, err
}

// mediaOf cuts parameters off a media type.
func mediaOf(s string) string {
	s, _, _ = strings.Cut(s, ";")
	return strings.TrimSpace(s)
}
