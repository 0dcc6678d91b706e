package debian

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os/exec"
	"path"
	"strings"
	"testing"

	"berth.dev/internal/debian/debiantest"
)

type entry struct {
	*tar.Header
	data string
}

// readLayer reads a layer and checks what holds for every layer: clean relative
// paths, each once, below folders that came before, hard links to what is there.
func readLayer(t *testing.T, layer []byte) map[string]entry {
	t.Helper()
	all := map[string]entry{}
	tr := tar.NewReader(bytes.NewReader(layer))
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(h.Name, "/")
		if name == "" || path.Clean("/"+name) != "/"+name {
			t.Fatalf("path %q", h.Name)
		}
		if _, twice := all[name]; twice {
			t.Fatalf("%s is there twice", name)
		}
		if dir := path.Dir(name); dir != "." && all[dir].Header == nil || dir != "." && all[dir].Typeflag != tar.TypeDir {
			t.Fatalf("%s lies in no folder", name)
		}
		if h.Typeflag == tar.TypeLink && all[h.Linkname].Header == nil {
			t.Fatalf("%s is a hard link to nothing (%s)", name, h.Linkname)
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		all[name] = entry{h, string(data)}
	}
}

func (e entry) String() string {
	if e.Header == nil {
		return "absent"
	}
	s := fmt.Sprintf("%c %04o %d:%d", e.Typeflag, e.Mode, e.Uid, e.Gid)
	if e.Linkname != "" {
		s += " -> " + e.Linkname
	}
	return s
}

