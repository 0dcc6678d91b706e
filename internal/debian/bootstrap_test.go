package debian

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"berth.dev/internal/debian/debiantest"
	"berth.dev/internal/sandbox"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
)

// world is an archive, and a host that is set up for it.
type world struct {
	key    *openpgp.Entity
	server *debiantest.Server
	source Source
	boot   Bootstrap
}

// newWorld serves the packages as trixie; change may alter the suite first.
func newWorld(t *testing.T, packages []debiantest.Package, change func(*debiantest.Suite)) *world {
	t.Helper()
	w := &world{key: debiantest.NewKey(t, 0)}
	suite := debiantest.Suite{
		Name: "trixie", Components: []string{"main"}, Packages: packages, Key: w.key,
		Fields: "Acquire-By-Hash: yes\nValid-Until: " + debiantest.Now.Add(time.Hour).Format(time.RFC1123) + "\n",
	}
	if change != nil {
		change(&suite)
	}
	w.server = debiantest.NewServer(t, suite)
	w.source = Source{Distribution: "debian", Codename: "trixie", Archives: []Archive{w.archive(t, "trixie")}}
	w.boot = Bootstrap{
		Arch: "amd64", CacheDir: t.TempDir(), HTTP: w.server.Client(),
		now: func() time.Time { return debiantest.Now }, backoff: time.Millisecond,
	}
	return w
}

func (w *world) archive(t *testing.T, suite string) Archive {
	return Archive{URI: w.server.URI(), Suite: suite, Components: []string{"main"}, Keyring: debiantest.Keyring(t, w.key)}
}

