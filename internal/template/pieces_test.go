package template

import (
	"archive/tar"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"berth.dev/internal/agent"
)

// certificate makes one of a name, as PEM.
func certificate(t *testing.T, name string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour), IsCA: true}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func TestCertificateFiles(t *testing.T) {
	public, company, other := certificate(t, "public"), certificate(t, "company"), certificate(t, "other")
	known := strings.TrimSuffix(public, "\n") // no newline at its end
	host := "# comment\n" + company + public + other + company
	files := certificateFiles([]byte(known), []byte(host))
	if len(files) != 3 {
		t.Fatalf("%d files", len(files))
	}
	for _, f := range files[:2] {
		if filepath.Dir(f.Path) != localCAs || len(blocks(f.Data)) != 1 {
			t.Errorf("%s: %s", f.Path, f.Data)
		}
	}
	if files[2].Path != caBundle || len(blocks(files[2].Data)) != 3 {
		t.Errorf("the bundle is %s: %s", files[2].Path, files[2].Data)
	}
	if again := certificateFiles(files[2].Data, []byte(host)); again != nil {
		t.Errorf("the second time: %d files", len(again))
	}
	if none := certificateFiles([]byte(known), nil); none != nil {
		t.Errorf("a host without certificates: %d files", len(none))
	}
}

func TestHostCertificates(t *testing.T) {
	root := t.TempDir()
	write(t, root, "/etc/pki/tls/certs/ca-bundle.crt", "fedora")
	write(t, root, "/own.pem", "own")
	env := map[string]string{}
	getenv := func(k string) string { return env[k] }
	if got := string(hostCertificates(root, getenv)); got != "fedora" {
		t.Errorf("found %q", got)
	}
	env["SSL_CERT_FILE"] = "/own.pem"
	if got := string(hostCertificates(root, getenv)); got != "own" {
		t.Errorf("with SSL_CERT_FILE: %q", got)
	}
}