func TestLayer(t *testing.T) {
	all := readLayer(t, newWorld(t, debiantest.Base(), nil).layer(t))
	for name, want := range map[string]string{
		"bin":                               "2 0777 0:0 -> usr/bin",
		"lib64":                             "2 0777 0:0 -> usr/lib64", // not in base-files: made
		"usr/lib64":                         "5 0755 0:0",
		"tmp":                               "5 1777 0:0",
		"var/mail":                          "5 2775 0:8", // group mail, by name
		"etc/issue":                         "absent",
		"etc/issue.dpkg-new":                "0 0644 0:0",
		"usr/bin/dpkg":                      "0 0755 0:0", // shipped below /bin
		"usr/bin/dpkg-too":                  "1 0644 0:0 -> usr/bin/dpkg",
		"usr/bin/chage":                     "0 2755 0:42",
		"usr/bin/passwd":                    "0 4755 0:0",
		"run/passwd":                        "5 0755 0:0", // shipped below /var/run
		"dev/fake":                          "3 0666 0:0",
		"usr/lib/x86_64/libc.so.6":          "0 0755 0:0",
		"usr/share/doc/libc6/copyright":     "0 0644 0:0",
		"usr/share/doc/libc6/changelog.gz":  "absent",
		"usr/share/man/man7/libc.7.gz":      "absent",
		"usr/share/man/man7":                "5 0755 0:0",
		"usr/bin/unrelated":                 "absent",
		"usr/sbin/policy-rc.d":              "0 0755 0:0",
		"etc/apt/keyrings/berth-host-1.gpg": "0 0644 0:0",
		"etc/apt/apt.conf.d/01autoremove.dpkg-new": "0 0644 0:0",
		"var/lib/dpkg/info/libc6:amd64.shlibs":     "0 0644 0:0",
		"var/lib/dpkg/info/base-passwd.preinst":    "0 0755 0:0",
		"var/lib/dpkg/info/apt.control":            "absent",
		"var/lib/dpkg/updates":                     "5 0755 0:0",
	} {
		if got := all[name].String(); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if m := all["usr/bin/dpkg"].ModTime; !m.Equal(debiantest.Time) {
		t.Errorf("dpkg is of %s", m)
	}
}

func TestLayerDatabase(t *testing.T) {
	all := readLayer(t, newWorld(t, debiantest.Base(), nil).layer(t))
	stanzas, err := parseStanzas([]byte(all["var/lib/dpkg/status"].data))
	if err != nil || len(stanzas) != 9 {
		t.Fatalf("%d packages, %v", len(stanzas), err)
	}
	for _, s := range stanzas {
		if s.get("Status") != "install ok unpacked" || s.get("Version") == "" {
			t.Errorf("%s: status %q", s.get("Package"), s.get("Status"))
		}
	}
	for name, want := range map[string]string{
		"var/lib/dpkg/info/libc6:amd64.list": "/.\n/lib\n/lib/x86_64\n/lib/x86_64/libc.so.6\n/usr/share/doc/libc6\n/usr/share/doc/libc6/copyright\n/usr/share/doc/libc6/changelog.gz\n/usr/share/man/man7/libc.7.gz\n",
		"var/lib/dpkg/info/format":           "1\n",
		"var/lib/dpkg/arch":                  "amd64\n",
		"var/lib/dpkg/triggers/File":         "/usr/share/things apt\n",
		"var/lib/dpkg/triggers/ld-cache":     "libc6:amd64/noawait\n",
	} {
		if got := all[name].data; got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	want := "Package: apt\nStatus: install ok unpacked\nVersion: 1:3.0.3\nArchitecture: amd64\nMaintainer: Nobody <nobody@example.org>\n" +
		"Depends: libc6 (>= 2.41), dpkg | cdpkg, passwd\nDescription: a package\n that exists in a test\n .\n only\n" +
		"Conffiles:\n /etc/apt/apt.conf.d/01autoremove newconffile\n\n"
	if got := all["var/lib/dpkg/status"].data; !strings.HasPrefix(got, want) {
		t.Errorf("got\n%s\nwant\n%s", got[:min(len(got), len(want))], want)
	}
}

func TestLayerSources(t *testing.T) {
	w := newWorld(t, debiantest.Base(), nil)
	w.server.Add(t, debiantest.Suite{Name: "trixie-security", Components: []string{"main"}, Key: w.key})
	w.source.Proxy.HTTP = "http://proxy.test:3128"
	w.source.Archives = append(w.source.Archives, w.archive(t, "trixie-security"))
	w.source.Archives[0].URI = strings.Replace(w.source.Archives[0].URI, "http://", "http://user:secret@", 1)
	w.source.Archives[1].IgnoreValidUntil = true
	layer := w.layer(t)
	if bytes.Contains(layer, []byte("secret")) {
		t.Error("the host's password is in the layer")
	}
	all := readLayer(t, layer)
	want := strings.ReplaceAll(`# Written by Berth: the archives that the host's own apt uses.

Types: deb
URIs: @
Suites: trixie
Components: main
Signed-By: /etc/apt/keyrings/berth-host-1.gpg

Types: deb
URIs: @
Suites: trixie-security
Components: main
Signed-By: /etc/apt/keyrings/berth-host-1.gpg
Check-Valid-Until: no
`, "@", w.server.URI())
	if got := all["etc/apt/sources.list.d/debian.sources"].data; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := all["etc/apt/keyrings/berth-host-1.gpg"].data; got != string(w.source.Archives[0].Keyring) {
		t.Errorf("keyring of %d bytes", len(got))
	}
	if got := all["etc/apt/apt.conf.d/00berth"].data; !strings.Contains(got, `Acquire::http::Proxy "http://proxy.test:3128";`) {
		t.Errorf("apt.conf: %s", got)
	}
}

// TestLayerConflicts: what two packages may and may not bring.
func TestLayerConflicts(t *testing.T) {
	pkg := func(name, fields string, files ...debiantest.File) debiantest.Package {
		return debiantest.Package{Name: name, Version: "1", Fields: fields, Files: files}
	}
	file := func(name, data string) debiantest.File { return debiantest.File{Name: name, Data: data} }
	for name, c := range map[string]struct {
		packages []debiantest.Package
		wantErr  string
		want     map[string]string // path: data or form
	}{
		"the same file": {
			packages: []debiantest.Package{pkg("aa", "", file("./usr/bin/x", "a")), pkg("bb", "", file("./bin/x", "b"))},
			wantErr:  `unpack package bb 1: entry "./bin/x": package aa brings it too`,
		},
		"replaced": {
			packages: []debiantest.Package{pkg("aa", "", file("./usr/bin/x", "old"), file("./usr/bin/y", "y")), pkg("bb", "Replaces: aa (<< 2)", file("./usr/bin/x", "new"))},
			want:     map[string]string{"usr/bin/x": "new", "usr/bin/y": "y", "var/lib/dpkg/info/aa.list": "/usr/bin/y\n", "var/lib/dpkg/info/bb.list": "/usr/bin/x\n"},
		},
		"replaced in another version": {
			packages: []debiantest.Package{pkg("aa", "", file("./usr/bin/x", "old")), pkg("bb", "Replaces: aa (<< 1)", file("./usr/bin/x", "new"))},
			wantErr:  "package aa brings it too",
		},
		"a folder and a link": {
			packages: []debiantest.Package{pkg("aa", "", debiantest.File{Name: "./opt/d/"}), pkg("bb", "", debiantest.File{Name: "./opt/d", Type: tar.TypeSymlink, Link: "e"}, file("./opt/d/f", "f"))},
			want:     map[string]string{"opt/d/f": "f"},
		},
		"a file in a file": {
			packages: []debiantest.Package{pkg("aa", "", file("./opt/x", "x"), file("./opt/x/y", "y"))},
			wantErr:  "is no folder",
		},
		"upwards": {
			packages: []debiantest.Package{pkg("aa", "", file("./../x", "x"))}, wantErr: "no path of a package",
		},
		"a link upwards": {
			packages: []debiantest.Package{pkg("aa", "", debiantest.File{Name: "./opt/up", Type: tar.TypeSymlink, Link: "../../../../etc"}, file("./opt/up/x", "x"))},
			want:     map[string]string{"etc/x": "x"},
		},
		"links in a ring": {
			packages: []debiantest.Package{pkg("aa", "", debiantest.File{Name: "./p", Type: tar.TypeSymlink, Link: "q"}, debiantest.File{Name: "./q", Type: tar.TypeSymlink, Link: "p"}, file("./p/x", "x"))},
			wantErr:  "too many symbolic links",
		},
		"a hard link to nothing": {
			packages: []debiantest.Package{pkg("aa", "", debiantest.File{Name: "./x", Type: tar.TypeLink, Link: "./y"})}, wantErr: "which is not there",
		},
		"a hard link to a configuration file": {
			packages: []debiantest.Package{{Name: "aa", Version: "1", Control: map[string]string{"conffiles": "/etc/x\n"}, Files: []debiantest.File{
				file("./etc/x", "x"), {Name: "./etc/y", Type: tar.TypeLink, Link: "./etc/x"},
			}}},
			want: map[string]string{"etc/x.dpkg-new": "x"},
		},
		"one of our files": {
			packages: []debiantest.Package{pkg("aa", "", file("./etc/hosts", "x"))}, wantErr: "package aa brings /etc/hosts",
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, append(debiantest.Base(), c.packages...), nil)
			w.boot.Include = []string{}
			for _, p := range c.packages {
				w.boot.Include = append(w.boot.Include, p.Name)
			}
			var out bytes.Buffer
			err := w.boot.WriteLayer(t.Context(), w.resolve(t), &out)
			if c.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), c.wantErr) {
					t.Errorf("error %v, want %q", err, c.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			all := readLayer(t, out.Bytes())
			for name, want := range c.want {
				if got := all[name].data; got != want {
					t.Errorf("%s: %q, want %q", name, got, want)
				}
			}
		})
	}
}

