package cli

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"berth.dev/internal/bundle"
	"berth.dev/internal/control"
	"berth.dev/internal/guestapi/client"
	"berth.dev/internal/manager"
	"berth.dev/internal/secret"
	"berth.dev/internal/signin"
)

// Times of a sign-in by the user's browser.
const (
	signInTime   = 10 * time.Minute // from the page to the way back
	callbackTime = 30 * time.Second // for the guest to take what came back
)

// Bounds of what a guest can ask for: of pages in one command, and of answers of
// the browser to one page that it fails to take.
const (
	maxPages = 20
	maxTries = 5
)

// browser opens the pages of sign-ins for a guest, and brings what the user's
// browser comes back with to the guest.
type browser struct {
	a     *app
	dial  func(ctx context.Context, network, address string) (net.Conn, error) // into the guest
	vouch func(context.Context, control.Vouch) error
	pages int

	signInTime, callbackTime time.Duration

	mu     sync.Mutex
	listen *callbackServer // nil: nothing is waited for
}

// browse opens pages for the guest until stop is called.
func (a *app) browse(ctx context.Context, m *manager.Manager, b *bundle.Bundle, g *client.Client) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	br := &browser{
		a: a, dial: g.DialContext, vouch: func(ctx context.Context, v control.Vouch) error { return m.Vouch(ctx, b, v) },
		signInTime: signInTime, callbackTime: callbackTime,
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = g.Browse(ctx, br.show) // a guest of an older Berth cannot ask
	}()
	return func() {
		cancel()
		<-done
		br.wait(nil)
	}
}

// errPage is why a page is not opened. It goes to the guest.
var errPage = errors.New("only the sign-in pages of agents are opened on the host; open this one by hand")

// show opens a page.
func (b *browser) show(raw string) error {
	pg, ok := signin.ParsePage(raw)
	if !ok {
		return errPage
	}
	if b.pages++; b.pages > maxPages {
		return errors.New("too many pages were opened already")
	}
	if pg.Port != 0 {
		b.wait(nil) // the one before may have the same port
		s, err := newCallbackServer(b, pg)
		if err != nil {
			return err
		}
		b.wait(s)
	}
	return b.a.openBrowser(pg.URL)
}

// wait has a server wait for the browser, in place of the one before.
func (b *browser) wait(s *callbackServer) {
	b.mu.Lock()
	old := b.listen
	b.listen = s
	b.mu.Unlock()
	if old != nil {
		old.close()
	}
}

// openBrowser opens a page in the user's browser, and does not wait for it.
func (a *app) openBrowser(page string) error {
	program := a.getenv("BROWSER")
	if program == "" && (a.getenv("DISPLAY") != "" || a.getenv("WAYLAND_DISPLAY") != "") {
		program = "xdg-open"
	}
	// Of a list the first; what takes its page by a %s has it put there by a shell,
	// which must not read what a guest has written.
	program, _, _ = strings.Cut(program, ":")
	if program == "" || strings.ContainsAny(program, "% \t\n") {
		return errors.New("there is no browser on the host; open it by hand")
	}
	path, err := exec.LookPath(program)
	if err != nil {
		return errors.New("the host's browser cannot be started; open it by hand")
	}
	cmd := exec.Command(path, page)
	// It is the user's and stays when this command ends.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return errors.New("the host's browser cannot be started; open it by hand")
	}
	go func() { _ = cmd.Wait() }()
	return nil
}

// callbackServer waits on this machine for the browser to come back (RFC 8252
// §7.3), on the port that the agent waits on in the guest. It takes the answer
// to the guest itself and shows a page of its own: what the guest would show, a
// browser would run as localhost.
type callbackServer struct {
	b         *browser
	page      signin.Page
	server    *http.Server
	client    *http.Client
	listeners []net.Listener
	timer     *time.Timer

	mu    sync.Mutex // one answer of the browser's at a time
	tries int
	done  bool // the guest has taken it
}

func newCallbackServer(b *browser, pg signin.Page) (*callbackServer, error) {
	s := &callbackServer{b: b, page: pg}
	for _, host := range []string{"127.0.0.1", "::1"} {
		l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(pg.Port)))
		if err == nil {
			s.listeners = append(s.listeners, l)
		} else if host == "127.0.0.1" || errors.Is(err, syscall.EADDRINUSE) {
			// Half of it would send the browser to who has the other half.
			s.close()
			return nil, fmt.Errorf("port %d is taken on the host; sign in with a code instead", pg.Port)
		}
	}
	s.server = &http.Server{Handler: s, ReadTimeout: b.callbackTime, WriteTimeout: 2 * b.callbackTime, MaxHeaderBytes: 64 << 10}
	same := pg.Port
	s.client = &http.Client{
		Timeout: b.callbackTime,
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return b.dial(ctx, "tcp", net.JoinHostPort("localhost", strconv.Itoa(same)))
		}, DisableKeepAlives: true, Proxy: nil, MaxResponseHeaderBytes: 64 << 10},
		// An agent's own next page is a part of the sign-in; the provider's is
		// not for us to read.
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if port, _ := portOf(r.URL); port != same || len(via) > 3 {
				return http.ErrUseLastResponse
			}
			return nil
		},
	}
	for _, l := range s.listeners {
		go func() { _ = s.server.Serve(l) }()
	}
	s.timer = time.AfterFunc(b.signInTime, s.close)
	return s, nil
}

