package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"berth.dev/internal/sandbox"
)

// small are limits that a test can break.
var small = Limits{
	LayerSize: 64 << 20, LayerRatio: 20, RatioFloor: 1 << 20, ArchiveSize: 64 << 20, Entries: 50, Layers: 4,
	PathLength: 300, Depth: 10, XattrSize: 1000, Metadata: 20_000, ManifestSize: 20_000, ConfigSize: 20_000, IndexDepth: 2,
}

// attack is a layer that must be refused: the entry that is to blame, and why.
type attack struct {
	layer      []byte
	entry, why string
}

func attacks(t testing.TB) map[string]attack {
	one := func(e ent) []byte { return tarOf(t, dirEnt("fine"), e) }
	node := func(typ byte, major, minor int64) ent {
		return ent{h: tar.Header{Typeflag: typ, Name: "dev", Devmajor: major, Devminor: minor}}
	}
	big := tarOf(t, fileEnt("zeros", strings.Repeat("\x00", 4<<20)))
	text := tarOf(t, fileEnt("first", "1"), fileEnt("second", randomText(300_000)))
	var many, names []ent
	for i := range 60 {
		many = append(many, fileEnt(fmt.Sprintf("f%02d", i), ""))
	}
	for i := range 45 {
		e := symEnt(fmt.Sprintf("l%02d", i), strings.Repeat("x", 800))
		names = append(names, e)
	}
	costly := []ent{dirEnt("d"), symEnt("l", strings.Repeat("./", 249)+"d/")}
	for i := range 45 {
		costly = append(costly, fileEnt(fmt.Sprintf("l/f%02d", i), ""))
	}
	owner := fileEnt("owner", "")
	owner.h.Uid = 1 << 33
	over := fileEnt("real", "")
	sock := ent{h: tar.Header{Typeflag: 's', Name: "sock"}}
	return map[string]attack{
		"dots":                   {one(fileEnt("../evil", "x")), "../evil", "leaves the layer"},
		"dots inside":            {one(fileEnt("fine/../../evil", "x")), "fine/../../evil", "leaves the layer"},
		"dots that stay":         {one(fileEnt("fine/../evil", "x")), "fine/../evil", "leaves the layer"},
		"absolute dots":          {one(fileEnt("/../evil", "x")), "/../evil", "leaves the layer"},
		"dots folder":            {one(dirEnt("..")), "../", "leaves the layer"},
		"hard link up":           {one(linkEnt("evil", "../../etc/passwd")), "evil", "leaves the layer"},
		"hard link absolute":     {one(linkEnt("evil", "/etc/passwd")), "evil", "absolute path"},
		"hard link nowhere":      {one(linkEnt("evil", "etc/passwd")), "evil", "does not exist"},
		"hard link to folder":    {one(linkEnt("evil", "fine")), "evil", "is a folder"},
		"hard link to root":      {one(linkEnt("evil", "./")), "evil", "folder"},
		"whiteout of dots":       {one(fileEnt("fine/.wh...", "")), "fine/.wh...", "names no file"},
		"whiteout of dot":        {one(fileEnt("fine/.wh..", "")), "fine/.wh..", "names no file"},
		"whiteout of nothing":    {one(fileEnt("fine/.wh.", "")), "fine/.wh.", "names no file"},
		"whiteout as folder":     {one(fileEnt(".wh.x/y", "")), ".wh.x/y", "name of a whiteout"},
		"link out, then through": {tarOf(t, symEnt("out", "../../../tmp"), fileEnt("out/evil", "x")), "out/evil", "leaves the layer"},
		"costly links":           {tarOf(t, costly...), "l/f40", "too many symbolic links"},
		"link loop":              {tarOf(t, symEnt("a", "b"), symEnt("b", "a"), fileEnt("a/x", "")), "a/x", "too many symbolic links"},
		"through a file":         {tarOf(t, fileEnt("f", ""), fileEnt("f/x", "")), "f/x", "not a folder"},
		"through a device":       {tarOf(t, node(tar.TypeChar, 1, 3), fileEnt("dev/x", "")), "dev/x", "not a folder"},
		"root is a file":         {one(ent{h: tar.Header{Typeflag: tar.TypeSymlink, Name: "./", Linkname: "/etc"}}), "./", "must be a folder"},
		"long name":              {one(fileEnt(strings.Repeat("n", 256), "")), strings.Repeat("n", 200) + "…", "255 is the most"},
		"long path":              {one(fileEnt(strings.Repeat("abc/", 100)+"f", "")), strings.Repeat("abc/", 50) + "…", "300 is the most"},
		"deep path":              {one(fileEnt(strings.Repeat("d/", 11)+"f", "")), strings.Repeat("d/", 11) + "f", "folders deep"},
		"deep through links":     {tarOf(t, symEnt("l", strings.Repeat("d/", 8)), dirEnt(strings.Repeat("d/", 8)+"e"), fileEnt("l/e/x/y", "")), "l/e/x/y", "folders deep"},
		"unknown type":           {one(sock), "sock", "is not one that a layer may hold"},
		"device number":          {one(node(tar.TypeBlock, 4096, 0)), "dev", "does not exist"},
		"owner":                  {one(owner), "owner", "owner"},
		"big xattr":              {one(xattrEnt(over, "user.big", strings.Repeat("v", 1001))), "real", "extended attributes"},
		"overlay redirect":       {one(xattrEnt(dirEnt("d"), "trusted.overlay.redirect", "/etc")), "d/", "steer"},
		"overlay opaque file":    {one(xattrEnt(over, "user.overlay.opaque", "y")), "real", "steer"},
		"many entries":           {tarOf(t, many...), "f50", "more than 50 entries"},
		"much metadata":          {tarOf(t, names...), "l24", "names and attributes"},
		"gzip bomb":              {gzipped(t, big), "zeros", "bomb"},
		"zstd bomb":              {zstded(t, big), "zeros", "bomb"},
		"sparse bomb":            {sparseBomb(), "huge", "bomb"},
		"giant":                  {giant(), "giant", "more than"},
		"truncated gzip":         {cut(gzipped(t, text)), "second", "cut short"},
		"truncated zstd":         {cut(zstded(t, text)), "second", "cut short"},
		"truncated tar":          {cut(text), "second", "cut short"},
		"gzip checksum":          {flipEnd(gzipped(t, text), 6), "second", "checksum"},
		"tar checksum":           {flip(text, 2048+10), "first", "header"},
		"no tar":                 {[]byte(strings.Repeat("no tar ", 200)), "", "header"},
		"xz":                     {[]byte("\xfd7zXZ\x00rest"), "", "neither gzip nor zstd"},
	}
}

