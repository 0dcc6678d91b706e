package debian

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"

	"berth.dev/internal/sandbox"
)

// Only returns the plan with those of its packages that keep wants. What is
// made of it is no system; it serves Download and Files.
func (p Plan) Only(keep func(Package) bool) Plan {
	out := p
	out.Packages = nil
	for _, k := range p.Packages {
		if keep(k) {
			out.Packages = append(out.Packages, k)
		}
	}
	return out
}

// Files hands each file of a package to visit, in the package's order: of a
// package that Download has brought into the cache, once more held against the
// signed index. Names are as the package has them; the content may be left
// unread. An error of visit ends it and comes back.
func (b Bootstrap) Files(ctx context.Context, p Package, visit func(*tar.Header, io.Reader) error) error {
	c, err := openCache(b.CacheDir)
	if err != nil {
		return err
	}
	if !c.whole(p.blob()) {
		return sandbox.Errorf(sandbox.ErrNotFound, "package %s is not in the cache", p.Name)
	}
	f, err := c.open(p.blob())
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := openData(f, p.Size)
	if err != nil {
		return fmt.Errorf("open package %s: %w", p.Name, err)
	}
	defer data.Close()
	tr := tar.NewReader(data)
	for n := 0; ; n++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read package %s: %w", p.Name, err)
		}
		if n >= maxEntries {
			return sandbox.Errorf(sandbox.ErrInvalid, "package %s has more than %d files", p.Name, maxEntries)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := visit(h, tr); err != nil {
			return err
		}
	}
}
