package cli

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"berth.dev/internal/control"
	"berth.dev/internal/secret"
	"berth.dev/internal/signin"
)

// desktop is a user's browser, the host's side of a sign-in, and a guest that
// waits for what the browser comes back with.
type desktop struct {
	t     *testing.T
	b     *browser
	err   bytes.Buffer // what the user reads
	guest http.HandlerFunc

	mu      sync.Mutex
	dialed  []string
	got     []string // requests of the guest's
	vouched []control.Vouch
}

func newDesktop(t *testing.T, env ...string) *desktop {
	t.Helper()
	d := &desktop{t: t, guest: func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<script>guest</script>") }}
	guest := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.mu.Lock()
		d.got = append(d.got, r.Host+" "+r.RequestURI)
		for name := range r.Header {
			if !slices.Contains([]string{"User-Agent", "Accept-Encoding", "Connection", "Referer"}, name) {
				d.got = append(d.got, name)
			}
		}
		d.mu.Unlock()
		d.guest(w, r)
	}))
	t.Cleanup(guest.Close)
	d.b = &browser{
		a: newApp(Stdio{In: strings.NewReader(""), Out: io.Discard, Err: &d.err}, Env{Dir: t.TempDir(), Vars: env}),
		dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			d.mu.Lock()
			d.dialed = append(d.dialed, address)
			d.mu.Unlock()
			return (&net.Dialer{}).DialContext(ctx, network, guest.Listener.Addr().String())
		},
		vouch: func(_ context.Context, v control.Vouch) error {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.vouched = append(d.vouched, v)
			return nil
		},
		signInTime: time.Minute, callbackTime: 10 * time.Second,
	}
	t.Cleanup(func() { d.b.wait(nil) })
	return d
}

// freePort is one that nobody has at the moment.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// signInPage is a page of Claude's that comes back to a port.
func signInPage(port int) string {
	q := url.Values{
		"client_id": {"9d1c250a-e61b-44d9-88ed-5944d1962f5e"}, "response_type": {"code"}, "state": {"the state"},
		"redirect_uri": {fmt.Sprintf("http://localhost:%d/callback", port)},
	}
	return "https://claude.com/cai/oauth/authorize?" + q.Encode()
}

// serve waits for the browser, and returns the port.
func (d *desktop) serve() (*callbackServer, int) {
	d.t.Helper()
	port := freePort(d.t)
	pg, ok := signin.ParsePage(signInPage(port))
	if !ok {
		d.t.Fatal("that is no page")
	}
	s, err := newCallbackServer(d.b, pg)
	if err != nil {
		d.t.Fatal(err)
	}
	d.b.wait(s)
	return s, port
}

// visit is a browser that comes back.
func (d *desktop) visit(port int, method, target, host string, header ...string) (int, string) {
	d.t.Helper()
	r, err := http.NewRequest(method, "http://127.0.0.1:"+strconv.Itoa(port)+target, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	r.Host = host
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	res, err := (&http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}).Do(r)
	if err != nil {
		return 0, err.Error()
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	if got := res.Header.Get("Location") + res.Header.Get("Set-Cookie") + res.Header.Get("X-Guest"); got != "" {
		d.t.Errorf("the browser gets %q of the guest's", got)
	}
	if csp := res.Header.Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none'") {
		d.t.Errorf("policy %q", csp)
	}
	return res.StatusCode, string(body)
}

const back = "/callback?code=c0de&state=the+state"