func cut(b []byte) []byte { return b[:len(b)-len(b)/4] }

func flip(b []byte, at int) []byte {
	b = bytes.Clone(b)
	b[at] ^= 0xff
	return b
}

func flipEnd(b []byte, fromEnd int) []byte { return flip(b, len(b)-fromEnd) }

// randomText does not compress, so that a cut falls into it.
func randomText(n int) string {
	var b strings.Builder
	x := uint32(1)
	for b.Len() < n {
		x = x*1664525 + 1013904223
		b.WriteByte(byte(x >> 24))
	}
	return b.String()
}

// sparseBomb is one GNU sparse file of 40 MiB that holds nothing.
func sparseBomb() []byte {
	var b bytes.Buffer
	block := make([]byte, 512)
	copy(block, "huge")
	copy(block[100:], "0000644\x000000000\x000000000\x0000000000000\x0014524770400\x00")
	copy(block[148:], "        ")
	block[156] = tar.TypeGNUSparse
	copy(block[257:], "ustar  \x00")
	copy(block[386:], fmt.Sprintf("%011o\x00%011o\x00", 40<<20, 0)) // one fragment: at the end, empty
	copy(block[483:], fmt.Sprintf("%011o\x00", 40<<20))             // real size
	sum := 0
	for _, c := range block {
		sum += int(c)
	}
	copy(block[148:], fmt.Sprintf("%06o\x00 ", sum))
	b.Write(block)
	b.Write(make([]byte, 1024))
	return b.Bytes()
}

// giant is a header that promises 1 PiB.
func giant() []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "giant", Size: 1 << 50, Format: tar.FormatPAX})
	return b.Bytes()
}

