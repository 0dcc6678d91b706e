package debian

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"berth.dev/internal/sandbox"
	"github.com/gofrs/flock"
)

// blob is what a signed index says of a file: its SHA-256 in lower case hex
// and its size.
type blob struct {
	sha256 string
	size   int64
}

// cache keeps verified files by their digest, in a folder that several
// processes may use at once. A file under its digest's name is whole.
//
//	blob/HH/DIGEST        the file
//	blob/HH/DIGEST.part   the beginning of one, held by the lock
//	lock/HH               flock of all digests that begin with HH
type cache struct{ dir string }

func openCache(dir string) (cache, error) {
	for _, d := range []string{dir, filepath.Join(dir, "blob"), filepath.Join(dir, "lock")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return cache{}, sandbox.Errorf(sandbox.ErrUnavailable, "make the package cache: %w", err)
		}
	}
	return cache{dir}, nil
}

func (c cache) path(b blob) string { return filepath.Join(c.dir, "blob", b.sha256[:2], b.sha256) }

// open opens a file that fetch has put there.
func (c cache) open(b blob) (*os.File, error) { return os.Open(c.path(b)) }

// whole reports whether the file is there and unharmed. It reads all of it:
// disks forget, and what is unpacked from here becomes every sandbox's root. A
// use counts for Prune.
func (c cache) whole(b blob) bool {
	f, err := c.open(b)
	if err != nil {
		return false
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil || n != b.size || hexSum(h) != b.sha256 {
		return false
	}
	now := time.Now()
	_ = os.Chtimes(f.Name(), now, now) // only makes Prune wiser
	return true
}

// fetch makes sure that the cache has a file, downloading it from uri if need
// be. moved is told of bytes gained, negative when a download starts over; what
// was in the cache already is not told. Safe for concurrent use, by processes
// too: the second to come waits for the first.
func (c cache) fetch(ctx context.Context, f fetcher, uri string, b blob, moved func(int64)) error {
	if c.whole(b) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(c.path(b)), 0o700); err != nil {
		return err
	}
	lock := flock.New(filepath.Join(c.dir, "lock", b.sha256[:2]), flock.SetPermissions(0o600))
	if _, err := lock.TryLockContext(ctx, 50*time.Millisecond); err != nil {
		return fmt.Errorf("lock the package cache: %w", err)
	}
	defer lock.Close()
	if c.whole(b) {
		return nil
	}
	d := download{fetcher: f, uri: uri, want: b, part: c.path(b) + ".part", moved: moved}
	if err := f.retry(ctx, func() error { return d.try(ctx) }); err != nil {
		return fmt.Errorf("download %s: %w", redact(uri), err)
	}
	// No fsync: a file that a power cut tore is found out by whole.
	return os.Rename(d.part, c.path(b))
}

// Prune removes files that no build has used since the given time, and
// downloads left unfinished since then. A build that runs meanwhile fetches
// again what it misses before it unpacks.
func Prune(cacheDir string, unusedSince time.Time) error {
	files, err := filepath.Glob(filepath.Join(cacheDir, "blob", "??", "*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range files {
		if info, err := os.Stat(f); err == nil && info.ModTime().Before(unusedSince) {
			errs = append(errs, os.Remove(f))
		}
	}
	return errors.Join(errs...)
}

// download is one file on its way into the cache, perhaps in several tries.
type download struct {
	fetcher
	uri   string
	want  blob
	part  string
	moved func(int64)
	done  int64 // bytes that moved was told of
}

// errMismatch: the bytes are not those that the index promises.
var errMismatch = errors.New("checksum mismatch")

// try goes on where the part file ends. It returns a transientError when
// another try may go further.
func (d *download) try(ctx context.Context) error {
	f, err := os.OpenFile(d.part, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	have, err := io.Copy(h, f)
	if err != nil {
		return err
	}
	if have > d.want.size {
		have = -1 // not ours: start over
	}
	if have != d.want.size {
		if have, err = d.receive(ctx, f, h, have); err != nil {
			return err
		}
	}
	if got := hexSum(h); got != d.want.sha256 {
		_ = f.Truncate(0) // whatever it was, it is no beginning
		d.account(0)
		err := sandbox.Errorf(sandbox.ErrForbidden, "%w: SHA256 is %s, the signed index says %s", errMismatch, got, d.want.sha256).
			WithHint("the mirror is being updated, or something changes files on the way: try again later")
		if have > 0 { // the fault may lie in what an earlier process left
			return transientError{err}
		}
		return err
	}
	return nil
}

// receive downloads the rest of the file behind the have bytes that h has
// seen; it returns how many of them were kept.
func (d *download) receive(ctx context.Context, f *os.File, h hash.Hash, have int64) (kept int64, err error) {
	b, err := d.open(ctx, d.uri, max(have, 0))
	if err != nil {
		return 0, err
	}
	defer b.stop()
	resumed := have > 0 && b.StatusCode == http.StatusPartialContent &&
		strings.HasPrefix(b.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", have))
	switch {
	case resumed:
	case b.StatusCode == http.StatusOK:
		have = 0
		h.Reset()
		if err := f.Truncate(0); err != nil {
			return 0, err
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return 0, err
		}
	default: // a range that is none: without the part the next try asks for all
		_ = f.Truncate(0)
		return 0, transientError{sandbox.Errorf(sandbox.ErrUnavailable, "the archive answers %s to a request for the rest", b.Status)}
	}
	d.account(have)
	sink := io.MultiWriter(f, h, writerFunc(func(p []byte) { d.account(d.done + int64(len(p))) }))
	n, err := io.Copy(sink, io.LimitReader(b, d.want.size-have+1))
	switch {
	case err != nil:
		return 0, err
	case have+n > d.want.size:
		_ = f.Truncate(0)
		return 0, sandbox.Errorf(sandbox.ErrForbidden, "it is larger than the %d bytes that the signed index says", d.want.size)
	case have+n < d.want.size:
		return 0, transientError{sandbox.Errorf(sandbox.ErrUnavailable, "it ends after %d of %d bytes", have+n, d.want.size)}
	}
	return have, nil
}

// account tells moved that the download now stands at n bytes.
func (d *download) account(n int64) {
	d.moved(n - d.done)
	d.done = n
}

type writerFunc func([]byte)

func (f writerFunc) Write(p []byte) (int, error) { f(p); return len(p), nil }

func hexSum(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }

// validSum: 64 lower case hex digits. Digests become file names.
func validSum(s string) bool {
	_, rest := cutWhile(s, func(c byte) bool { return isDigit(c) || c >= 'a' && c <= 'f' })
	return len(s) == 64 && rest == ""
}