// TestCallback: what the browser comes back with is brought to the guest, the
// guest's page is not brought to the browser, and the code is vouched for.
func TestCallback(t *testing.T) {
	d := newDesktop(t)
	d.guest = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Set-Cookie", "x=y")
		w.Header().Set("X-Guest", "x")
		if r.URL.Path == "/callback" { // as Codex does, and then to the provider's
			http.Redirect(w, r, "/success?id_token=x", http.StatusFound)
			return
		}
		http.Redirect(w, r, "https://claude.com/done", http.StatusFound)
	}
	s, port := d.serve()
	host := "localhost:" + strconv.Itoa(port)
	status, body := d.visit(port, http.MethodGet, back, host, "Cookie", "secret=1", "Authorization", "Bearer x", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document")
	if status != http.StatusOK || !strings.Contains(body, "Signed in to Claude") || strings.Contains(body, "guest") {
		t.Errorf("%d %s", status, body)
	}
	if len(d.got) != 2 || d.got[1] != host+" /success?id_token=x" || len(d.vouched) != 1 {
		t.Fatalf("the guest got %q, %d codes are vouched for", d.got, len(d.vouched))
	}
	// The guest has something in place of the code, and the supervisor the code.
	_, target, _ := strings.Cut(d.got[0], " ")
	u, err := url.Parse(target)
	if err != nil || u.Path != "/callback" || u.Query().Get("state") != "the state" || len(u.Query()) != 2 || strings.Contains(target, "c0de") {
		t.Errorf("the guest got %q, %v", target, err)
	}
	standIn := sha256.Sum256([]byte(u.Query().Get("code")))
	v := d.vouched[0]
	if !bytes.Equal(v.StandIn, standIn[:]) || v.Provider != "claude" || !v.Code.Equal(secret.NewValue("c0de")) {
		t.Errorf("vouched for %+v", v)
	}
	for _, address := range d.dialed {
		if address != host {
			t.Errorf("dialed %s", address)
		}
	}
	// Once.
	if status, _ := d.visit(port, http.MethodGet, "/callback?code=another&state=the+state", host); status == http.StatusOK || len(d.vouched) != 1 {
		t.Errorf("a second code: %d, %d are vouched for", status, len(d.vouched))
	}
	d.closes(s, port)
}

// closes waits until a server has freed its port.
func (d *desktop) closes(s *callbackServer, port int) {
	d.t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			l.Close()
			return
		}
		if time.Now().After(end) {
			d.t.Fatalf("port %d is still taken by %+v", port, s.page)
		}
	}
}

// TestCallbackOfOthers: requests that are no answer to the page.
func TestCallbackOfOthers(t *testing.T) {
	d := newDesktop(t)
	_, port := d.serve()
	host := "localhost:" + strconv.Itoa(port)
	for name, c := range map[string]struct {
		method, target, host string
		header               []string
	}{
		"rebinding":         {"GET", back, "evil.example:" + strconv.Itoa(port), nil},
		"a name like it":    {"GET", back, "localhost.evil.example:" + strconv.Itoa(port), nil},
		"another port":      {"GET", back, "localhost:1", nil},
		"no port":           {"GET", back, "localhost", nil},
		"another address":   {"GET", back, "127.0.0.2:" + strconv.Itoa(port), nil},
		"wrong state":       {"GET", "/callback?code=c&state=another", host, nil},
		"no state":          {"GET", "/callback?code=c", host, nil},
		"empty state":       {"GET", "/callback?code=c&state=", host, nil},
		"state twice":       {"GET", back + "&state=another", host, nil},
		"state twice alike": {"GET", back + "&state=the+state", host, nil},
		"code twice":        {"GET", back + "&code=another", host, nil},
		"semicolon":         {"GET", back + ";x=y", host, nil},
		"broken query":      {"GET", back + "&x=%zz", host, nil},
		"wrong path":        {"GET", "/?code=c&state=the+state", host, nil},
		"path below":        {"GET", "/callback/x?code=c&state=the+state", host, nil},
		"escaped path":      {"GET", "/%63allback?code=c&state=the+state", host, nil},
		"POST":              {"POST", back, host, nil},
		"HEAD":              {"HEAD", back, host, nil},
		"OPTIONS":           {"OPTIONS", back, host, nil},
		"an image":          {"GET", back, host, []string{"Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "image"}},
		"a script":          {"GET", back, host, []string{"Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty"}},
		"a frame":           {"GET", back, host, []string{"Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "iframe"}},
	} {
		if status, body := d.visit(port, c.method, c.target, c.host, c.header...); status != http.StatusNotFound {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
	if len(d.vouched) != 0 || len(d.got) != 0 {
		t.Errorf("%d codes are vouched for, the guest got %q", len(d.vouched), d.got)
	}
	// It still waits for the right one, by any of this machine's names.
	if status, body := d.visit(port, http.MethodGet, back, "127.0.0.1:"+strconv.Itoa(port)); status != http.StatusOK {
		t.Errorf("the answer itself: %d %s", status, body)
	}
}

// TestCallbackOfAHostileGuest: what a guest can answer.
func TestCallbackOfAHostileGuest(t *testing.T) {
	const page = "<h1>your password?</h1>"
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the host asked somebody else") }))
	defer elsewhere.Close()
	for name, c := range map[string]struct {
		guest  http.HandlerFunc
		status int
	}{
		"error": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, page)
		}, http.StatusBadGateway},
		"elsewhere": {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere.URL, http.StatusFound) }, http.StatusOK},
		"elsewhere, as it is": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		}, http.StatusOK},
		"to a file": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "file:///etc/passwd")
			w.WriteHeader(http.StatusFound)
		}, http.StatusOK},
		"round and round": {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.RequestURI, http.StatusFound) }, http.StatusOK},
		"endless": {func(w http.ResponseWriter, _ *http.Request) {
			for {
				if _, err := io.WriteString(w, strings.Repeat(page, 1000)); err != nil {
					return
				}
			}
		}, http.StatusOK},
		"long head": {func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X", strings.Repeat("x", 100<<10)) }, http.StatusBadGateway},
		"no HTTP": {func(w http.ResponseWriter, _ *http.Request) {
			c, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				_, _ = io.WriteString(c, page)
				c.Close()
			}
		}, http.StatusBadGateway},
		"slow": {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, http.StatusBadGateway},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesktop(t)
			d.guest = c.guest
			if name == "slow" {
				d.b.callbackTime = 100 * time.Millisecond
			}
			_, port := d.serve()
			status, body := d.visit(port, http.MethodGet, back, "localhost:"+strconv.Itoa(port))
			if status != c.status || strings.Contains(body, "password") || len(body) > 1000 {
				t.Errorf("the browser gets %d %.300s", status, body)
			}
		})
	}
}

