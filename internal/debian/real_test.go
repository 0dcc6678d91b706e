package debian

import (
	"bufio"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestRealArchive builds the layer from the archive of this host's apt. It
// needs the network, so it runs only when BERTH_REAL_ARCHIVE names a folder; it
// leaves there the layer, the script and the cache.
func TestRealArchive(t *testing.T) {
	dir := os.Getenv("BERTH_REAL_ARCHIVE")
	if dir == "" {
		t.Skip("BERTH_REAL_ARCHIVE is not set")
	}
	src, err := Detect("/", os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	lap := func(what string) {
		t.Logf("%s: %s", what, time.Since(start).Round(time.Millisecond))
		start = time.Now()
	}
	b := Bootstrap{CacheDir: filepath.Join(dir, "cache")}
	plan, err := b.Resolve(t.Context(), src)
	if err != nil {
		t.Fatal(err)
	}
	lap("resolve")
	for _, p := range plan.Packages {
		t.Logf("%s %s %d", p.Name, p.Version, p.Size)
	}
	t.Logf("%d packages, %d bytes, %d installed, %s", len(plan.Packages), plan.DownloadSize(), plan.InstalledSize(), plan.Digest())
	if err := b.Download(t.Context(), plan); err != nil {
		t.Fatal(err)
	}
	lap("download")
	f, err := os.Create(filepath.Join(dir, "layer.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	if err := b.WriteLayer(t.Context(), plan, w); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	lap("write layer")
	if err := os.WriteFile(filepath.Join(dir, "configure.sh"), []byte(plan.ConfigureScript()), 0o600); err != nil {
		t.Fatal(err)
	}
}