func (w *world) resolve(t *testing.T) Plan {
	t.Helper()
	plan, err := w.boot.Resolve(t.Context(), w.source)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

func (w *world) layer(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := w.boot.WriteLayer(t.Context(), w.resolve(t), &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func names(p Plan) string {
	var all []string
	for _, k := range p.Packages {
		all = append(all, k.Name+"="+k.Version)
	}
	return strings.Join(all, " ")
}

const baseNames = "apt=1:3.0.3 base-files=13.8 base-passwd=3.6 ca-certificates=2025 debian-archive-keyring=2025 dpkg=1.22 libc6=2.41-12 mawk=1.3 passwd=1:4.17"

func TestResolve(t *testing.T) {
	w := newWorld(t, debiantest.Base(), nil)
	plan := w.resolve(t)
	if got := names(plan); got != baseNames {
		t.Errorf("got  %s\nwant %s", got, baseNames)
	}
	if plan.Digest() != w.resolve(t).Digest() || !strings.HasPrefix(plan.Digest(), "sha256:") {
		t.Errorf("digest %s is not stable", plan.Digest())
	}
	if plan.DownloadSize() == 0 || plan.Arch != "amd64" || plan.Codename != "trixie" {
		t.Errorf("plan %+v", plan)
	}
	r := w.server.Requests()
	if r["dists/trixie/InRelease"] != 2 || len(r) != 2 {
		t.Errorf("the index was not taken by its hash, once: %v", r)
	}
}

// TestResolveForms: the other ways in which an archive may present itself.
func TestResolveForms(t *testing.T) {
	for name, change := range map[string]func(*debiantest.Suite){
		"Release and Release.gpg": func(s *debiantest.Suite) { s.Detached = true },
		"no by-hash":              func(s *debiantest.Suite) { s.Fields = "" },
		"ubuntu's components":     func(s *debiantest.Suite) { s.Components = []string{"main", "universe"} },
	} {
		t.Run(name, func(t *testing.T) {
			if got := names(newWorld(t, debiantest.Base(), change).resolve(t)); got != baseNames {
				t.Errorf("got %s", got)
			}
		})
	}
	t.Run("by-hash promised but absent", func(t *testing.T) {
		w := newWorld(t, debiantest.Base(), nil)
		for _, p := range w.server.Paths() {
			if strings.Contains(p, "by-hash") {
				w.server.Put("/debian/"+p, nil)
			}
		}
		if got := names(w.resolve(t)); got != baseNames {
			t.Errorf("got %s", got)
		}
	})
}

func TestResolveSuites(t *testing.T) {
	w := newWorld(t, debiantest.Base(), nil)
	w.server.Add(t, debiantest.Suite{
		Name: "trixie-security", Components: []string{"main"}, Key: w.key,
		Packages: []debiantest.Package{{Name: "libc6", Version: "2.41-12+deb13u1"}, {Name: "mawk", Version: "1.2", Fields: "Provides: awk"}},
	})
	missing := w.archive(t, "trixie-updates")
	missing.Optional = true
	w.source.Archives = append(w.source.Archives, missing, w.archive(t, "trixie-security"))
	plan := w.resolve(t)
	if got, want := names(plan), strings.Replace(baseNames, "libc6=2.41-12", "libc6=2.41-12+deb13u1", 1); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := suitesOf(plan.source); strings.Contains(got, "updates") {
		t.Errorf("the guest is told of a suite that does not exist: %s", got)
	}
	w.source.Archives[1].Optional = false
	if _, err := w.boot.Resolve(t.Context(), w.source); !errors.Is(err, sandbox.ErrNotFound) || !strings.Contains(err.Error(), "trixie-updates/") {
		t.Errorf("a suite is missing: %v", err)
	}
}

// TestTampered changes an archive at every place that it can be changed at;
// each must be refused by name, and nothing unpacked.
func TestTampered(t *testing.T) {
	stranger := debiantest.NewKey(t, 0)
	flip := func(data []byte) []byte { data[len(data)/2] ^= 1; return data }
	expired := "Valid-Until: " + debiantest.Now.Add(-time.Second).Format(time.RFC1123) + "\n"
	for name, c := range map[string]struct {
		suite  func(*debiantest.Suite)
		world  func(*world)
		want   string
		class  error
		atDebs bool
	}{
		"signed text":      {world: edit("InRelease", func(b []byte) []byte { return bytes.Replace(b, []byte("Codename"), []byte("Codenome"), 1) }), want: "InRelease: bad signature"},
		"signature":        {world: edit("InRelease", func(b []byte) []byte { return b[:len(b)-60] }), want: "InRelease"},
		"wrong key":        {suite: func(s *debiantest.Suite) { s.Key = stranger }, want: "is not in the keyring"},
		"wrong key, apart": {suite: func(s *debiantest.Suite) { s.Key, s.Detached = stranger, true }, want: "Release: no good signature"},
		"Release, apart":   {suite: func(s *debiantest.Suite) { s.Detached = true }, world: edit("dists/trixie/Release", func(b []byte) []byte { return bytes.Replace(b, []byte("Test"), []byte("Tent"), 1) }), want: "Release: bad signature"},
		"no signature":     {suite: func(s *debiantest.Suite) { s.Detached = true }, world: func(w *world) { w.server.Put("/debian/dists/trixie/Release.gpg", nil) }, want: "Release.gpg", class: sandbox.ErrNotFound},
		"expired":          {suite: func(s *debiantest.Suite) { s.Fields = expired }, want: "expired (Valid-Until"},
		"from the future":  {world: func(w *world) { w.boot.now = func() time.Time { return debiantest.Time.Add(-time.Hour) } }, want: "from the future"},
		"another suite": {world: func(w *world) {
			w.server.Put("/debian/dists/bookworm/InRelease", w.server.Get("dists/trixie/InRelease"))
			w.source.Archives[0].Suite = "bookworm"
		}, want: `codename "trixie"), not "bookworm"`},
		"another machine":   {world: func(w *world) { w.boot.Arch = "riscv64" }, want: "not there for riscv64", class: sandbox.ErrUnavailable},
		"no such component": {world: func(w *world) { w.source.Archives[0].Components = []string{"contrib"} }, want: "lists no contrib/binary-amd64/Packages", class: sandbox.ErrUnavailable},
		"index":             {world: edit("binary-amd64/", flip), want: "checksum mismatch"},
		"index, by name":    {suite: func(s *debiantest.Suite) { s.Fields = "" }, world: edit("Packages", flip), want: "Packages.xz: checksum mismatch"},
		"index too long":    {world: edit("binary-amd64/", func(b []byte) []byte { return append(b, 0) }), want: "larger than"},
		"index cut off":     {world: edit("binary-amd64/", func(b []byte) []byte { return b[:len(b)-1] }), want: "ends after", class: sandbox.ErrUnavailable},
		"package":           {world: edit("apt_", flip), want: "package apt: download", atDebs: true},
		"package too long":  {world: edit("apt_", func(b []byte) []byte { return append(b, 0) }), want: "larger than", atDebs: true},
		"package cut off":   {world: edit("apt_", func(b []byte) []byte { return b[:9] }), want: "package apt: download", class: sandbox.ErrUnavailable, atDebs: true},
		"package gone":      {world: func(w *world) { w.server.Put("/debian/pool/apt_1:3.0.3_amd64.deb", nil) }, want: "apt_1:3.0.3_amd64.deb", class: sandbox.ErrNotFound, atDebs: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, debiantest.Base(), c.suite)
			if c.world != nil {
				c.world(w)
			}
			plan, err := w.boot.Resolve(t.Context(), w.source)
			if c.atDebs {
				if err != nil {
					t.Fatal(err)
				}
				var out bytes.Buffer
				if err = w.boot.WriteLayer(t.Context(), plan, &out); out.Len() > 0 {
					t.Errorf("%d bytes were written", out.Len())
				}
			}
			class := c.class
			if class == nil {
				class = sandbox.ErrForbidden
			}
			if !errors.Is(err, class) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v (%s), want %q (%s)", err, sandbox.ClassOf(err), c.want, class)
			}
		})
	}
}