// close frees the port.
func (s *callbackServer) close() {
	for _, l := range s.listeners {
		_ = l.Close()
	}
	if s.server != nil {
		_ = s.server.Close()
	}
	if s.timer != nil {
		s.timer.Stop()
	}
}

// awaits reports whether a request is the browser coming back from the page. A
// page elsewhere that was made to point here knows neither the name nor the
// state (DNS rebinding, and codes of somebody else's), and one that does knows
// them from the guest: that may not come back unseen, as an image or a script.
func (s *callbackServer) awaits(r *http.Request) bool {
	if port, ok := portOf(&url.URL{Scheme: "http", Host: r.Host}); !ok || port != s.page.Port {
		return false
	}
	for name, want := range map[string]string{"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"} {
		if got := r.Header.Get(name); got != "" && got != want { // old browsers say nothing
			return false
		}
	}
	q, err := url.ParseQuery(r.URL.RawQuery)
	return err == nil && r.Method == http.MethodGet && r.URL.EscapedPath() == s.page.Path &&
		len(q["state"]) == 1 && q.Get("state") == s.page.State && len(q["code"]) <= 1
}

func portOf(u *url.URL) (int, bool) {
	host := u.Hostname()
	if u.Scheme != "http" || host != "localhost" && host != "127.0.0.1" && host != "::1" {
		return 0, false
	}
	port, err := strconv.Atoi(u.Port())
	return port, err == nil
}

// ServeHTTP implements http.Handler.
func (s *callbackServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
	waited := s.awaits(r)
	if waited {
		s.mu.Lock()
		defer s.mu.Unlock()
		waited = !s.done && s.tries < maxTries
		s.tries++
	}
	if !waited {
		w.WriteHeader(http.StatusNotFound)
		say(w, "Not found", "This is no answer to a sign-in that Berth waits for.")
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), s.b.callbackTime)
	defer cancel()
	code := r.URL.Query().Get("code")
	if code != "" {
		s.keepCode(ctx, r.URL, code)
	}
	if err := s.bring(ctx, r.URL); err != nil {
		w.WriteHeader(http.StatusBadGateway)
		say(w, "The sign-in did not work", err.Error())
		return
	}
	s.done = true
	if code == "" {
		say(w, "Not signed in", "The agent in the sandbox has heard that "+s.page.Provider.Title+" gave nothing for it.")
	} else {
		say(w, "Signed in to "+s.page.Provider.Title, "The agent has what it needs. You can close this window.")
	}
	// It is answered; the port is free for the next.
	time.AfterFunc(time.Second, s.close)
}

// keepCode vouches for a code and puts something else in its place: who has the
// code, and what the guest has besides, has the tokens.
func (s *callbackServer) keepCode(ctx context.Context, u *url.URL, code string) {
	standIn := "berth-" + rand.Text()
	sum := sha256.Sum256([]byte(standIn))
	v := control.Vouch{Provider: s.page.Provider.Name, StandIn: sum[:], Code: secret.Wire{Value: secret.NewValue(code)}}
	if err := s.b.vouch(ctx, v); err != nil {
		s.b.a.note("the sign-in will be this sandbox's alone: %v", err)
		return
	}
	q := u.Query()
	q.Set("code", standIn)
	u.RawQuery = q.Encode()
}

// bring takes the browser's request to the guest: its path and query, and
// nothing else that a browser says.
func (s *callbackServer) bring(ctx context.Context, u *url.URL) error {
	to := url.URL{Scheme: "http", Host: net.JoinHostPort("localhost", strconv.Itoa(s.page.Port)), Path: u.Path, RawPath: u.RawPath, RawQuery: u.RawQuery}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, to.String(), nil)
	if err != nil {
		return errors.New("the browser's answer makes no sense")
	}
	res, err := s.client.Do(req)
	if err != nil {
		return errors.New("the agent in the sandbox does not wait for it any more")
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 1<<20))
	if res.StatusCode >= 400 {
		return fmt.Errorf("the agent in the sandbox answered %d; look at what it says there", res.StatusCode)
	}
	return nil
}

// say writes a page.
func say(w io.Writer, title, text string) {
	fmt.Fprintf(w, "<!doctype html><title>Berth: %[1]s</title><body style=\"font: 16px sans-serif; margin: 4em\"><h1>%[1]s</h1><p>%[2]s</p>\n",
		html.EscapeString(title), html.EscapeString(text))
}
