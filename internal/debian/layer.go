package debian

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"
)

// WriteLayer downloads what the cache lacks and writes the plan's packages to w
// as one uncompressed tar stream: a root file system in which dpkg has unpacked
// everything and configured nothing, with apt set up for the same archives. The
// same plan gives the same bytes. After an error w holds garbage.
//
// Owners, modes, devices and setuid bits are the packages' own. Documentation,
// manual pages and translations are left out, but copyright files stay; the
// guest's dpkg is told to go on like that (dpkg.cfg.d/berth).
func (b Bootstrap) WriteLayer(ctx context.Context, plan Plan, w io.Writer) error {
	if err := b.Download(ctx, plan); err != nil {
		return err
	}
	c, err := openCache(b.CacheDir)
	if err != nil {
		return err
	}
	debs, err := openDebs(ctx, c, plan.Packages)
	if err != nil {
		return err
	}
	u := &unpacker{tree: newTree(w), debs: map[string]*deb{}, lists: map[string][]string{}}
	for _, d := range debs {
		u.debs[d.Name] = d
	}
	order := unpackOrder(debs)
	if err := b.unpackAll(ctx, c, plan, u, order); err != nil {
		return err
	}
	if err := writeDatabase(u, plan.Arch, debs); err != nil {
		return fmt.Errorf("write dpkg's database: %w", err)
	}
	for _, f := range plan.guestFiles() {
		if err := u.tree.file(f.name, f.mode, newestTime(debs), f.data); err != nil {
			return fmt.Errorf("write the layer: %w", err)
		}
	}
	for _, dir := range emptyDirs {
		if err := u.tree.dir(dir, 0o755, newestTime(debs)); err != nil {
			return fmt.Errorf("write the layer: %w", err)
		}
	}
	if err := u.tree.out.Close(); err != nil {
		return fmt.Errorf("write the layer: %w", err)
	}
	return nil
}

// openDebs reads the control parts of all packages.
func openDebs(ctx context.Context, c cache, packages []Package) ([]*deb, error) {
	debs := make([]*deb, len(packages))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, p := range packages {
		group.Go(func() error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			f, err := c.open(p.blob())
			if err != nil {
				return err
			}
			defer f.Close()
			if debs[i], err = openDeb(f, p); err != nil {
				return fmt.Errorf("package %s (%s): %w", p.Name, path.Base(p.URI), err)
			}
			return nil
		})
	}
	return debs, group.Wait()
}

// unpackAll unpacks in order, while the packages to come are decompressed on
// the other processors.
func (b Bootstrap) unpackAll(ctx context.Context, c cache, plan Plan, u *unpacker, order []*deb) error {
	group, ctx := errgroup.WithContext(ctx)
	streams := make(chan *stream, runtime.GOMAXPROCS(0))
	group.Go(func() error {
		defer close(streams)
		for _, d := range order {
			s := &stream{chunks: make(chan []byte, streamChunks)}
			select {
			case streams <- s:
			case <-ctx.Done():
				return ctx.Err()
			}
			group.Go(func() error {
				if err := s.fill(ctx, c, d.blob()); err != nil {
					return packageError(d, err)
				}
				return nil
			})
		}
		return nil
	})
	group.Go(func() error {
		m := b.meter(PhaseUnpack, plan.DownloadSize())
		for i, d := range order {
			m.at(0, d.Name)
			var s *stream
			select {
			case s = <-streams:
			case <-ctx.Done():
				return ctx.Err()
			}
			if err := u.unpack(ctx, d, s); err != nil {
				return packageError(d, err)
			}
			if d.Name == "base-files" || i == len(order)-1 {
				if err := u.tree.mergeUsr(plan.Arch); err != nil {
					return packageError(d, err)
				}
			}
			m.at(d.Size, d.Name)
		}
		return nil
	})
	return group.Wait()
}

func packageError(d *deb, err error) error {
	return fmt.Errorf("unpack package %s %s: %w", d.Name, d.Version, err)
}

// A package that is waiting for its turn holds at most streamChunks of
// chunkSize in memory; as many wait as there are processors, and one more.
const (
	chunkSize    = 1 << 20
	streamChunks = 16
)

// stream carries a package's decompressed files from the goroutine that
// decompresses to the one that unpacks.
type stream struct {
	chunks chan []byte
	cur    []byte
	failed bool // fill ended with an error; read only after chunks is closed
}

// fill decompresses a package; it closes the stream in the end.
func (s *stream) fill(ctx context.Context, c cache, b blob) error {
	defer close(s.chunks)
	s.failed = true
	f, err := c.open(b)
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := openData(f, b.size)
	if err != nil {
		return err
	}
	defer data.Close()
	for {
		buf := make([]byte, chunkSize)
		n, err := io.ReadFull(data, buf)
		if n > 0 {
			select {
			case s.chunks <- buf[:n]:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		switch err {
		case nil:
		case io.EOF, io.ErrUnexpectedEOF:
			// ErrUnexpectedEOF is ReadFull's word for a short last chunk, but
			// also a decompressor's for a truncated stream: ask again.
			if err == io.ErrUnexpectedEOF {
				if _, err = data.Read(buf[:1]); err != io.EOF {
					return io.ErrUnexpectedEOF
				}
			}
			s.failed = false
			return nil
		default:
			return err
		}
	}
}

// Read implements io.Reader. A stream whose fill failed ends as if it were cut
// off; fill's own error is the one that the group reports.
func (s *stream) Read(p []byte) (int, error) {
	for len(s.cur) == 0 {
		chunk, ok := <-s.chunks
		if !ok {
			if s.failed {
				return 0, errCut
			}
			return 0, io.EOF
		}
		s.cur = chunk
	}
	n := copy(p, s.cur)
	s.cur = s.cur[n:]
	return n, nil
}

// errCut ends a stream that could not be filled.
var errCut = errors.New("its decompression was cut off")

// mergeUsr makes the links of a merged /usr that base-files did not bring
// (Ubuntu's leaves them to whoever bootstraps).
func (t *tree) mergeUsr(arch string) error {
	dirs := []string{"bin", "lib", "sbin"}
	if arch == "amd64" {
		dirs = append(dirs, "lib64")
	}
	for _, d := range dirs {
		if err := t.dir("/usr/"+d, 0o755, epoch); err != nil {
			return err
		}
		if err := t.link("/"+d, "usr/"+d, epoch); err != nil {
			return err
		}
	}
	return nil
}

// newestTime is the time of the youngest package: what is made here gets it,
// so that the same packages give the same bytes.
func newestTime(debs []*deb) time.Time {
	var newest time.Time
	for _, d := range debs {
		if d.modTime.After(newest) {
			newest = d.modTime
		}
	}
	return newest
}