func write(t *testing.T, root, name, content string) {
	t.Helper()
	p := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestMirrorURL(t *testing.T) {
	for in, want := range map[string]string{
		"https://mirror.example.org/npm/\n":    "https://mirror.example.org/npm",
		"http://10.1.2.3:4873":                 "http://10.1.2.3:4873",
		"https://me:secret@mirror.example.org": "",
		"https://token@mirror.example.org/":    "",
		"https://mirror.example.org/?key=abc":  "",
		"http://localhost:4873/":               "",
		"http://127.0.0.1:4873/":               "",
		"http://[::1]:4873/":                   "",
		"file:///srv/mirror":                   "",
		"undefined":                            "",
		"https://x.example.org/'; reboot '":    "https://x.example.org/%27;%20reboot%20%27",
		"https://x.example.org/$(reboot)":      "",
		"":                                     "",
	} {
		if got := mirrorURL(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestReadMirrors(t *testing.T) {
	root := t.TempDir()
	write(t, root, "/etc/pip.conf", "[global]\ncert = /etc/x\nindex-url = https://a.example.org/simple\n[install]\nindex-url = https://wrong.example.org\n")
	write(t, root, "/home/u/.config/pip/pip.conf", "# mine\n[global]\nextra_index_url: x\nextra-index-url =\n  https://b.example.org/simple/\n  https://u:secret@c.example.org/simple\n\ttimeout = 3\n")
	write(t, root, "/home/u/.config/go/env", "GOFLAGS=-x\nGOPROXY=https://go.example.org,https://u:secret@h.example.org|direct\n")
	env := map[string]string{"HOME": "/home/u"}
	getenv := func(k string) string { return env[k] }
	m := readMirrors(root, getenv)
	want := mirrors{
		pip: [][2]string{{"index-url", "https://a.example.org/simple"}, {"extra-index-url", "https://b.example.org/simple"}},
		go_: "https://go.example.org,direct",
	}
	if !reflect.DeepEqual(m, want) {
		t.Errorf("%+v", m)
	}
	text := string(m.files()[0].Data)
	if !strings.Contains(text, "\nindex-url = https://a.example.org/simple\n") || strings.Contains(text, "secret") {
		t.Errorf("pip.conf: %s", text)
	}
	env["PIP_INDEX_URL"], env["GOPROXY"] = "https://d.example.org/simple", "direct"
	m = readMirrors(root, getenv)
	if m.pip[0][1] != "https://d.example.org/simple" || m.env() != nil {
		t.Errorf("with an environment: %+v", m)
	}
	if m := readMirrors(t.TempDir(), func(string) string { return "" }); m.files() != nil || m.env() != nil {
		t.Errorf("nothing configured: %+v", m)
	}
}

func TestFilter(t *testing.T) {
	var in bytes.Buffer
	w := tar.NewWriter(&in)
	add := func(h tar.Header) {
		h.Format = tar.FormatPAX
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(make([]byte, h.Size)); err != nil {
			t.Fatal(err)
		}
	}
	add(tar.Header{Name: "./opt/", Typeflag: tar.TypeDir, Mode: 0o755})
	add(tar.Header{Name: "./opt/berth/agent/x/", Typeflag: tar.TypeDir, Mode: 0o755})
	add(tar.Header{Name: "./opt/berth/agent/x/bin", Typeflag: tar.TypeReg, Size: 700})
	add(tar.Header{Name: "./opt/berth/agent/xy", Typeflag: tar.TypeReg})
	add(tar.Header{Name: "./tmp/gone", Typeflag: tar.TypeChar})
	add(tar.Header{Name: "./opt/berth/agent/x/gone", Typeflag: tar.TypeLink, Linkname: "tmp/gone"})
	add(tar.Header{Name: "./etc/gone", Typeflag: tar.TypeLink, Linkname: "./tmp/gone"})
	add(tar.Header{Name: "./etc/hosts", Typeflag: tar.TypeReg, Size: 3})
	add(tar.Header{Name: "./run/", Typeflag: tar.TypeDir})
	add(tar.Header{Name: "./run/lock/", Typeflag: tar.TypeDir})
	add(tar.Header{Name: "./run/x.pid", Typeflag: tar.TypeReg})
	add(tar.Header{Name: "./.berth/", Typeflag: tar.TypeDir})
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	in.Write(make([]byte, 4096)) // padding
	names := func(keep keeper) (all []string) {
		t.Helper()
		var out bytes.Buffer
		if err := filter(bytes.NewReader(in.Bytes()), &out, keep); err != nil {
			t.Fatal(err)
		}
		for r := tar.NewReader(&out); ; {
			h, err := r.Next()
			if err == io.EOF {
				return all
			}
			if err != nil {
				t.Fatal(err)
			}
			name := strings.Trim(h.Name, "./")
			if isWhiteout(h) {
				name += " gone"
			}
			all = append(all, name)
		}
	}
	if got := names(agentOnly("/opt/berth/agent/x")); !slices.Equal(got, []string{"opt", "opt/berth/agent/x", "opt/berth/agent/x/bin"}) {
		t.Errorf("agent: %q", got)
	}
	want := []string{"opt", "opt/berth/agent/x", "opt/berth/agent/x/bin", "opt/berth/agent/xy", "opt/berth/agent/x/gone gone", "etc/gone gone", "run", "run/lock"}
	if got := names(baseOnly); !slices.Equal(got, want) {
		t.Errorf("base: %q", got)
	}
	if err := filter(bytes.NewReader(in.Bytes()[:800]), io.Discard, baseOnly); err == nil {
		t.Error("a cut layer is no error")
	}
}

func TestPipe(t *testing.T) {
	broken, unread := errors.New("broken"), errors.New("unread")
	write := func(w io.Writer) error {
		_, err := io.WriteString(w, "content")
		return err
	}
	read := func(r io.Reader) error {
		_, err := io.Copy(io.Discard, r)
		return err
	}
	if err := pipe(write, read); err != nil {
		t.Error(err)
	}
	if err := pipe(func(io.Writer) error { return broken }, read); !errors.Is(err, broken) {
		t.Errorf("a writer that fails: %v", err)
	}
	if err := pipe(write, func(io.Reader) error { return unread }); !errors.Is(err, unread) {
		t.Errorf("a reader that fails: %v", err)
	}
}

func TestLines(t *testing.T) {
	var got []string
	l := &lines{step: "s", p: func(e Event) { got = append(got, e.Line) }}
	for _, part := range []string{"one\ntw", "o\r\n", "\x1b[31mred\n", strings.Repeat("x", 3*maxPending), "\nlast"} {
		if n, err := l.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatal(n, err)
		}
	}
	if len(got) < 4 || got[0] != "one" || got[1] != "two" || got[2] != "?[31mred" {
		t.Errorf("%q", got)
	}
	if tail := l.last(); tail[len(tail)-1] != "last" {
		t.Errorf("%q", tail)
	}
}

func FuzzLines(f *testing.F) {
	f.Add([]byte("a\r\nb\x00\x1b]0;x\a\n"), 3)
	f.Fuzz(func(t *testing.T, data []byte, cut int) {
		l := &lines{p: func(e Event) {
			if len(e.Line) > 4*lineLength || strings.ContainsFunc(e.Line, unicode.IsControl) {
				t.Errorf("line %q", e.Line)
			}
		}}
		cut = min(max(cut, 0), len(data))
		_, _ = l.Write(data[:cut])
		_, _ = l.Write(data[cut:])
		if len(l.last()) > tailLines || len(l.pending) > maxPending {
			t.Errorf("%d lines, %d bytes pending", len(l.tail), len(l.pending))
		}
	})
}

func FuzzFilter(f *testing.F) {
	f.Add(tarOf(f, map[string]string{"opt/berth/agent/x/y": "z", "etc/hosts": ""}))
	f.Fuzz(func(t *testing.T, data []byte) {
		var out bytes.Buffer
		if filter(bytes.NewReader(data), &out, agentOnly("/opt/berth/agent/x")) != nil {
			return
		}
		for r := tar.NewReader(&out); ; {
			h, err := r.Next()
			if err == io.EOF {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if h.Typeflag != tar.TypeDir && !strings.Contains(h.Name, "opt/berth/agent/x") {
				t.Errorf("%q got through", h.Name)
			}
		}
	})
}

func FuzzReadPip(f *testing.F) {
	f.Add([]byte("[global]\nindex-url = https://a.example.org\n https://b.example.org\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		found := map[string]string{}
		readPip(data, found)
		for k := range found {
			if !slices.Contains(pipOptions, k) {
				t.Errorf("option %q", k)
			}
		}
	})
}

func TestPackageVersion(t *testing.T) {
	for in, want := range map[string]string{
		`{"version":" 1.2.3 "}`: "1.2.3", `{`: "", ``: "", `[]`: "",
		`{"version":"1\u001b[2J"}`: "1?[2J",
	} {
		if got := packageVersion([]byte(in)); got != want {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
}

func TestReadRecord(t *testing.T) {
	j := job{steps: []step{{name: "a", script: "1"}, {name: "b", script: "2"}}}
	j.start.Digest = "sha256:x"
	path := filepath.Join(t.TempDir(), "record")
	good := record{recordFormat, j.start.Digest, time.Now(), []Step{{Name: "a", Digest: j.steps[0].digest()}}}
	for name, change := range map[string]func(*record){
		"good":        func(*record) {},
		"format":      func(r *record) { r.Format++ },
		"other image": func(r *record) { r.Start = "sha256:y" },
		"old":         func(r *record) { r.Begun = r.Begun.Add(-2 * resumeFor) },
		"other step":  func(r *record) { r.Done = []Step{{Name: "a", Digest: "0"}} },
		"too many":    func(r *record) { r.Done = make([]Step, 3) },
		"none":        func(r *record) { r.Done = nil },
	} {
		r := good
		change(&r)
		if err := r.write(path); err != nil {
			t.Fatal(err)
		}
		if _, resume := readRecord(path, j); resume != (name == "good") {
			t.Errorf("%s: resume is %v", name, resume)
		}
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, resume := readRecord(path, j); resume {
		t.Error("a broken record is taken up")
	}
}

// The scripts are checked by a shell before a build runs them.
func TestScriptsParse(t *testing.T) {
	scripts := map[string]string{
		"lean": leanScript, "from": fromScript, "user": userScript, "clean": cleanScript,
		"npm": npmScript("https://npm.example.org"), "npm without": npmScript(""), "node": nodeScript(nodeDir),
	}
	for _, a := range agent.All() {
		if a.Recipe != nil {
			scripts[a.Name] = installScript(a)
			if a.Recipe.Node > minNode {
				t.Errorf("%s needs Node.js %d, bases have %d", a.Name, a.Recipe.Node, minNode)
			}
		}
	}
	for name, script := range scripts {
		cmd := exec.Command("sh", "-n")
		cmd.Stdin = strings.NewReader(script)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", name, err, out)
		}
		for _, left := range []string{"@REGISTRY@", "@MIN@", "@NODE@"} {
			if strings.Contains(script, left) {
				t.Errorf("%s still holds %s", name, left)
			}
		}
	}
}

func TestLabels(t *testing.T) {
	f := Facts{Version: "1", Steps: []Step{{"a", "b", 1.5}}}
	l := labels("claude", "recipe", f)
	var back Facts
	if err := json.Unmarshal([]byte(l[labelFacts]), &back); err != nil || !reflect.DeepEqual(f, back) {
		t.Errorf("%v: %+v", err, back)
	}
}
