package ext4

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestMake has e2fsprogs look at what was made.
func TestMake(t *testing.T) {
	for _, size := range []int64{MinSize, 64 << 20, 128 << 20, 20 << 30} {
		path := filepath.Join(t.TempDir(), "disk")
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		if err := Make(f, size, [16]byte{1, 2, 3, 4}, time.Unix(1_700_000_000, 0)); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("e2fsck", "-f", "-n", path).CombinedOutput(); err != nil {
			t.Errorf("%d bytes: %v\n%s", size, err, out)
		}
	}
	if err := Make(nil, MinSize-1, [16]byte{}, time.Now()); err == nil {
		t.Error("a disk that is too small was formatted")
	}
}
