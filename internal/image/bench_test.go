package image

import (
	"archive/tar"
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// benchTar writes a tar like a template's: many small files and some big ones,
// text that compresses about three times. It returns the size of the contents.
func benchTar(b *testing.B, w io.Writer, files int, size int64) int64 {
	b.Helper()
	rnd := rand.New(rand.NewPCG(1, 2))
	pool := make([]byte, 8<<20)
	for i := range pool {
		pool[i] = "abcdefghijklmnopqrstuvwxyz ABCDEF"[rnd.IntN(33)&rnd.IntN(33)]
	}
	tw := tar.NewWriter(w)
	put := func(h *tar.Header, n int64) {
		h.Size, h.ModTime, h.Mode = n, epoch, 0o644
		if err := tw.WriteHeader(h); err != nil {
			b.Fatal(err)
		}
		for n > 0 {
			from := rnd.IntN(len(pool) / 2)
			k := min(n, int64(len(pool)/2))
			if _, err := tw.Write(pool[from : from+int(k)]); err != nil {
				b.Fatal(err)
			}
			n -= k
		}
	}
	var total int64
	for i := range files {
		n := int64(rnd.IntN(6000))
		if i%100 == 0 {
			n = size / int64(files) * 85
		}
		put(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("usr/lib/d%d/s%d/file-%d", i%50, i%701, i)}, n)
		total += n
	}
	if err := tw.Close(); err != nil {
		b.Fatal(err)
	}
	return total
}

// BenchmarkTemplate measures what a template costs: AddLayer compresses, checks
// and stores, Root writes the EROFS file. BERTH_BENCH_MB sets the size (256 MB
// and 13,000 files; the base template is 1,500 MB and 80,000).
func BenchmarkTemplate(b *testing.B) {
	mb := 256
	if s := os.Getenv("BERTH_BENCH_MB"); s != "" {
		var err error
		if mb, err = strconv.Atoi(s); err != nil {
			b.Fatal(err)
		}
	}
	file, err := os.Create(filepath.Join(b.TempDir(), "layer.tar"))
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	buf := bufio.NewWriterSize(file, 1<<20)
	size := benchTar(b, buf, mb*53, int64(mb)<<20)
	if err := buf.Flush(); err != nil {
		b.Fatal(err)
	}
	s := openStore(b)
	b.Run("AddLayer", func(b *testing.B) {
		b.SetBytes(size)
		for range b.N {
			if _, err := file.Seek(0, io.SeekStart); err != nil {
				b.Fatal(err)
			}
			st, err := s.stage()
			if err != nil {
				b.Fatal(err)
			}
			if _, err := st.addPlain(b.Context(), file, Layer{}, ""); err != nil {
				b.Fatal(err)
			}
			st.abort()
		}
	})
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		b.Fatal(err)
	}
	l, err := s.AddLayer(b.Context(), file, LayerOptions{})
	if err != nil {
		b.Fatal(err)
	}
	img := commit(b, s, "bench", nil, l)
	b.Run("Root", func(b *testing.B) {
		b.SetBytes(size)
		b.ReportAllocs()
		for range b.N {
			r := rootOf(b, s, img)
			b.StopTimer()
			st, err := os.Stat(r.Root)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(st.Size())/float64(size), "file/content")
			if err := os.Remove(r.Root); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	})
	b.Run("Merge", func(b *testing.B) {
		for range b.N {
			st, err := s.stage()
			if err != nil {
				b.Fatal(err)
			}
			if _, err := st.merge(b.Context(), &img, ""); err != nil {
				b.Fatal(err)
			}
			st.abort()
		}
	})
}
