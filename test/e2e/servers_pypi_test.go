package e2e

import (
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"berth.dev/internal/service"
)

// uploads stands for the place that Python packages are uploaded to, as PyPI's
// "Upload API" has it: a form with the file, behind a token for a password. No
// server of it that could be run here is packaged.
type uploads struct {
	origin origin
	host   string

	mu    sync.Mutex
	files []string
	wrong []string
}

func newUploads(t *testing.T, real map[string]string) *uploads {
	t.Helper()
	d, ok := service.ByName("pypi")
	if !ok {
		t.Fatal("there is no service pypi")
	}
	u := &uploads{host: "upload." + d.Hosts[0].Host.String()}
	u.origin = serveTLS(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		err := r.ParseMultipartForm(1 << 20)
		u.mu.Lock()
		defer u.mu.Unlock()
		if user != "__token__" || password != real["TWINE_PASSWORD"] || err != nil {
			u.wrong = append(u.wrong, fmt.Sprintf("%s %q:%q %v", r.URL, user, password, err))
			http.Error(w, "invalid or non-existent authentication information", http.StatusForbidden)
			return
		}
		for _, f := range r.MultipartForm.File["content"] {
			u.files = append(u.files, f.Filename+" "+r.FormValue("name"))
		}
		_, _ = io.WriteString(w, "OK")
	}), u.host)
	return u
}

// sdist makes the archive of a Python package that does nothing.
const sdist = `
import io, tarfile
with tarfile.open("thing-1.0.tar.gz", "w:gz") as t:
    for name, text in ("PKG-INFO", b"Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n"), ("thing.py", b""):
        info = tarfile.TarInfo("thing-1.0/" + name)
        info.size = len(text)
        t.addfile(info, io.BytesIO(text))
`

// test uploads a package with twine.
func (u *uploads) test(t *testing.T, s servers) {
	s.install(t, "twine")
	write(t, s.u, filepath.Join(s.ws, "sdist.py"), sdist)
	r := s.sh(t, "cd /tmp; python3 "+s.ws+"/sdist.py; twine upload --non-interactive --disable-progress-bar -u __token__ --repository-url https://"+u.host+"/legacy/ thing-1.0.tar.gz")
	u.mu.Lock()
	defer u.mu.Unlock()
	if got := strings.Join(u.files, ","); r.code != 0 || got != "thing-1.0.tar.gz thing" || len(u.wrong) > 0 {
		t.Errorf("it got %q, and refused %q: %+v", got, u.wrong, r)
	}
}
