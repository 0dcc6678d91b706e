package image

import (
	"context"
	"encoding/gob"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
)

// layerIndex is what is kept of a layer so that merging need not unpack it
// twice, nor any later check of an image unpack it at all. It was checked when
// it was made.
type layerIndex struct {
	Format   int
	DiffID   string
	Digest   string // of the blob that was first stored with this DiffID
	Size     int64  // of that blob
	Unpacked int64  // bytes of the plain tar
	Entries  []entry
}

// indexFormat changes with layerIndex and entry; an index of another format is
// made again from the layer.
const indexFormat = 1

// addIndex stages a layer's index.
func (t *stage) addIndex(x *layerIndex) error {
	x.Format = indexFormat
	hex, err := hexOf(x.DiffID)
	if err != nil {
		return err
	}
	path := t.s.indexPath(hex)
	if ok, err := t.have(pinIndex, hex, path); ok || err != nil {
		return err
	}
	f, err := t.w.temp("index")
	if err != nil {
		return err
	}
	if err := writeIndex(f, x); err != nil {
		discard(f)
		return err
	}
	return t.add(f, path)
}

func writeIndex(f io.Writer, x *layerIndex) error {
	z, err := zstd.NewWriter(f, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return err
	}
	if err := gob.NewEncoder(z).Encode(x); err != nil {
		_ = z.Close()
		return err
	}
	return z.Close()
}

func readIndex(path string) (*layerIndex, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := zstd.NewReader(f)
	if err != nil {
		return nil, err
	}
	defer z.Close()
	var x layerIndex
	if err := gob.NewDecoder(z).Decode(&x); err != nil {
		return nil, err
	}
	if x.Format != indexFormat {
		return nil, fmt.Errorf("layer index has format %d", x.Format)
	}
	return &x, nil
}

// index returns the index of a stored or staged layer, and makes it again from
// the blob when it was lost.
func (t *stage) index(ctx context.Context, l Layer) (*layerIndex, error) {
	hex, err := hexOf(l.DiffID)
	if err != nil {
		return nil, err
	}
	path := t.s.indexPath(hex)
	x, err := readIndex(t.where(path))
	if err == nil && x.DiffID == l.DiffID {
		return x, nil
	}
	if x, err = t.rescan(ctx, l); err != nil {
		return nil, err
	}
	_ = os.Remove(path) // of an older format, or damaged
	return x, t.addIndex(x)
}

// rescan reads a stored layer as if it had just come in.
func (t *stage) rescan(ctx context.Context, l Layer) (*layerIndex, error) {
	hex, err := hexOf(l.Digest)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(t.where(t.s.blobPath(hex)))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	got, err := scanLayer(ctx, f, l.label(), &t.s.limits, nil)
	if err != nil {
		return nil, err
	}
	if got.diffID != l.DiffID {
		return nil, refuse(l.label(), "", fmt.Errorf("its content has the digest %s, not %s", got.diffID, l.DiffID))
	}
	return &layerIndex{DiffID: l.DiffID, Digest: l.Digest, Size: l.Size, Unpacked: got.size, Entries: got.entries}, nil
}
