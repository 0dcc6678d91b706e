package debian

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"berth.dev/internal/debian/debiantest"
	"berth.dev/internal/sandbox"
)

// shelf is a server with one file, and a cache for it.
type shelf struct {
	*debiantest.Server
	cache
	fetcher
	data []byte
	blob
	moved int64
}

func newShelf(t *testing.T) *shelf {
	t.Helper()
	s := &shelf{Server: debiantest.NewServer(t), data: bytes.Repeat([]byte("0123456789abcdef"), 8<<10)}
	s.Put("/debian/file", s.data)
	s.blob = blob{fmt.Sprintf("%x", sha256.Sum256(s.data)), int64(len(s.data))}
	var err error
	if s.cache, err = openCache(filepath.Join(t.TempDir(), "cache")); err != nil {
		t.Fatal(err)
	}
	s.fetcher = newFetcher(s.Client())
	s.backoff = time.Millisecond
	return s
}

func (s *shelf) get(ctx context.Context) error {
	return s.fetch(ctx, s.fetcher, s.URI()+"/file", s.blob, func(n int64) { s.moved += n })
}

func TestFetch(t *testing.T) {
	status := debiantest.Status
	for name, c := range map[string]struct {
		breaks   []func(http.ResponseWriter, []byte)
		part     []byte // what an earlier process left
		requests int
	}{
		"at once":            {requests: 1},
		"busy":               {breaks: []func(http.ResponseWriter, []byte){status(503), status(429)}, requests: 3},
		"cut off, resumed":   {breaks: []func(http.ResponseWriter, []byte){debiantest.CutAfter(1000), debiantest.CutAfter(0)}, requests: 3},
		"resumed":            {part: bytes.Repeat([]byte("0123456789abcdef"), 100), requests: 1},
		"already there":      {part: bytes.Repeat([]byte("0123456789abcdef"), 8<<10), requests: 0},
		"resumed in rubbish": {part: []byte("rubbish"), requests: 2},
		"too much rubbish":   {part: make([]byte, 1<<20), requests: 1},
		"ranges not known":   {part: []byte("0123"), breaks: []func(http.ResponseWriter, []byte){func(w http.ResponseWriter, b []byte) { _, _ = w.Write(b) }}, requests: 1},
		"another range": {part: []byte("0123"), breaks: []func(http.ResponseWriter, []byte){func(w http.ResponseWriter, b []byte) {
			w.Header().Set("Content-Range", "bytes 0-9/10")
			w.WriteHeader(206)
		}}, requests: 2},
		"range refused": {part: []byte("0123"), breaks: []func(http.ResponseWriter, []byte){status(416)}, requests: 2},
	} {
		t.Run(name, func(t *testing.T) {
			s := newShelf(t)
			for _, b := range c.breaks {
				s.Break("file", b)
			}
			if c.part != nil {
				p := s.path(s.blob)
				if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(p+".part", c.part, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.get(t.Context()); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(s.path(s.blob))
			if err != nil || !bytes.Equal(got, s.data) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if n := s.Requests()["file"]; n != c.requests {
				t.Errorf("%d requests, want %d", n, c.requests)
			}
			if s.moved != s.size && name != "already there" {
				t.Errorf("progress of %d bytes, want %d", s.moved, s.size)
			}
			if err := s.get(t.Context()); err != nil || len(s.Requests()) != 0 {
				t.Errorf("the second time: %v", err)
			}
		})
	}
}

func TestFetchGivesUp(t *testing.T) {
	s := newShelf(t)
	for range 3 {
		s.Break("file", debiantest.Status(500))
	}
	err := s.get(t.Context())
	if !errors.Is(err, sandbox.ErrUnavailable) || !strings.Contains(err.Error(), "500") || s.Requests()["file"] != 3 {
		t.Errorf("error %v", err)
	}
	s.Break("file", debiantest.Status(403))
	if err := s.get(t.Context()); sandbox.HintOf(err) == "" || s.Requests()["file"] != 1 {
		t.Errorf("forbidden was tried again: %v", err)
	}
	s.Put("/debian/file", append([]byte("x"), s.data[1:]...))
	err = s.get(t.Context())
	if !errors.Is(err, errMismatch) || !errors.Is(err, sandbox.ErrForbidden) || s.Requests()["file"] != 1 {
		t.Errorf("another file: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(s.dir, "blob", "*", "*")); len(left) != 1 {
		t.Errorf("left behind: %q", left) // the empty .part file
	}
}

// TestFetchStalls: a server that sends headers and then nothing.
func TestFetchStalls(t *testing.T) {
	s := newShelf(t)
	s.stall = 20 * time.Millisecond
	release := make(chan struct{})
	s.Break("file", func(w http.ResponseWriter, b []byte) {
		w.Header().Set("Content-Length", fmt.Sprint(len(b)))
		_, _ = w.Write(b[:10])
		_ = http.NewResponseController(w).Flush()
		<-release
	})
	err := s.get(t.Context())
	close(release)
	if err != nil || s.Requests()["file"] != 2 {
		t.Errorf("error %v", err)
	}
}

func TestFetchMendsTheCache(t *testing.T) {
	s := newShelf(t)
	if err := s.get(t.Context()); err != nil {
		t.Fatal(err)
	}
	p := s.path(s.blob)
	spoilt := bytes.Clone(s.data)
	spoilt[77] ^= 1
	if err := os.WriteFile(p, spoilt, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.get(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(p); !bytes.Equal(got, s.data) {
		t.Error("the spoilt file is still there")
	}
}

func TestCacheModes(t *testing.T) {
	s := newShelf(t)
	if err := s.get(t.Context()); err != nil {
		t.Fatal(err)
	}
	err := filepath.Walk(s.dir, func(p string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %s", p, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestPrune(t *testing.T) {
	s := newShelf(t)
	if err := s.get(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := Prune(s.dir, time.Now().Add(-time.Hour)); err != nil || !s.whole(s.blob) {
		t.Errorf("what was used just now is gone: %v", err)
	}
	if err := Prune(s.dir, time.Now().Add(time.Hour)); err != nil || s.whole(s.blob) {
		t.Errorf("what was not used is still there: %v", err)
	}
}

// TestTwoProcesses fetches through one cache from several goroutines of several
// processes: one download, and everybody has it.
func TestTwoProcesses(t *testing.T) {
	if uri := os.Getenv("BERTH_TEST_FETCH"); uri != "" {
		fetchAsChild(t, uri)
		return
	}
	s := newShelf(t)
	var group sync.WaitGroup
	for range 3 {
		group.Go(func() {
			cmd := exec.Command(os.Args[0], "-test.run=^TestTwoProcesses$")
			cmd.Env = append(os.Environ(), "BERTH_TEST_FETCH="+s.URI()+"/file", "BERTH_TEST_CACHE="+s.dir, "BERTH_TEST_SUM="+s.sha256, fmt.Sprintf("BERTH_TEST_SIZE=%d", s.size))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	group.Wait()
	if n := s.Requests()["file"]; n != 1 {
		t.Errorf("%d downloads, want 1", n)
	}
	if !s.whole(s.blob) {
		t.Error("the cache has it not")
	}
}

func fetchAsChild(t *testing.T, uri string) {
	c, err := openCache(os.Getenv("BERTH_TEST_CACHE"))
	if err != nil {
		t.Fatal(err)
	}
	b := blob{sha256: os.Getenv("BERTH_TEST_SUM")}
	if _, err := fmt.Sscan(os.Getenv("BERTH_TEST_SIZE"), &b.size); err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			if err := c.fetch(t.Context(), newFetcher(http.DefaultClient), uri, b, func(int64) {}); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
}

func TestFetchRedirect(t *testing.T) {
	from, _ := http.NewRequest(http.MethodGet, "https://a.test/", nil)
	to, _ := http.NewRequest(http.MethodGet, "http://b.test/", nil)
	if err := checkRedirect(to, []*http.Request{from}); err == nil {
		t.Error("from https to http is not refused")
	}
	if err := checkRedirect(from, []*http.Request{to}); err != nil {
		t.Error(err)
	}
	if err := checkRedirect(from, make([]*http.Request, 10)); err == nil {
		t.Error("a loop is not refused")
	}
}

// TestClientTrusts: https archives are verified, against CaInfo where apt has
// one.
func TestClientTrusts(t *testing.T) {
	s := debiantest.NewTLSServer(t)
	s.Put("/debian/file", []byte("x"))
	get := func(src Source) error {
		c, err := newClient(src)
		if err != nil {
			return err
		}
		f := newFetcher(c)
		f.backoff = time.Millisecond
		_, err = f.get(t.Context(), s.URI()+"/file", 10)
		return err
	}
	if err := get(Source{}); !errors.Is(err, sandbox.ErrUnavailable) || !strings.Contains(sandbox.HintOf(err), "trust store") {
		t.Errorf("an unknown CA: %v", err)
	}
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, s.CA(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := get(Source{CAInfo: ca}); err != nil {
		t.Errorf("with CaInfo: %v", err)
	}
	if err := get(Source{CAInfo: ca + "x"}); !errors.Is(err, sandbox.ErrUnavailable) {
		t.Errorf("CaInfo is missing: %v", err)
	}
}

func TestRedact(t *testing.T) {
	s := newShelf(t)
	uri := strings.Replace(s.URI(), "http://", "http://user:secret@", 1) + "/absent"
	_, err := s.fetcher.get(t.Context(), uri, 10)
	if err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("error %v", err)
	}
	s.Close()
	if _, err = s.fetcher.get(t.Context(), uri, 10); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("error %v", err)
	}
}

func sumOf(data []byte) string { return fmt.Sprintf("%x", sha256.Sum256(data)) }