// TestCallbackTries: a guest that fails to take what the browser comes back with
// does not have the browser's word for as many codes as it likes.
func TestCallbackTries(t *testing.T) {
	d := newDesktop(t)
	d.guest = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }
	_, port := d.serve()
	for i := range 3 * maxTries {
		d.visit(port, http.MethodGet, fmt.Sprintf("/callback?code=c%d&state=the+state", i), "localhost:"+strconv.Itoa(port))
	}
	if len(d.vouched) != maxTries {
		t.Errorf("%d codes are vouched for", len(d.vouched))
	}
}

// TestCallbackWithoutCode: a user who said no.
func TestCallbackWithoutCode(t *testing.T) {
	d := newDesktop(t)
	_, port := d.serve()
	status, body := d.visit(port, http.MethodGet, "/callback?error=<b>denied&state=the+state", "localhost:"+strconv.Itoa(port))
	if status != http.StatusOK || !strings.Contains(body, "Not signed in") || strings.Contains(body, "<b>") || len(d.vouched) != 0 || len(d.got) != 1 {
		t.Errorf("%d %s, %d vouched for, the guest got %q", status, body, len(d.vouched), d.got)
	}
}

// TestCallbackEnds: nothing waits for ever.
func TestCallbackEnds(t *testing.T) {
	d := newDesktop(t)
	d.b.signInTime = 50 * time.Millisecond
	s, port := d.serve()
	d.closes(s, port)
	d.b.signInTime = time.Minute
	s, port = d.serve()
	d.b.wait(nil) // the end of the command
	d.closes(s, port)
}

// TestPortIsTaken: where something of the host's listens no sign-in begins, on
// either of its addresses; and the page is not opened.
func TestPortIsTaken(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", address)
		if err != nil && address != "127.0.0.1:0" {
			t.Logf("no IPv6 here: %v", err)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		d := newDesktop(t, "BROWSER="+recorder(t))
		if err := d.b.show(signInPage(l.Addr().(*net.TCPAddr).Port)); err == nil || !strings.Contains(err.Error(), "taken") {
			t.Errorf("%s: %v", address, err)
		}
		l.Close()
	}
}

// recorder is a browser that writes down what it is given, next to itself.
func recorder(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "browser")
	script := "#!/bin/sh\nprintf '%s %s\\n' $# \"$*\" >>$0.log\n"
	if err := os.WriteFile(name, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return name
}

