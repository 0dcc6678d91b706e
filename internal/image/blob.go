package image

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"os"
)

// blobWriter is a temporary file that knows its digest.
type blobWriter struct {
	f    *os.File
	sum  hash.Hash
	size int64
}

func (t *stage) newBlob() (*blobWriter, error) {
	f, err := t.w.temp("blob")
	if err != nil {
		return nil, err
	}
	return &blobWriter{f: f, sum: sha256.New()}, nil
}

func (b *blobWriter) Write(p []byte) (int, error) {
	n, err := b.f.Write(p)
	b.sum.Write(p[:n])
	b.size += int64(n)
	return n, err
}

func (b *blobWriter) digest() string { return sumOf(b.sum) }

// addBlob stages a written blob, or drops it when the store has it.
func (t *stage) addBlob(b *blobWriter) error {
	hex, err := hexOf(b.digest())
	if err != nil {
		return err
	}
	path := t.s.blobPath(hex)
	if ok, err := t.have(pinBlob, hex, path); ok || err != nil {
		discard(b.f)
		return err
	}
	return t.add(b.f, path)
}

// addBytes stages a small blob and returns its digest.
func (t *stage) addBytes(data []byte) (string, error) {
	b, err := t.newBlob()
	if err != nil {
		return "", err
	}
	if _, err := b.Write(data); err != nil {
		discard(b.f)
		return "", err
	}
	return b.digest(), t.addBlob(b)
}

// readBlob returns a small blob, at most limit bytes of it, verified.
func (s *Store) readBlob(digest string, limit int64) ([]byte, error) {
	hex, err := hexOf(digest)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(s.blobPath(hex))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("blob %s is larger than %d bytes", short(digest), limit)
	}
	if got := digestOf(b); got != digest {
		return nil, fmt.Errorf("blob %s is damaged: its digest is %s", short(digest), short(got))
	}
	return b, nil
}
