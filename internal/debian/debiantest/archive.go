package debiantest

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
)

// Now is what the tests' clock says: a week after Time.
var Now = Time.Add(7 * 24 * time.Hour)

// NewKey makes a signing key, a week before Time; lifetime 0 means for ever.
func NewKey(t testing.TB, lifetime time.Duration) *openpgp.Entity {
	t.Helper()
	made := Time.Add(-7 * 24 * time.Hour)
	e, err := openpgp.NewEntity("Archive", "", "archive@example.org", &packet.Config{
		Algorithm: packet.PubKeyAlgoEdDSA, DefaultHash: crypto.SHA512,
		Time: func() time.Time { return made }, KeyLifetimeSecs: uint32(lifetime / time.Second),
	})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// Keyring is a key's public part, binary.
func Keyring(t testing.TB, keys ...*openpgp.Entity) []byte {
	t.Helper()
	var b bytes.Buffer
	for _, k := range keys {
		if err := k.Serialize(&b); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

// Clearsign signs a text as InRelease files are.
func Clearsign(t testing.TB, text []byte, at time.Time, keys ...*openpgp.Entity) []byte {
	t.Helper()
	var private []*packet.PrivateKey
	for _, k := range keys {
		private = append(private, k.PrivateKey)
	}
	var b bytes.Buffer
	w, err := clearsign.EncodeMulti(&b, private, &packet.Config{DefaultHash: crypto.SHA256, Time: func() time.Time { return at }})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return append(b.Bytes(), '\n')
}

// Suite is one suite of an archive.
type Suite struct {
	Name       string // codename, such as trixie-security
	Components []string
	Packages   []Package // all in the first component
	Fields     string    // of the Release file beside the usual ones
	Key        *openpgp.Entity
	Detached   bool // Release and Release.gpg in place of InRelease
}

// Server is an archive on a local HTTP server.
type Server struct {
	*httptest.Server

	mu       sync.Mutex // guards all below
	files    map[string][]byte
	broken   map[string][]func(http.ResponseWriter, []byte)
	requests map[string]int
}

// NewServer makes the suites and serves them below /debian.
func NewServer(t testing.TB, suites ...Suite) *Server {
	t.Helper()
	s := &Server{files: map[string][]byte{}, broken: map[string][]func(http.ResponseWriter, []byte){}, requests: map[string]int{}}
	for _, suite := range suites {
		s.Add(t, suite)
	}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

// NewTLSServer is a server with https and no suites.
func NewTLSServer(t testing.TB) *Server {
	t.Helper()
	s := &Server{files: map[string][]byte{}, broken: map[string][]func(http.ResponseWriter, []byte){}, requests: map[string]int{}}
	s.Server = httptest.NewUnstartedServer(s)
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // clients that do not trust it
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// CA is the certificate to trust, PEM.
func (s *Server) CA() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
}

// URI is the archive's root.
func (s *Server) URI() string { return s.URL + "/debian" }

// Add makes a suite's files.
func (s *Server) Add(t testing.TB, suite Suite) {
	t.Helper()
	var index strings.Builder
	for _, p := range suite.Packages {
		deb := p.Deb(t)
		file := "pool/" + p.Name + "_" + strings.ReplaceAll(p.Version, ":", "%3a") + "_" + p.arch() + ".deb"
		s.Put("/debian/"+strings.ReplaceAll(file, "%3a", ":"), deb)
		fmt.Fprintf(&index, "%sFilename: %s\nSize: %d\nSHA256: %x\n\n", p.Stanza(), strings.ReplaceAll(file, "%3a", ":"), len(deb), sha256.Sum256(deb))
	}
	var sums strings.Builder
	for i, component := range suite.Components {
		text := index.String()
		if i > 0 {
			text = ""
		}
		for _, ext := range []string{".xz", ".gz"} {
			data := Compress(t, ext, []byte(text))
			sum := fmt.Sprintf("%x", sha256.Sum256(data))
			dir := "/debian/dists/" + suite.Name + "/" + component + "/binary-amd64/"
			s.Put(dir+"Packages"+ext, data)
			s.Put(dir+"by-hash/SHA256/"+sum, data)
			fmt.Fprintf(&sums, " %s %d %s/binary-amd64/Packages%s\n", sum, len(data), component, ext)
		}
	}
	release := fmt.Sprintf("Origin: Test\nSuite: suite-of-%s\nCodename: %s\nDate: %s\nArchitectures: all amd64\nComponents: %s\n%sSHA256:\n%s",
		suite.Name, suite.Name, Time.Format(time.RFC1123), strings.Join(suite.Components, " "), suite.Fields, sums.String())
	s.sign(t, suite, release)
}

func (s *Server) sign(t testing.TB, suite Suite, release string) {
	t.Helper()
	dir := "/debian/dists/" + suite.Name + "/"
	if !suite.Detached {
		s.Put(dir+"InRelease", Clearsign(t, []byte(release), Time, suite.Key))
		return
	}
	s.Put(dir+"Release", []byte(release))
	var sig bytes.Buffer
	params := &openpgp.SignParams{Config: &packet.Config{DefaultHash: crypto.SHA256, Time: func() time.Time { return Time }}}
	if err := openpgp.ArmoredDetachSign(&sig, []*openpgp.Entity{suite.Key}, strings.NewReader(release), params); err != nil {
		t.Fatal(err)
	}
	s.Put(dir+"Release.gpg", sig.Bytes())
}

// Put serves a file; nil removes it.
func (s *Server) Put(path string, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if data == nil {
		delete(s.files, path)
	} else {
		s.files[path] = data
	}
}

// Get returns a served file; path is relative to the archive.
func (s *Server) Get(path string) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.files["/debian/"+path]
}

// Paths lists the files that are served, relative to the archive.
func (s *Server) Paths() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for p := range s.files {
		all = append(all, strings.TrimPrefix(p, "/debian/"))
	}
	slices.Sort(all)
	return all
}

// Edit changes every served file whose path contains part.
func (s *Server) Edit(part string, edit func([]byte) []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p, data := range s.files {
		if strings.Contains(p, part) {
			s.files[p] = edit(bytes.Clone(data))
		}
	}
}

// Break answers the next request for a path that contains part in a way of its
// own; several wait in line.
func (s *Server) Break(part string, answer func(http.ResponseWriter, []byte)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken[part] = append(s.broken[part], answer)
}

// Requests says how often each path was asked for, and forgets it.
func (s *Server) Requests() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.requests
	s.requests = map[string]int{}
	return r
}

// ServeHTTP answers with a file, ranges included.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	data, ok := s.files[r.URL.Path]
	s.requests[strings.TrimPrefix(r.URL.Path, "/debian/")]++
	var answer func(http.ResponseWriter, []byte)
	for _, part := range slices.Sorted(maps.Keys(s.broken)) {
		if line := s.broken[part]; answer == nil && len(line) > 0 && strings.Contains(r.URL.Path, part) {
			answer, s.broken[part] = line[0], line[1:]
		}
	}
	s.mu.Unlock()
	switch {
	case answer != nil:
		answer(w, data)
	case !ok:
		http.NotFound(w, r)
	default:
		http.ServeContent(w, r, "", Time, bytes.NewReader(data))
	}
}

// Status answers with an HTTP status.
func Status(code int) func(http.ResponseWriter, []byte) {
	return func(w http.ResponseWriter, _ []byte) { w.WriteHeader(code) }
}

// CutAfter sends n bytes of a file and then drops the connection.
func CutAfter(n int) func(http.ResponseWriter, []byte) {
	return func(w http.ResponseWriter, data []byte) {
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		_, _ = w.Write(data[:n])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}
