package image

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

	"berth.dev/internal/image/erofs"
)

// contents is the second pass over the layers: it copies the content of the
// files that won.
type contents struct {
	ctx      context.Context
	w        *erofs.Writer
	progress Progress
	wanted   map[int32]map[int32]*node // by layer and ordinal
	done     int64
	total    int64
}

// find collects the files that have content.
func (c *contents) find(dir *node) {
	if c.wanted == nil {
		c.wanted = map[int32]map[int32]*node{}
	}
	for _, n := range dir.children {
		if n.isDir() {
			c.find(n)
			continue
		}
		if n.Size == 0 || c.wanted[n.layer][n.ordinal] != nil {
			continue
		}
		if c.wanted[n.layer] == nil {
			c.wanted[n.layer] = map[int32]*node{}
		}
		c.wanted[n.layer][n.ordinal] = n
		c.total += n.Size
	}
}

// copyLayer streams one layer. It is read to its end and its digest checked
// again, so that a blob that went bad on the disk does not become an image.
func (c *contents) copyLayer(s *Store, l Layer, number int32) error {
	wanted := c.wanted[number]
	if len(wanted) == 0 {
		return nil
	}
	id, err := hexOf(l.Digest)
	if err != nil {
		return err
	}
	f, err := os.Open(s.blobPath(id))
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	if err := c.copyFrom(io.TeeReader(f, sum), wanted); err != nil {
		var le *entryError
		if errors.As(err, &le) {
			return layerFault(c.ctx, l.label(), le.name, le.err)
		}
		return layerFault(c.ctx, l.label(), "", err)
	}
	if got := sumOf(sum); got != l.Digest {
		return layerFault(c.ctx, l.label(), "", fmt.Errorf("its blob in the store is damaged: it has the digest %s", got))
	}
	return nil
}

// copyFrom copies the wanted files out of a layer, and reads that to its end.
func (c *contents) copyFrom(r io.Reader, wanted map[int32]*node) error {
	in := &ctxReader{ctx: c.ctx, r: r}
	plain, err := decompress(in)
	if err != nil {
		return err
	}
	defer plain.Close()
	br := bufio.NewReaderSize(plain, readSize)
	if name, err := c.copyEntries(tar.NewReader(br), wanted); err != nil {
		return &entryError{name, err}
	}
	for _, r := range []io.Reader{br, in} {
		if _, err := io.Copy(io.Discard, r); err != nil {
			return err
		}
	}
	return nil
}

// entryError says at which entry of a layer something went wrong.
type entryError struct {
	name string
	err  error
}

func (e *entryError) Error() string { return fmt.Sprintf("entry %q: %v", e.name, e.err) }
func (e *entryError) Unwrap() error { return e.err }

func (c *contents) copyEntries(tr *tar.Reader, wanted map[int32]*node) (name string, err error) {
	for ordinal, left := int32(0), len(wanted); left > 0; ordinal++ {
		h, err := tr.Next()
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return name, err
		}
		name = h.Name
		n := wanted[ordinal]
		if n == nil {
			continue
		}
		if h.Size != n.Size {
			return name, errors.New("the layer's index does not fit the layer")
		}
		block, err := c.w.Data(tr, n.Size)
		if err != nil {
			return name, c.blame(err)
		}
		n.Block = block
		left--
		c.done += n.Size
		if c.progress != nil {
			c.progress(c.done, c.total)
		}
	}
	return "", nil
}

// blame marks errors of the host's file system, which come out of the same call
// as those of the layer.
func (c *contents) blame(err error) error {
	var pe *os.PathError
	if errors.As(err, &pe) {
		return &sinkError{err}
	}
	return err
}
