package image

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"berth.dev/internal/sandbox"
)

func TestImportFormats(t *testing.T) {
	plain := tarOf(t, fileEnt("a", "1"), fileEnt("b", "1"))
	top := tarOf(t, fileEnt("a", "2"), fileEnt(".wh.b", ""))
	both := func(name string, wrap func(testing.TB, []byte) []byte) []blobOf {
		media := "application/vnd.oci.image.layer.v1.tar" + name
		return []blobOf{{blob: wrap(t, plain), plain: plain, media: media}, {blob: wrap(t, top), plain: top, media: media}}
	}
	same := func(_ testing.TB, b []byte) []byte { return b }
	oci := func(layers []blobOf) *pack {
		p := &pack{t: t}
		p.index(named(p.ociImage(layers...), "test"))
		return p
	}
	multi := &pack{t: t}
	inner := multi.json(mediaIndex, map[string]any{"manifests": []descriptor{otherPlatform(multi, plainBlob(plain)), multi.ociImage(both("", same)...)}})
	multi.index(named(inner, "test"))

	for name, file := range map[string]string{
		"oci plain":      oci(both("", same)).save(nil),
		"oci gzip":       oci(both("+gzip", gzipped)).save(nil),
		"oci zstd":       oci(both("+zstd", zstded)).save(nil),
		"oci all gzip":   oci(both("+gzip", gzipped)).save(gzipped),
		"oci all zstd":   oci(both("", same)).save(zstded),
		"oci platforms":  multi.save(nil),
		"docker plain":   dockerFile(t, "test", both("", same)...),
		"docker gzip":    dockerFile(t, "test:latest", both("", gzipped)...),
		"docker symlink": dockerLinks(t, plain, top),
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t)
			var done, total int64
			imgs, err := s.Import(t.Context(), file, ImportOptions{Progress: func(d, n int64) { done, total = d, n }})
			if err != nil {
				t.Fatal(err)
			}
			if len(imgs) != 1 || !slices.Equal(imgs[0].Refs, []string{"docker.io/library/test:latest"}) {
				t.Fatalf("got %+v", imgs)
			}
			if done != total || total == 0 {
				t.Errorf("progress ended at %d of %d", done, total)
			}
			img, err := s.Lookup("test")
			if err != nil || img.Digest != imgs[0].Digest {
				t.Fatal(img, err)
			}
			if !slices.Equal(img.Config.Env, []string{"PATH=/bin"}) || img.Config.Labels["k"] != "v" || !img.Created.Equal(epoch) || img.Layers[1].CreatedBy != "step 1" {
				t.Errorf("got %+v", img)
			}
			want(t, list(t, rootOf(t, s, img).Root), "/a file 644 0:0 2")
			before := snapshot(t, s.dir)
			if again := importOK(t, s, file); again.Digest != img.Digest {
				t.Errorf("the same file gave another image: %s", again.Digest)
			}
			if after := snapshot(t, s.dir); after != before {
				t.Errorf("importing again changed the store:\n%s\n%s", before, after)
			}
		})
	}
}

// dockerLinks is an archive in which a layer that is used twice is a link, as
// docker save wrote them.
func dockerLinks(t *testing.T, plain, top []byte) string {
	c := configOf([]blobOf{plainBlob(plain), plainBlob(plain), plainBlob(top)})
	c.History[2].CreatedBy, c.History[1].Empty = "step 1", false
	c.History[1].CreatedBy = "step 1"
	p := &pack{t: t}
	p.file("one/layer.tar", plain)
	p.files = append(p.files, symEnt("two/layer.tar", "../one/layer.tar"))
	p.file("three/layer.tar", top)
	d := p.json("", c)
	hex := strings.TrimPrefix(d.Digest, digestPrefix)
	p.file("manifest.json", fmt.Appendf(nil, `[{"Config":"blobs/sha256/%s","RepoTags":["test"],"Layers":["one/layer.tar","two/layer.tar","three/layer.tar"]}]`, hex))
	return p.save(nil)
}

func TestImportNames(t *testing.T) {
	p := &pack{t: t}
	one := p.ociImage(plainBlob(tarOf(t, fileEnt("1", ""))))
	two := p.ociImage(plainBlob(tarOf(t, fileEnt("2", ""))))
	tagOnly := two
	tagOnly.Annotations = map[string]string{annotationRef: "latest"}
	p.index(named(one, "registry.example/a/b:1"), named(one, "b:2"), named(two, "localhost/c"))
	s := openStore(t)
	imgs, err := s.Import(t.Context(), p.save(nil), ImportOptions{})
	if err != nil || len(imgs) != 2 {
		t.Fatal(imgs, err)
	}
	if w := []string{"docker.io/library/b:2", "registry.example/a/b:1"}; !slices.Equal(imgs[0].Refs, w) {
		t.Errorf("names %v, want %v", imgs[0].Refs, w)
	}
	if _, err := s.Import(t.Context(), p.save(nil), ImportOptions{Ref: "mine"}); !errors.Is(err, sandbox.ErrInvalid) || !strings.Contains(err.Error(), "2 images") {
		t.Errorf("one name for two images: %v", err)
	}
	q := &pack{t: t}
	q.ociImage(plainBlob(tarOf(t, fileEnt("1", ""))))
	q.ociImage(plainBlob(tarOf(t, fileEnt("2", ""))))
	q.index(tagOnly)
	if _, err := s.Import(t.Context(), q.save(nil), ImportOptions{}); !errors.Is(err, sandbox.ErrInvalid) || sandbox.HintOf(err) == "" {
		t.Errorf("no name: %v", err)
	}
	if _, err := s.Import(t.Context(), q.save(nil), ImportOptions{Ref: "mine"}); err != nil {
		t.Error(err)
	}
	if img, err := s.Lookup("mine"); err != nil || img.Digest != two.Digest {
		t.Errorf("got %v, %v", img, err)
	}
	if _, err := s.Import(t.Context(), q.save(nil), ImportOptions{Ref: "no name!"}); !errors.Is(err, sandbox.ErrInvalid) {
		t.Errorf("bad name: %v", err)
	}
	if _, err := s.Import(t.Context(), "/no/such/file", ImportOptions{}); err == nil || !strings.Contains(err.Error(), "/no/such/file") {
		t.Errorf("no file: %v", err)
	}
	if _, err := s.Import(t.Context(), t.TempDir(), ImportOptions{}); err == nil || !strings.Contains(err.Error(), "folder") {
		t.Errorf("a folder: %v", err)
	}
}

// TestImportPipe imports from a pipe, as `docker save x | berth image import
// /dev/stdin` does.
func TestImportPipe(t *testing.T) {
	b, err := os.ReadFile(ociFile(t, plainBlob(tarOf(t, fileEnt("f", "x")))))
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	go func() {
		_, _ = w.Write(b)
		_ = w.Close()
	}()
	importOK(t, openStore(t), fmt.Sprintf("/proc/self/fd/%d", r.Fd()))
}