// TestLayerOfDamagedPackage: a package that is what the index says, but cannot
// be decompressed.
func TestLayerOfDamagedPackage(t *testing.T) {
	w := newWorld(t, debiantest.Base(), nil)
	plan := w.resolve(t)
	for i, p := range plan.Packages {
		if p.Name == "libc6" {
			deb := w.server.Get("pool/libc6_2.41-12_amd64.deb")
			// The last bytes of the data part's xz stream are its index and end.
			deb = append(bytes.Clone(deb[:len(deb)-20]), make([]byte, 20)...)
			w.server.Put("/debian/pool/libc6_2.41-12_amd64.deb", deb)
			plan.Packages[i].SHA256 = sumOf(deb)
		}
	}
	err := w.boot.WriteLayer(t.Context(), plan, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "unpack package libc6 2.41-12: ") || strings.Contains(err.Error(), errCut.Error()) {
		t.Errorf("error %v", err)
	}
}

func TestLayerWriteError(t *testing.T) {
	w := newWorld(t, debiantest.Base(), nil)
	plan := w.resolve(t)
	for _, left := range []int{0, 5000, 30000} {
		if err := w.boot.WriteLayer(t.Context(), plan, &limitedWriter{io.Discard, left}); err == nil {
			t.Errorf("no error when only %d bytes can be written", left)
		}
	}
}

func TestExcluded(t *testing.T) {
	for p, want := range map[string]bool{
		"/usr/share/doc": false, "/usr/share/doc/x": false, "/usr/share/doc/x/copyright": false, "/usr/share/doc/x/changelog.gz": true,
		"/usr/share/doc/x/examples/copyright": true, "/usr/share/man": false, "/usr/share/man/man1": true, "/usr/share/man/man1/x.1.gz": true,
		"/usr/share/locale/locale.alias": false, "/usr/share/locale/de/LC_MESSAGES/x.mo": true, "/usr/share/manual": false, "/usr/bin/x": false,
		"/usr/share/i18n/locales/C": false,
	} {
		if got := excluded(p); got != want {
			t.Errorf("excluded(%q) = %v", p, got)
		}
	}
}

// TestConfigureScript: a shell takes it, and it names the packages in an order
// that works.
func TestConfigureScript(t *testing.T) {
	script := newWorld(t, debiantest.Base(), nil).resolve(t).ConfigureScript()
	cmd := exec.Command("sh", "-n")
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if !strings.Contains(script, "for package in base-passwd base-files apt ca-certificates") || strings.Contains(script, "@") {
		t.Errorf("script:\n%s", script)
	}
}
