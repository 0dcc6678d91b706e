package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/zstd"

	"berth.dev/internal/sandbox"
)

// MountAnnotation is the annotation of a layer descriptor that says where the
// layer is mounted as a file system of its own, instead of being merged with
// the others: sandbox.AgentDir/NAME.
const MountAnnotation = "dev.berth.layer.mount"

const (
	mediaLayerZstd = "application/vnd.oci.image.layer.v1.tar+zstd"
	// annotationCreatedBy keeps what LayerOptions.CreatedBy said.
	annotationCreatedBy = "dev.berth.layer.created-by"
)

// Layer is one stored layer.
type Layer struct {
	Digest    string // of the blob as it is stored, "sha256:…"
	DiffID    string // of the plain tar
	MediaType string
	Size      int64  // of the blob, in bytes
	Mount     string // where it is mounted by itself; "" when it is merged
	CreatedBy string // who made it, for people
}

// label names a layer in errors.
func (l Layer) label() string {
	d := "being added"
	if l.Digest != "" {
		d = short(l.Digest)
	} else if l.DiffID != "" {
		d = short(l.DiffID)
	}
	if l.CreatedBy == "" {
		return d
	}
	by, _, _ := strings.Cut(l.CreatedBy, "\n")
	if len(by) > 80 {
		by = by[:80] + "…"
	}
	return fmt.Sprintf("%s (%q)", d, by)
}

// LayerOptions say more about a layer that is added.
type LayerOptions struct {
	// Mount is sandbox.AgentDir/NAME for the layer of an agent; everything in
	// it must lie there. Empty for a layer that is merged with those below.
	Mount string
	// CreatedBy says for people what made the layer; errors name it.
	CreatedBy string
}

// AddLayer stores a tar as a layer, compressed with zstd (one that comes
// compressed is unpacked first). It reads r to its end. Besides the whiteouts of OCI it understands those of overlayfs
// (a character device 0:0, the opaque attribute), so what gVisor writes of a
// sandbox's changes can come in as it is. A layer that has something outside
// opts.Mount, that is cut short, or that breaks a limit is sandbox.ErrInvalid
// with a *LayerError, and nothing of it stays.
//
// The layer is kept until Commit puts it into a named image, or until Close.
func (s *Store) AddLayer(ctx context.Context, r io.Reader, opts LayerOptions) (Layer, error) {
	l := Layer{MediaType: mediaLayerZstd, Mount: opts.Mount, CreatedBy: opts.CreatedBy}
	if err := checkMount(opts.Mount); err != nil {
		return Layer{}, err
	}
	t, err := s.stage()
	if err != nil {
		return Layer{}, hostError(err)
	}
	x, err := t.addPlain(ctx, r, l, "")
	if err == nil {
		err = t.commit()
	}
	if err != nil {
		t.abort()
		return Layer{}, hostError(err)
	}
	l.Digest, l.DiffID, l.Size = x.Digest, x.DiffID, x.Size
	t.w.hold(l.Digest, t)
	return l, nil
}

// addPlain compresses and stages the tar in r, which has the DiffID diffID. With
// none there is nothing that would tell a cut tar, so it must have the mark of
// its end.
func (t *stage) addPlain(ctx context.Context, r io.Reader, l Layer, diffID string) (*layerIndex, error) {
	b, err := t.newBlob()
	if err != nil {
		return nil, err
	}
	got, err := t.compress(ctx, b, r, l)
	if err == nil {
		err = checkPlain(got, l, diffID)
	}
	if err != nil {
		discard(b.f)
		return nil, err
	}
	if err := t.addBlob(b); err != nil {
		return nil, err
	}
	x := &layerIndex{DiffID: got.diffID, Digest: b.digest(), Size: b.size, Unpacked: got.size, Entries: got.entries}
	return x, t.addIndex(x)
}

func (t *stage) compress(ctx context.Context, b *blobWriter, r io.Reader, l Layer) (*scan, error) {
	z, err := zstd.NewWriter(b, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return nil, err
	}
	got, err := scanLayer(ctx, r, l.label(), &t.s.limits, z)
	if cerr := z.Close(); err == nil {
		err = cerr
	}
	return got, err
}

func checkPlain(got *scan, l Layer, diffID string) error {
	if diffID == "" && got.zeros < 1024 {
		return refuse(l.label(), lastName(got.entries), errors.New("the layer is cut short: the mark of a tar's end is missing"))
	}
	if diffID != "" && diffID != got.diffID {
		return refuse(l.label(), "", fmt.Errorf("wrong digest: its content has %s, the image's configuration says %s", got.diffID, diffID))
	}
	return checkBelow(got.entries, l)
}

func lastName(es []entry) string {
	if len(es) == 0 {
		return ""
	}
	return es[len(es)-1].Name
}

// checkMount reports whether a layer may be mounted at dir. Only the folders of
// agents are allowed: an image from elsewhere must not mount over others.
func checkMount(dir string) error {
	if dir == "" {
		return nil
	}
	name, ok := strings.CutPrefix(dir, sandbox.AgentDir+"/")
	if !ok || sandbox.CheckName(name) != nil {
		return sandbox.Errorf(sandbox.ErrInvalid, "a layer cannot be mounted at %.200q, only at %s/NAME", dir, sandbox.AgentDir)
	}
	return nil
}

// checkBelow reports the first entry of a layer that lies outside its mount
// folder. The folders on the way there are accepted, and ignored.
func checkBelow(entries []entry, l Layer) error {
	if l.Mount == "" {
		return nil
	}
	mount := strings.TrimPrefix(l.Mount, "/")
	for _, e := range entries {
		above := e.Name == "" || strings.HasPrefix(mount, e.Name+"/")
		switch {
		case inside(e.Name, mount) && (e.Kind != kindLink || inside(e.Link, mount)):
		case above && (e.Kind == kindDir || e.Kind == kindOpaque):
		default:
			return refuse(l.label(), e.Name, fmt.Errorf("lies outside %s, where the layer is mounted", l.Mount))
		}
	}
	return nil
}

// inside reports whether a clean relative path is dir or below it.
func inside(name, dir string) bool {
	return name == dir || strings.HasPrefix(name, dir+"/")
}

// addVerbatim stages a blob as it is, checked against what its manifest and the
// image's configuration say of it.
func (t *stage) addVerbatim(ctx context.Context, r io.Reader, l Layer) error {
	b, err := t.newBlob()
	if err != nil {
		return err
	}
	got, err := scanLayer(ctx, io.TeeReader(r, sink{b}), l.label(), &t.s.limits, nil)
	if err == nil {
		err = checkVerbatim(b, got, l)
	}
	if err != nil {
		discard(b.f)
		return err
	}
	if err := t.addBlob(b); err != nil {
		return err
	}
	return t.addIndex(&layerIndex{DiffID: l.DiffID, Digest: l.Digest, Size: l.Size, Unpacked: got.size, Entries: got.entries})
}

func checkVerbatim(b *blobWriter, got *scan, l Layer) error {
	switch {
	case b.digest() != l.Digest || b.size != l.Size:
		return refuse(l.label(), "", fmt.Errorf("wrong digest: its %d bytes have %s, the manifest says %d bytes and %s", b.size, b.digest(), l.Size, l.Digest))
	case got.diffID != l.DiffID:
		return refuse(l.label(), "", fmt.Errorf("wrong digest: its content has %s, the image's configuration says %s", got.diffID, l.DiffID))
	}
	return checkBelow(got.entries, l)
}