// TestHostileLayers brings every attack in by both ways that layers from outside
// come. Nothing of it may stay.
func TestHostileLayers(t *testing.T) {
	honest := plainBlob(tarOf(t, fileEnt("honest", "file")))
	for name, a := range attacks(t) {
		t.Run(name, func(t *testing.T) {
			s := openStore(t, WithLimits(small))
			plain := unpacked(a.layer)
			bad := blobOf{blob: a.layer, plain: plain}
			commit(t, s, "other", nil, addLayer(t, s, LayerOptions{}, fileEnt("other", "x")))
			before := snapshot(t, s.dir)
			for kind, file := range map[string]string{
				"oci":    ociFile(t, honest, bad),
				"docker": dockerFile(t, "bad:1", honest, bad),
			} {
				_, err := s.Import(t.Context(), file, ImportOptions{})
				refused(t, err, a.entry, a.why)
				var le *LayerError
				if errors.As(err, &le) && !strings.Contains(le.Layer, "step 1") {
					t.Errorf("%s: blames layer %q, not the second", kind, le.Layer)
				}
				if after := snapshot(t, s.dir); after != before {
					t.Errorf("%s: before:\n%s\nafter:\n%s", kind, before, after)
				}
			}
		})
	}
}

// unpacked is what the configuration of a careful attacker would give the
// DiffID of.
func unpacked(b []byte) []byte {
	r, err := decompress(bytes.NewReader(b))
	if err != nil {
		return b
	}
	defer r.Close()
	out, _ := io.ReadAll(io.LimitReader(r, 100<<20))
	return out
}

// TestHostileAddLayer is the same for the layers that a builder adds. What is
// wrong only together with other layers is found by Commit.
func TestHostileAddLayer(t *testing.T) {
	for name, a := range attacks(t) {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "images")
			collected(t, dir)
			s := openAt(t, dir, WithLimits(small))
			before := snapshot(t, s.dir)
			l, err := s.AddLayer(t.Context(), bytes.NewReader(a.layer), LayerOptions{CreatedBy: "step 7"})
			if err == nil {
				_, err = s.Commit(t.Context(), "bad", nil, []Layer{l}, Config{})
				if _, lerr := s.Lookup("bad"); !errors.Is(lerr, sandbox.ErrNotFound) {
					t.Errorf("the image has a name: %v", lerr)
				}
			} else if after := snapshot(t, s.dir); after != before {
				t.Errorf("before:\n%s\nafter:\n%s", before, after)
			}
			refused(t, err, a.entry, a.why)
			if !strings.Contains(err.Error(), "step 7") {
				t.Errorf("%q does not name the layer", err)
			}
		})
	}
}

// collected asserts that when the test and its Stores are done, GC leaves an
// empty store. To be called before the test's own Store is opened.
func collected(t *testing.T, dir string) {
	t.Helper()
	t.Cleanup(func() {
		s := openAt(t, dir)
		if _, err := s.GC(context.Background(), nil); err != nil {
			t.Error(err)
		}
		for _, d := range []string{"blobs/sha256", "index", "erofs"} {
			files, err := os.ReadDir(filepath.Join(dir, d))
			if err != nil || len(files) != 0 {
				t.Errorf("%s: %d files, %v", d, len(files), err)
			}
		}
	})
}

func TestCutStreamIsRefused(t *testing.T) {
	s := openStore(t)
	whole := tarOf(t, fileEnt("a", "1"), fileEnt("b", "2"))
	// Cut exactly between two entries: the tar reader alone takes it for the end.
	_, err := s.AddLayer(t.Context(), bytes.NewReader(whole[:len(whole)/2]), LayerOptions{})
	var le *LayerError
	if !errors.As(err, &le) || !strings.Contains(err.Error(), "cut short") {
		t.Errorf("got %v", err)
	}
}

