package ring

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

func readAll(t *testing.T, r *Reader) []byte {
	t.Helper()
	var out []byte
	p := make([]byte, 1000)
	for {
		n, off, err := r.Read(t.Context(), p)
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if off+int64(n) != r.Offset() {
			t.Fatalf("%d bytes at %d, then at %d", n, off, r.Offset())
		}
		out = append(out, p[:n]...)
	}
}

// Patient readers get everything, whenever the writer would rather go on.
func TestPatientReaders(t *testing.T) {
	b := New(5000, nil)
	rng := rand.New(rand.NewPCG(1, 2))
	data := make([]byte, 1<<20)
	for i := range data {
		data[i] = byte(rng.Uint32())
	}
	var wg sync.WaitGroup
	for range 3 {
		r := b.NewReader(0, Forever)
		wg.Go(func() {
			defer r.Close()
			if got := readAll(t, r); !bytes.Equal(got, data) || r.Lost() != 0 {
				t.Errorf("%d bytes, %d lost", len(got), r.Lost())
			}
		})
	}
	for rest := data; len(rest) > 0; {
		n := min(len(rest), 1+rng.IntN(12000))
		if w, err := b.Write(rest[:n]); w != n || err != nil {
			t.Fatal(w, err)
		}
		rest = rest[n:]
	}
	b.Close()
	wg.Wait()
	if start, end := b.Range(); end != int64(len(data)) || end-start != 5000 {
		t.Errorf("%d to %d", start, end)
	}
}

// Nobody reads: the newest bytes are kept, and a late reader is told what it
// missed.
func TestKeepsTheNewest(t *testing.T) {
	var tapped bytes.Buffer
	b := New(10, func(p []byte) { tapped.Write(p) })
	for range 3 {
		if _, err := b.Write([]byte("0123456789abc")); err != nil {
			t.Fatal(err)
		}
	}
	b.View(func(kept []byte, start, end int64) {
		if string(kept) != "3456789abc" || start != 29 || end != 39 {
			t.Errorf("%q %d %d", kept, start, end)
		}
	})
	for _, tt := range []struct {
		off, at, lost int64
	}{{-1, 29, 0}, {0, 29, 29}, {30, 30, 0}, {39, 39, 0}, {1000, 39, 0}} {
		r := b.NewReader(tt.off, Forever)
		if r.Offset() != tt.at || r.Lost() != tt.lost {
			t.Errorf("from %d: at %d, lost %d", tt.off, r.Offset(), r.Lost())
		}
		r.Close()
	}
	b.Close()
	if got := readAll(t, b.NewReader(-1, Forever)); string(got) != "3456789abc" {
		t.Errorf("%q", got)
	}
	if tapped.Len() != 39 {
		t.Errorf("tapped %d", tapped.Len())
	}
	if n := b.Drop(); n != 10 {
		t.Errorf("dropped %d", n)
	}
	if got := readAll(t, b.NewReader(-1, Forever)); len(got) != 0 {
		t.Errorf("%q", got)
	}
	if _, err := b.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("write after close: %v", err)
	}
}

// A reader that stands still holds the writer back for its patience, then
// loses bytes, and holds it back again once it caught up.
func TestImpatience(t *testing.T) {
	b := New(10, nil)
	r := b.NewReader(0, time.Millisecond)
	if _, err := b.Write(bytes.Repeat([]byte("x"), 100)); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 100)
	n, off, err := r.Read(t.Context(), p)
	if n != 10 || off != 90 || err != nil || r.Lost() != 90 {
		t.Fatalf("%d at %d, %v, lost %d", n, off, err, r.Lost())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := r.Read(ctx, p); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if r.lagging {
		t.Error("it caught up and is still left behind")
	}
}

// A reader that leaves frees the writer at once.
func TestCloseFreesTheWriter(t *testing.T) {
	b := New(10, nil)
	r := b.NewReader(0, Forever)
	done := make(chan struct{})
	go func() {
		_, _ = b.Write(make([]byte, 50))
		close(done)
	}()
	p := make([]byte, 5)
	if _, _, err := r.Read(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	r.Close()
	<-done
	if _, _, err := r.Read(t.Context(), p); !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
}
