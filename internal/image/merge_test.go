package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	reader "gvisor.dev/gvisor/pkg/erofs"

	"berth.dev/internal/image/erofs"
)

func TestOneLayer(t *testing.T) {
	long := strings.Repeat("long-name-", 20)
	deep := strings.Repeat("deep/", 60)
	suid := fileEnt("bin/su", "root")
	suid.h.Mode = 0o104755 // Docker leaves the type bits in
	owner := fileEnt("owner", "x")
	owner.h.Uid, owner.h.Gid = 70000, 4294967294
	sticky := dirEnt("tmp")
	sticky.h.Mode = 0o1777
	got := merged(t, []ent{
		dirEnt("./"), suid, owner, sticky, dirEnt("./etc"), fileEnt("./etc/hosts", "h"),
		fileEnt("/abs", "root-relative"), fileEnt(long, "l"), fileEnt(deep+"f", "d"),
		symEnt("abs-link", "/etc/hosts"), symEnt("up", "../../../../etc"), symEnt("dangling", "no where"),
		linkEnt("etc/hosts2", "etc/hosts"), linkEnt("sl", "abs-link"), linkEnt("etc/hosts2", "./etc//hosts2"),
		{h: tar.Header{Typeflag: tar.TypeChar, Name: "dev/null", Devmajor: 1, Devminor: 3, Mode: 0o666}},
		{h: tar.Header{Typeflag: tar.TypeBlock, Name: "dev/sda", Devmajor: 8, Mode: 0o660, Gid: 6}},
		{h: tar.Header{Typeflag: tar.TypeFifo, Name: "run/fifo", Mode: 0o600}},
		fileEnt("empty", ""),
		{h: tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "x"}}},
		fileEnt(".wh..wh.aufs", ""), dirEnt(".wh..wh.plnk"),
	})
	want(t, got,
		"/bin/su file 4755 0:0 root", "/owner file 644 70000:4294967294 x", "/tmp dir 1777 0:0",
		"/etc/hosts file 644 0:0 h", "/etc/hosts2 link /etc/hosts", "/abs file 644 0:0 root-relative",
		"/"+long+" file 644 0:0 l", "/"+deep+"f file 644 0:0 d",
		"/abs-link -> /etc/hosts", "/sl link /abs-link", "/up -> ../../../../etc", "/dangling -> no where",
		"/dev/null 20000 666 0:0", "/dev/sda 60000 660 0:6", "/run/fifo 10000 600 0:0", "/empty file 644 0:0 ",
	)
}