func TestWrongDigests(t *testing.T) {
	good := plainBlob(tarOf(t, fileEnt("good", "the content")))
	other := plainBlob(tarOf(t, fileEnt("other", "y")))
	lying := func(change func(p *pack, m *manifest)) string {
		p := &pack{t: t}
		m := manifest{SchemaVersion: 2, MediaType: mediaManifest}
		m.Layers = []descriptor{p.blob("", good.blob)}
		m.Config = p.json(mediaConfig, configOf([]blobOf{good}))
		change(p, &m)
		p.index(named(p.json(mediaManifest, m), "liar"))
		return p.save(nil)
	}
	swapped := func(b, with []byte) string { // the archive has other bytes under a digest
		raw, err := os.ReadFile(ociFile(t, good))
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "swapped.tar")
		if err := os.WriteFile(file, bytes.Replace(raw, b, with, 1), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	for name, c := range map[string]struct{ file, why string }{
		"blob":     {swapped([]byte("good\x00"), []byte("evil\x00")), "header"}, // the tar's own sum finds it first
		"content":  {swapped([]byte("the content"), []byte("bad content")), "wrong digest"},
		"diff id":  {lying(func(p *pack, m *manifest) { m.Config = p.json(mediaConfig, configOf([]blobOf{other})) }), "wrong digest"},
		"size":     {lying(func(_ *pack, m *manifest) { m.Layers[0].Size++ }), "wrong digest"},
		"config":   {swapped([]byte("PATH=/bin"), []byte("PATH=/evl")), "wrong digest"},
		"manifest": {swapped([]byte(`"schemaVersion":2,"mediaType":"`+mediaManifest), []byte(`"schemaVersion":3,"mediaType":"`+mediaManifest)), "wrong digest"},
		"missing":  {lying(func(_ *pack, m *manifest) { m.Layers[0].Digest = digestOf([]byte("no such")) }), "does not have it"},
		"docker":   {dockerFile(t, "x", blobOf{blob: good.blob, plain: other.plain}), "wrong digest"},
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t)
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

// TestPoisonedRoot is an image that claims another image's DiffID for a blob of
// its own, so that the root built for it would be found by that other image.
func TestPoisonedRoot(t *testing.T) {
	s := openStore(t)
	victim := plainBlob(tarOf(t, fileEnt("sudo", "honest")))
	evil := tarOf(t, fileEnt("sudo", "wicked"))
	importOK(t, s, ociFile(t, victim))
	importOK(t, s, ociFile(t, plainBlob(evil)))
	for _, file := range []string{
		ociFile(t, blobOf{blob: evil, plain: victim.plain}), // both are known, but not as a pair
		dockerFile(t, "evil", blobOf{blob: gzipped(t, evil), plain: append(bytes.Clone(victim.plain), 0)}),
	} {
		if _, err := s.Import(t.Context(), file, ImportOptions{}); err == nil || !strings.Contains(err.Error(), "wrong digest") {
			t.Errorf("got %v", err)
		}
	}
}

func TestMountLayer(t *testing.T) {
	const dir = "/opt/berth/agent/claude"
	in := "opt/berth/agent/claude/"
	for name, c := range map[string]struct {
		ents       []ent
		entry, why string
	}{
		"beside":             {[]ent{fileEnt("opt/berth/agent/codex/f", "")}, "opt/berth/agent/codex/f", "outside"},
		"prefix":             {[]ent{fileEnt("opt/berth/agent/claudette", "")}, "opt/berth/agent/claudette", "outside"},
		"above":              {[]ent{fileEnt("opt/f", "")}, "opt/f", "outside"},
		"file on the way":    {[]ent{fileEnt("opt", "")}, "opt", "outside"},
		"hides on the way":   {[]ent{fileEnt("opt/.wh.berth", "")}, "opt/berth", "outside"},
		"hard link out":      {[]ent{linkEnt(in+"x", "etc/passwd")}, in + "x", "outside"},
		"out through a link": {[]ent{symEnt(in+"out", "/etc"), fileEnt(in+"out/f", "")}, in + "out/f", "outside"},
		"a file in place":    {[]ent{fileEnt("opt/berth/agent/claude", "")}, "opt/berth/agent/claude", "outside"},
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t)
			l, err := s.AddLayer(t.Context(), bytes.NewReader(tarOf(t, c.ents...)), LayerOptions{Mount: dir})
			if err == nil {
				_, err = s.Commit(t.Context(), "x", nil, []Layer{l}, Config{})
			}
			refused(t, err, c.entry, c.why)
		})
	}
	for _, bad := range []string{"/", "/opt", "relative", "/opt/berth/agent", "/opt/berth/agent/a/b", "/opt/berth/agent/..", "/opt/berth/agent/A"} {
		if _, err := openStore(t).AddLayer(t.Context(), bytes.NewReader(tarOf(t)), LayerOptions{Mount: bad}); !errors.Is(err, sandbox.ErrInvalid) {
			t.Errorf("mount %q: %v", bad, err)
		}
	}
}

// TestDiskFull: what the host cannot store is not the layer's fault.
func TestDiskFull(t *testing.T) {
	l := Limits{}.withDefaults()
	_, err := scanLayer(t.Context(), bytes.NewReader(tarOf(t, fileEnt("f", randomText(1<<20)))), "x", &l, fullDisk{})
	var le *LayerError
	if !errors.Is(err, sandbox.ErrUnavailable) || !errors.Is(err, syscall.ENOSPC) || errors.As(err, &le) || !strings.Contains(sandbox.HintOf(err), "disk is full") {
		t.Errorf("got %v", err)
	}
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) {
	return 0, &os.PathError{Op: "write", Path: "blob", Err: syscall.ENOSPC}
}