func edit(part string, f func([]byte) []byte) func(*world) {
	return func(w *world) { w.server.Edit(part, f) }
}

func TestHostMayIgnoreDates(t *testing.T) {
	w := newWorld(t, debiantest.Base(), nil)
	w.source.Archives[0].IgnoreValidUntil, w.source.Archives[0].IgnoreDate = true, true
	for _, at := range []time.Time{debiantest.Now.Add(1000 * time.Hour), debiantest.Time.Add(-time.Hour)} {
		w.boot.now = func() time.Time { return at }
		if got := names(w.resolve(t)); got != baseNames {
			t.Errorf("got %s", got)
		}
	}
}

// TestDebAgainstIndex: a package that is signed for but not what the index says.
func TestDebAgainstIndex(t *testing.T) {
	w := newWorld(t, debiantest.Base(), nil)
	plan := w.resolve(t)
	for i := range plan.Packages {
		if plan.Packages[i].Name == "apt" {
			plan.Packages[i].Version = "9"
		}
	}
	if err := w.boot.WriteLayer(t.Context(), plan, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), `Version: "1:3.0.3", the index "9"`) {
		t.Errorf("error %v", err)
	}
}

func TestProgress(t *testing.T) {
	w := newWorld(t, debiantest.Base(), nil)
	for round := range 2 { // the second finds everything in the cache
		last := map[Phase]Event{}
		w.boot.Progress = func(e Event) {
			if e.Done < last[e.Phase].Done || e.Done > e.Total {
				t.Errorf("round %d: %+v after %+v", round, e, last[e.Phase])
			}
			last[e.Phase] = e
		}
		w.layer(t)
		for _, p := range []Phase{PhaseIndex, PhaseDownload, PhaseUnpack} {
			if e := last[p]; e.Total == 0 || e.Done != e.Total {
				t.Errorf("round %d: %s ended at %+v", round, p, e)
			}
		}
	}
}

func TestCancelled(t *testing.T) {
	w := newWorld(t, debiantest.Base(), nil)
	plan := w.resolve(t)
	ctx, cancel := context.WithCancel(t.Context())
	w.server.Break("libc6_", func(rw http.ResponseWriter, _ []byte) { cancel(); rw.WriteHeader(503) })
	if err := w.boot.WriteLayer(ctx, plan, &bytes.Buffer{}); !errors.Is(err, context.Canceled) && sandbox.ClassOf(err) != sandbox.ErrUnavailable {
		t.Errorf("error %v", err)
	}
}

func TestReproducible(t *testing.T) {
	first := newWorld(t, debiantest.Base(), nil)
	second := newWorld(t, debiantest.Base(), nil)
	second.source.Archives[0].URI = "http://mirror.test/debian"
	second.source.Archives[0].Keyring = first.source.Archives[0].Keyring
	first.source.Archives[0].URI = second.source.Archives[0].URI
	// Both are reached under one name, and signed by one key in the guest.
	for _, w := range []*world{first, second} {
		w.boot.HTTP = &http.Client{Transport: redirector{w.server.Listener.Addr().String()}}
	}
	second.server.Add(t, debiantest.Suite{Name: "trixie", Components: []string{"main"}, Packages: debiantest.Base(), Key: first.key})
	a, b := first.layer(t), second.layer(t)
	if !bytes.Equal(a, b) {
		t.Errorf("the same packages gave %d and %d bytes that differ", len(a), len(b))
	}
	if !reflect.DeepEqual(first.resolve(t).Digest(), second.resolve(t).Digest()) {
		t.Error("digests differ")
	}
}

// redirector sends every request to one address.
type redirector struct{ addr string }

func (r redirector) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.URL.Host = r.addr
	return http.DefaultTransport.RoundTrip(req)
}
