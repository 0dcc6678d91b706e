package kernel

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"berth.dev/internal/sandbox"
)

func made() *builder {
	return &builder{
		release: "6.12.1", builtin: map[string]bool{"ext4": true, "fuse": true, "virtiofs": true, "virtio_pci": true, "virtio_console": true},
		modules: []module{
			{path: "drivers/virtio/virtio_mmio.ko"}, {path: "drivers/block/virtio_blk.ko"},
			{path: "drivers/net/virtio_net.ko", needs: []string{"net_failover"}},
			{path: "drivers/net/net_failover.ko", needs: []string{"failover"}},
			{path: "net/core/failover.ko", needs: []string{"net_failover", "gone"}}, // each the other's, and one that is nowhere
			{path: "drivers/char/hw_random/virtio-rng.ko"}, {path: "drivers/virtio/virtio_balloon.ko"},
			{path: "fs/erofs/erofs.ko"}, {path: "fs/overlayfs/overlay.ko", aliases: []string{"fs-overlay"}},
		},
	}
}

func TestIndex(t *testing.T) {
	b := made()
	x := b.index()
	if x.Aliases["fs-overlay"] != "overlay" || x.Modules["virtio_rng"].File != "drivers/char/hw_random/virtio-rng.ko" {
		t.Errorf("%+v", x)
	}
	if slices.Contains(x.Modules["failover"].Needs, "gone") {
		t.Error("a module that is nowhere is needed")
	}
	base, err := b.base(x)
	if err != nil {
		t.Fatal(err)
	}
	if a, z := slices.Index(base, "failover.ko"), slices.Index(base, "virtio_net.ko"); a < 0 || z < a {
		t.Errorf("the order is %v", base)
	}
	b.modules = b.modules[1:]
	if _, err := b.base(b.index()); !errors.Is(err, sandbox.ErrUnavailable) {
		t.Errorf("a kernel without its bus: %v", err)
	}
}

// TestOldKernelServes: when it is time to look for a newer kernel and that
// cannot be done, the one that is there goes on being used, and the next look is
// a day away.
func TestOldKernelServes(t *testing.T) {
	s := Store{Dir: t.TempDir(), Packages: filepath.Join(t.TempDir(), "packages")}
	if err := os.MkdirAll(filepath.Join(s.Dir, "there", baseDir), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.Dir, "there", indexFile), []byte(`{"release":"6.1"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.write(current{Form: formVersion, Dir: "there", Release: "6.1", Made: time.Now().Add(-2 * maxAge)}); err != nil {
		t.Fatal(err)
	}
	c, err := s.read()
	if err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel() // as good as no network: nothing can be fetched
	if err := s.refresh(ended, c); err != nil {
		t.Fatal(err)
	}
	k, err := s.Current()
	if err != nil || k.Release != "6.1" {
		t.Errorf("%+v, %v", k, err)
	}
	if c, err = s.read(); err != nil || time.Since(c.Made) > maxAge || time.Since(c.Made) < maxAge-2*nextTryIn {
		t.Errorf("the next look is at %s (%v)", c.Made.Add(maxAge), err)
	}
}

// bzImage is a kernel as the distribution ships it.
func bzImage(payload []byte) []byte {
	b := make([]byte, 2048)
	copy(b[0x202:], "HdrS")
	b[0x1f1] = 3 // and one more: the payload begins at 2048
	binary.LittleEndian.PutUint32(b[0x248:], 0)
	binary.LittleEndian.PutUint32(b[0x24c:], uint32(len(payload)))
	return append(b, payload...)
}

func TestUnpackImage(t *testing.T) {
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	packed := append(enc.EncodeAll([]byte("\x7fELF kernel"), nil), 1, 2, 3, 4)
	got, err := unpackImage(bzImage(packed))
	if err != nil || string(got) != "\x7fELF kernel" {
		t.Errorf("%q, %v", got, err)
	}
	for name, image := range map[string][]byte{"another form": []byte("anything"), "another compression": bzImage([]byte("LZ4 and so on"))} {
		if got, err := unpackImage(image); err != nil || !bytes.Equal(got, image) {
			t.Errorf("%s is changed: %v", name, err)
		}
	}
	if _, err := unpackImage(bzImage(packed)[:2050]); err == nil {
		t.Error("a kernel that was cut off passes")
	}
}

func TestUnsigned(t *testing.T) {
	info := append(make([]byte, 8), 0, 0, 0, 9)
	signed := func(info []byte) []byte {
		return slices.Concat([]byte("module"), []byte("signature"), info, []byte(signatureMark))
	}
	if got := unsigned(signed(info)); string(got) != "module" {
		t.Errorf("%q", got)
	}
	huge := append(make([]byte, 8), 0xff, 0xff, 0xff, 0xff)
	for name, data := range map[string][]byte{
		"without one": []byte("module"), "a mark alone": []byte(signatureMark), "longer than all": signed(huge), "nothing": nil,
	} {
		if got := unsigned(data); !bytes.Equal(got, data) {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// TestArchive reads the archive as the kernel does.
func TestArchive(t *testing.T) {
	var a archive
	a.folder("dev")
	a.console()
	a.file("init", 0o755, []byte("program"))
	data := string(a.end())
	var names []string
	for len(data) > 0 && (len(names) == 0 || names[len(names)-1] != "TRAILER!!!") {
		if !strings.HasPrefix(data, "070701") {
			t.Fatalf("no header at %.20q", data)
		}
		var size, name int
		if _, err := fmt.Sscanf(data[54:62]+" "+data[94:102], "%x %x", &size, &name); err != nil {
			t.Fatal(err)
		}
		pad := func(n int) int { return (n + 3) &^ 3 }
		body := pad(110 + name)
		names = append(names, data[110:110+name-1])
		if names[len(names)-1] == "init" && data[body:body+size] != "program" {
			t.Errorf("init is %q", data[body:body+size])
		}
		data = data[body+pad(size):]
	}
	if !slices.Equal(names, []string{"dev", "dev/console", "init", "TRAILER!!!"}) {
		t.Errorf("the archive holds %v", names)
	}
}