// opened waits for so many lines of a recorder's.
func opened(t *testing.T, name string, lines int) []string {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		b, err := os.ReadFile(name + ".log")
		if err == nil && strings.Count(string(b), "\n") >= lines {
			return strings.Split(strings.TrimSpace(string(b)), "\n")
		}
		if time.Now().After(end) {
			t.Fatalf("it was given %q, %v", b, err)
		}
	}
}

// TestShow: which pages are opened, by what, and how often.
func TestShow(t *testing.T) {
	name := recorder(t)
	d := newDesktop(t, "BROWSER="+name+":/bin/false")
	for _, bad := range []string{
		"", "https://example.com/", "http://claude.com/cai/oauth/authorize", "file:///etc/passwd", "--help", "javascript:alert(1)",
		"https://claude.com/cai/oauth/authorize?client_id=x", signInPage(80),
	} {
		if err := d.b.show(bad); !errors.Is(err, errPage) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	// As one argument, and read by no shell.
	marker := filepath.Join(t.TempDir(), "ran")
	port := freePort(t)
	if err := d.b.show(signInPage(port) + "&login_hint=$(touch " + marker + ")`touch " + marker + "`'\"|<>"); err != nil {
		t.Fatal(err)
	}
	got := opened(t, name, 1)
	page, one := strings.CutPrefix(got[0], "1 ")
	if !one || !strings.HasPrefix(page, signInPage(port)+"&login_hint=%24%28touch%20") || strings.ContainsAny(page, "$`'\"|<> ") {
		t.Errorf("the browser was given %q", got)
	}
	if _, err := os.Stat(marker); err == nil {
		t.Error("a shell ran it")
	}
	// The same page once more, with the same port: a user who tries again.
	if err := d.b.show(signInPage(port)); err != nil {
		t.Errorf("again: %v", err)
	}
	for i := range 2 * maxPages {
		err := d.b.show("https://github.com/login/device")
		if full := i >= maxPages-2; (err != nil) != full {
			t.Errorf("page %d: %v", i+3, err)
		}
	}
	if got := opened(t, name, maxPages); len(got) != maxPages {
		t.Errorf("%d pages were opened", len(got))
	}
}

// TestBrowserThatIsNone: what is named in the environment and cannot be started
// without a shell is not.
func TestBrowserThatIsNone(t *testing.T) {
	name := recorder(t)
	for _, end := range []string{" %s", "%s", " --new", "\t-x"} { // though there are such programs
		if err := os.Link(name, name+end); err != nil {
			t.Fatal(err)
		}
	}
	for _, env := range [][]string{
		{}, {"BROWSER="}, {"BROWSER=:" + name}, {"BROWSER=" + name + " %s"}, {"BROWSER=" + name + "%s"}, {"BROWSER=" + name + " --new"}, {"BROWSER=" + name + "\t-x"},
		{"BROWSER=/nowhere/browser"}, {"BROWSER=" + filepath.Dir(name)}, {"DISPLAY=:0", "BROWSER=sh -c true"},
	} {
		d := newDesktop(t, env...)
		if err := d.b.show("https://github.com/login/device"); err == nil || !strings.Contains(err.Error(), "by hand") {
			t.Errorf("%q: %v", env, err)
		}
	}
	if list, _ := filepath.Glob(name + "*.log"); len(list) > 0 {
		t.Errorf("it was started: %q", list)
	}
}

// TestVouchThatFails: the sign-in goes on, for this sandbox alone, and the user
// is told.
func TestVouchThatFails(t *testing.T) {
	d := newDesktop(t)
	d.b.vouch = func(context.Context, control.Vouch) error { return errors.New("no\x1b[2J") }
	_, port := d.serve()
	if status, body := d.visit(port, http.MethodGet, back, "localhost:"+strconv.Itoa(port)); status != http.StatusOK {
		t.Errorf("%d %s", status, body)
	}
	if want := "localhost:" + strconv.Itoa(port) + " " + back; len(d.got) != 1 || d.got[0] != want {
		t.Errorf("the guest got %q", d.got)
	}
	if said := d.err.String(); !strings.Contains(said, "this sandbox's alone") || strings.Contains(said, "\x1b") {
		t.Errorf("said %q", said)
	}
}
