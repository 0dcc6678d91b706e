package image

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
)

// scan is what one pass over a layer learns.
type scan struct {
	entries []entry
	diffID  string
	size    int64 // bytes of the plain tar
	zeros   int64 // zero bytes at its end
}

// scanLayer reads a layer, compressed or not, to its end, and checks all of it
// but its digests, which it leaves to the caller. What was unpacked goes to
// copyTo as well, if that is not nil. label names the layer in errors.
func scanLayer(ctx context.Context, r io.Reader, label string, l *Limits, copyTo io.Writer) (*scan, error) {
	in := &ctxReader{ctx: ctx, r: r}
	plain, err := decompress(in)
	if err != nil {
		return nil, layerFault(ctx, label, "", err)
	}
	defer plain.Close()
	m := &meter{r: plain, in: in, l: l, max: l.LayerSize}
	sum, tail := sha256.New(), &tailCheck{}
	outs := []io.Writer{sum, tail}
	if copyTo != nil {
		outs = append(outs, sink{copyTo})
	}
	br := bufio.NewReaderSize(io.TeeReader(m, io.MultiWriter(outs...)), readSize)
	c := collector{label: label, l: l, m: m}
	if err := c.collect(br); err != nil {
		return nil, layerFault(ctx, label, c.name, err)
	}
	// What lies behind the archive's end belongs to the digests, and the
	// decompressor has its checksum there.
	if _, err := io.Copy(io.Discard, br); err != nil {
		return nil, layerFault(ctx, label, c.name, err)
	}
	if _, err := io.Copy(io.Discard, in); err != nil {
		return nil, layerFault(ctx, label, c.name, err)
	}
	linkedWhiteouts(c.entries)
	return &scan{entries: c.entries, diffID: sumOf(sum), size: m.out, zeros: tail.zeros}, nil
}

// layerFault blames the layer, unless it was the host or the user.
func layerFault(ctx context.Context, label, entry string, err error) error {
	var s *sinkError
	if errors.As(err, &s) {
		return hostError(fmt.Errorf("write layer %s: %w", label, s.err))
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("the layer is cut short: %w", err)
	}
	return refuse(label, entry, err)
}

// collector gathers the checked entries of one tar.
type collector struct {
	label   string
	l       *Limits
	m       *meter
	entries []entry
	name    string // the entry that is being read, for errors
	logical int64  // sum of the files' sizes, with the holes of sparse files
	meta    int64
}

func (c *collector) collect(r io.Reader) error {
	tr := tar.NewReader(r)
	for ordinal := 0; ; ordinal++ {
		h, err := tr.Next()
		// Only now is the content of the entry before read, so that its size
		// can be held against what the layer holds.
		if berr := c.m.check(c.logical); berr != nil {
			return berr
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		c.name = h.Name
		if ordinal >= c.l.Entries {
			return fmt.Errorf("more than %d entries", c.l.Entries)
		}
		es, err := parseEntries(h, ordinal, c.l)
		if err != nil {
			return err
		}
		for _, e := range es {
			c.logical += e.Size
			c.meta += e.weight()
		}
		if c.meta > c.l.Metadata {
			return fmt.Errorf("more than %d bytes of names and attributes", c.l.Metadata)
		}
		c.entries = append(c.entries, es...)
	}
}

// weight is about how many bytes of text an entry holds in memory.
func (e *entry) weight() int64 {
	n := len(e.Name) + len(e.Link)
	for _, x := range e.Xattrs {
		n += len(x.Name) + len(x.Value)
	}
	return int64(n)
}

// linkedWhiteouts makes ordinary whiteouts of overlayfs's, and of hard links to
// those. gVisor's overlay keeps all its whiteouts in one inode, so a tar of it
// has one device node and links to that.
func linkedWhiteouts(entries []entry) {
	hidden := map[string]bool{}
	for i, e := range entries {
		if e.Kind == kindOverlayWhiteout {
			hidden[e.Name] = true
			entries[i] = entry{Kind: kindWhiteout, Name: e.Name, Ordinal: e.Ordinal}
		}
	}
	if len(hidden) == 0 {
		return
	}
	for i, e := range entries {
		if e.Kind == kindLink && hidden[e.Link] {
			hidden[e.Name] = true
			entries[i] = entry{Kind: kindWhiteout, Name: e.Name, Ordinal: e.Ordinal}
		}
	}
}