func TestTimesAndDevices(t *testing.T) {
	s := openStore(t)
	old := fileEnt("old", "x")
	old.h.ModTime = time.Unix(-1000, 0)
	l := addLayer(t, s, LayerOptions{}, fileEnt("f", "x"), old,
		ent{h: tar.Header{Typeflag: tar.TypeBlock, Name: "blk", Devmajor: 259, Devminor: 70000}})
	f, err := os.Open(rootOf(t, s, commit(t, s, "t", nil, l)).Root)
	if err != nil {
		t.Fatal(err)
	}
	img, err := reader.OpenImage(f)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	at := func(name string) reader.Inode {
		root, err := img.Inode(img.RootNid())
		if err != nil {
			t.Fatal(err)
		}
		nid, err := root.Lookup(name)
		if err != nil {
			t.Fatal(err)
		}
		n, err := img.Inode(nid)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := at("f"); int64(n.Mtime()) != epoch.Unix() || n.MtimeNsec() != uint32(epoch.Nanosecond()) {
		t.Errorf("mtime %d.%d", n.Mtime(), n.MtimeNsec())
	}
	if n := at("old"); int64(n.Mtime()) != -1000 {
		t.Errorf("mtime before 1970: %d", int64(n.Mtime()))
	}
	// gVisor keeps a device's number where the data's block number would be.
	n := at("blk")
	if off, err := n.DataOffset(); err != nil || off>>12 != uint64(erofs.Rdev(259, 70000)) {
		t.Errorf("device number %x, %v", off>>12, err)
	}
}

func TestWhiteouts(t *testing.T) {
	base := []ent{
		dirEnt("a"), fileEnt("a/1", "1"), fileEnt("a/2", "2"), dirEnt("a/sub"), fileEnt("a/sub/3", "3"),
		dirEnt("b"), fileEnt("b/1", "1"), fileEnt("c", "c"), symEnt("bin", "usr/bin"), dirEnt("usr/bin"), fileEnt("usr/bin/x", "x"),
	}
	kept := func(without ...string) []string {
		all := []string{
			"/a/1 file 644 0:0 1", "/a/2 file 644 0:0 2", "/a/sub/3 file 644 0:0 3", "/b/1 file 644 0:0 1",
			"/c file 644 0:0 c", "/bin -> usr/bin", "/usr/bin/x file 644 0:0 x",
		}
		return slices.DeleteFunc(all, func(s string) bool {
			for _, w := range without {
				if strings.HasPrefix(s, w) {
					return true
				}
			}
			return false
		})
	}
	opaqueDir := xattrEnt(dirEnt("a"), "trusted.overlay.opaque", "y")
	for name, c := range map[string]struct {
		layer []ent
		want  []string
	}{
		"file":                {[]ent{fileEnt("a/.wh.1", "")}, kept("/a/1")},
		"folder":              {[]ent{fileEnt(".wh.a", "")}, kept("/a/")},
		"missing":             {[]ent{fileEnt("no/such/.wh.x", ""), fileEnt(".wh.nothing", "")}, kept()},
		"through a link":      {[]ent{fileEnt("bin/.wh.x", "")}, kept("/usr/bin/x")},
		"opaque":              {[]ent{dirEnt("a"), fileEnt("a/.wh..wh..opq", ""), fileEnt("a/new", "n")}, append(kept("/a/"), "/a/new file 644 0:0 n")},
		"opaque after":        {[]ent{fileEnt("a/new", "n"), fileEnt("a/.wh..wh..opq", "")}, append(kept("/a/"), "/a/new file 644 0:0 n")},
		"opaque root":         {[]ent{fileEnt(".wh..wh..opq", ""), fileEnt("z", "z")}, []string{"/z file 644 0:0 z"}},
		"opaque attribute":    {[]ent{opaqueDir, fileEnt("a/new", "n")}, append(kept("/a/"), "/a/new file 644 0:0 n")},
		"own file stays":      {[]ent{fileEnt("c", "new"), fileEnt(".wh.c", "")}, append(kept("/c"), "/c file 644 0:0 new")},
		"own folder stays":    {[]ent{fileEnt(".wh.a", ""), fileEnt("a/2", "new")}, append(kept("/a/"), "/a/2 file 644 0:0 new")},
		"overlay device":      {[]ent{whiteoutDev("a/1")}, kept("/a/1")},
		"overlay linked":      {[]ent{whiteoutDev("a/1"), linkEnt("./a/2", "./a/1"), linkEnt("c", "a/2")}, kept("/a/1", "/a/2", "/c")},
		"file over folder":    {[]ent{fileEnt("a", "now a file")}, append(kept("/a/"), "/a file 644 0:0 now a file")},
		"folder over file":    {[]ent{dirEnt("c"), fileEnt("c/d", "d")}, append(kept("/c"), "/c/d file 644 0:0 d")},
		"folder over link":    {[]ent{dirEnt("bin"), fileEnt("bin/y", "y")}, append(kept("/bin"), "/bin/y file 644 0:0 y")},
		"into a linked dir":   {[]ent{fileEnt("bin/y", "y")}, append(kept(), "/usr/bin/y file 644 0:0 y")},
		"link to lower":       {[]ent{linkEnt("d", "c")}, append(kept(), "/d link /c")},
		"link then new":       {[]ent{linkEnt("d", "c"), fileEnt("c", "new")}, append(kept("/c"), "/d file 644 0:0 c", "/c file 644 0:0 new")},
		"twice, last counts":  {[]ent{fileEnt("c", "one"), fileEnt("c", "two")}, append(kept("/c"), "/c file 644 0:0 two")},
		"folder keeps inside": {[]ent{{h: tar.Header{Typeflag: tar.TypeDir, Name: "a", Mode: 0o700, Uid: 5}}}, append(kept(), "/a dir 700 5:0")},
	} {
		t.Run(name, func(t *testing.T) { want(t, merged(t, base, c.layer), c.want...) })
	}
}

func TestThreeLayers(t *testing.T) {
	got := merged(t,
		[]ent{fileEnt("a", "1"), fileEnt("b", "1"), fileEnt("d/x", "1")},
		[]ent{fileEnt(".wh.a", ""), fileEnt("b", "2"), fileEnt("d/.wh..wh..opq", ""), fileEnt("d/y", "2")},
		[]ent{fileEnt("a", "3"), fileEnt("d/x", "3")},
	)
	want(t, got, "/a file 644 0:0 3", "/b file 644 0:0 2", "/d/x file 644 0:0 3", "/d/y file 644 0:0 2")
}

func TestSparse(t *testing.T) {
	tarBin, err := exec.LookPath("tar")
	if err != nil {
		t.Fatal("GNU tar is needed: ", err)
	}
	for _, format := range []string{"--format=gnu", "--format=posix"} {
		t.Run(format, func(t *testing.T) {
			dir := t.TempDir()
			content := make([]byte, 3<<20)
			copy(content[1<<20:], "in the middle")
			sparse, err := os.Create(filepath.Join(dir, "sparse"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := sparse.WriteAt([]byte("in the middle"), 1<<20); err != nil {
				t.Fatal(err)
			}
			if err := sparse.Truncate(3 << 20); err != nil {
				t.Fatal(err)
			}
			sparse.Close()
			out, err := exec.Command(tarBin, "-C", dir, "-S", format, "--owner=0", "--group=0", "--mode=0644", "-cf", "-", "sparse").Output()
			if err != nil {
				t.Fatal(err)
			}
			if len(out) > 1<<20 {
				t.Fatalf("tar wrote %d bytes: not sparse", len(out))
			}
			s := openStore(t)
			l, err := s.AddLayer(t.Context(), bytes.NewReader(out), LayerOptions{})
			if err != nil {
				t.Fatal(err)
			}
			want(t, list(t, rootOf(t, s, commit(t, s, "s", nil, l)).Root),
				fmt.Sprintf("/sparse file 644 0:0 %d bytes %s", len(content), short(digestOf(content))))
		})
	}
}

// TestRealTar packs a folder with the host's tar in all its formats and holds
// the image against the folder.
func TestRealTar(t *testing.T) {
	dir := t.TempDir()
	expect := map[string]string{}
	for i := 1; i < 60; i++ {
		sub := fmt.Sprintf("d%d/%s", i%7, strings.Repeat("s", i))
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
		content := bytes.Repeat([]byte{byte('a' + i%26)}, i*997)
		name := fmt.Sprintf("%s/f%d-%s", sub, i, strings.Repeat("n", i*3))
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Link(filepath.Join(dir, name), filepath.Join(dir, sub, "hard")); err == nil {
			expect["/"+sub+"/hard"] = "hard"
		}
		text := string(content)
		if len(content) > 40 {
			text = fmt.Sprintf("%d bytes %s", len(content), short(digestOf(content)))
		}
		expect["/"+name] = "file 644 0:0 " + text
	}
	for _, format := range []string{"gnu", "posix"} {
		out, err := exec.Command("tar", "-C", dir, "--format="+format, "--owner=0", "--group=0", "--sort=name", "-cf", "-", ".").Output()
		if err != nil {
			t.Fatal(err)
		}
		s := openStore(t)
		l, err := s.AddLayer(t.Context(), bytes.NewReader(out), LayerOptions{})
		if err != nil {
			t.Fatal(err)
		}
		got := list(t, rootOf(t, s, commit(t, s, "t", nil, l)).Root)
		for path, w := range expect {
			g := got[path]
			if w == "hard" {
				if !strings.HasPrefix(g, "link ") && !strings.HasPrefix(g, "file ") {
					t.Errorf("%s %s: got %q", format, path, g)
				}
				continue
			}
			if target, ok := strings.CutPrefix(g, "link "); ok {
				g = got[target]
			}
			if g != w {
				t.Errorf("%s %s: got %q, want %q", format, path, g, w)
			}
		}
	}
}

func TestXattrs(t *testing.T) {
	s := openStore(t)
	root := addLayer(t, s, LayerOptions{},
		xattrEnt(fileEnt("bin/ping", "p"), "security.capability", "\x01\x00caps"), xattrEnt(dirEnt("./"), "user.root", "r"))
	agent := addLayer(t, s, LayerOptions{Mount: "/opt/berth/agent/claude"},
		xattrEnt(fileEnt("opt/berth/agent/claude/f", "f"), "user.k", "v"))
	r := rootOf(t, s, commit(t, s, "x", nil, root, agent))
	var got []string
	for _, x := range r.Xattrs {
		got = append(got, fmt.Sprintf("%s %s=%q", x.Path, x.Name, x.Value))
	}
	w := []string{`/ user.root="r"`, `/bin/ping security.capability="\x01\x00caps"`, `/opt/berth/agent/claude/f user.k="v"`}
	if !slices.Equal(got, w) {
		t.Errorf("got %q, want %q", got, w)
	}
	want(t, list(t, r.Root), "/bin/ping file 644 0:0 p") // readable, although it has attributes
}
