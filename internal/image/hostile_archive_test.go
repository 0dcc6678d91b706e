package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"berth.dev/internal/sandbox"
)

func TestHostileArchives(t *testing.T) {
	layer := plainBlob(tarOf(t, fileEnt("f", "x")))
	docker := func(manifest string) string {
		p := &pack{t: t}
		p.file("manifest.json", []byte(manifest))
		p.file("c.json", []byte(`{"os":"linux","rootfs":{"diff_ids":[]}}`))
		return p.save(nil)
	}
	index := func(build func(p *pack) []descriptor) string {
		p := &pack{t: t}
		p.index(build(p)...)
		return p.save(nil)
	}
	nested := func(p *pack) []descriptor {
		d := p.ociImage(layer)
		for range 3 {
			d = p.json(mediaIndex, map[string]any{"manifests": []descriptor{d}})
		}
		return []descriptor{named(d, "x")}
	}
	extra := func(e ent) string {
		p := &pack{t: t}
		p.index(named(p.ociImage(layer), "x"))
		p.files = append(p.files, e)
		return p.save(nil)
	}
	fiveLayers := []blobOf{layer, layer, layer, layer, layer}
	big := strings.Repeat(" ", 30_000)
	for name, c := range map[string]struct{ file, why string }{
		"dots":              {extra(fileEnt("../x", "")), "leaves"},
		"twice":             {extra(fileEnt("index.json", "{}")), "twice"},
		"device":            {extra(ent{h: tar.Header{Typeflag: tar.TypeChar, Name: "d"}}), "does not belong"},
		"nothing":           {notAnImage(t), "neither"},
		"link loop":         {linkLoop(t), "link"},
		"bad json":          {docker("{"), "parse manifest.json"},
		"big json":          {docker("[]" + big), "is the most"},
		"no image":          {docker("[]"), "no image"},
		"no name":           {docker(`[{"Config":"c.json"}]`), "called"},
		"hostile name":      {docker(`[{"Config":"c.json","RepoTags":["../../x"]}]`), "cannot be"},
		"missing config":    {docker(`[{"Config":"../../etc/passwd","RepoTags":["x"]}]`), "not in the archive"},
		"missing layer":     {docker(`[{"Config":"c.json","RepoTags":["x"],"Layers":["../l"]}]`), "not in the archive"},
		"more layers":       {docker(`[{"Config":"c.json","RepoTags":["x"],"Layers":["c.json"]}]`), "lists 1 layers"},
		"many layers":       {ociFile(t, fiveLayers...), "4 are the most"},
		"many docker":       {dockerFile(t, "x", fiveLayers...), "4 are the most"},
		"nested":            {index(nested), "nested"},
		"wrong machine":     {index(func(p *pack) []descriptor { return []descriptor{otherPlatform(p, layer)} }), "no image for this machine"},
		"config of another": {wrongArch(t), "is for linux/pdp11"},
		"mount elsewhere":   {ociFile(t, blobOf{blob: layer.blob, plain: layer.plain, mount: "/etc"}), "cannot be mounted"},
		"mount climbs":      {ociFile(t, blobOf{blob: layer.blob, plain: layer.plain, mount: "/opt/berth/agent/../x"}), "cannot be mounted"},
		"outside mount":     {ociFile(t, blobOf{blob: layer.blob, plain: layer.plain, mount: "/opt/berth/agent/x"}), "outside"},
		"layer type":        {ociFile(t, blobOf{blob: layer.blob, plain: layer.plain, media: "application/x-squashfs"}), "unknown type"},
		"not a digest":      {index(func(*pack) []descriptor { return []descriptor{{MediaType: mediaManifest, Digest: "sha256:../../x"}} }), "not a sha256 digest"},
		"cut":               {cutFile(t, ociFile(t, layer)), "unexpected EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t, WithLimits(small))
			before := snapshot(t, s.dir)
			_, err := s.Import(t.Context(), c.file, ImportOptions{})
			if !errors.Is(err, sandbox.ErrInvalid) || !strings.Contains(fmt.Sprint(err), c.why) {
				t.Errorf("got %v, want %q", err, c.why)
			}
			if after := snapshot(t, s.dir); after != before {
				t.Errorf("left behind:\n%s", after)
			}
		})
	}
}

func notAnImage(t *testing.T) string {
	p := &pack{t: t}
	p.file("readme", []byte("hello"))
	return p.save(nil)
}

func linkLoop(t *testing.T) string {
	p := &pack{t: t}
	p.files = append(p.files, symEnt("manifest.json", "a"), symEnt("a", "manifest.json"))
	p.file("oci-layout", nil)
	p.files = append(p.files, symEnt("index.json", "index.json"))
	_, err := openStore(t).Import(t.Context(), p.save(nil), ImportOptions{})
	if err == nil {
		t.Error("a loop of links was read")
	}
	q := &pack{t: t}
	q.file("manifest.json", []byte(`[{"Config":"c","RepoTags":["x"]}]`))
	q.files = append(q.files, symEnt("c", "c"))
	return q.save(nil)
}

func otherPlatform(p *pack, l blobOf) descriptor {
	d := named(p.ociImage(l), "x")
	d.Platform = &platform{Architecture: "pdp11", OS: "linux"}
	return d
}

func wrongArch(t *testing.T) string {
	p := &pack{t: t}
	c := configOf(nil)
	c.Architecture = "pdp11"
	m := manifest{SchemaVersion: 2, Config: p.json(mediaConfig, c)}
	p.index(named(p.json(mediaManifest, m), "x"))
	return p.save(nil)
}

func cutFile(t *testing.T, path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b[:len(b)-1024-700], 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
