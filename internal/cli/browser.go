package cli

import (
	"context"
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
	"berth.dev/internal/guestapi/client"
	"berth.dev/internal/manager"
	"berth.dev/internal/signin"
)

// Times of a sign-in by the user's browser.
const (
	signInTime   = 10 * time.Minute // from the page to the way back
	callbackTime = 30 * time.Second // for the guest to take what came back
)

// maxPages bounds how many pages a guest can have opened in one command.
const maxPages = 20

// browser opens the pages of sign-ins for a guest, and brings what the user's
// browser comes back with to the guest.
type browser struct {
	a      *app
	g      *client.Client
	vouch  func(context.Context, [32]byte) error
	pages  int
	mu     sync.Mutex
	listen *callbackServer // nil: nothing is waited for
}

// browse opens pages for the guest until stop is called.
func (a *app) browse(ctx context.Context, m *manager.Manager, b *bundle.Bundle, g *client.Client) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	br := &browser{a: a, g: g, vouch: func(ctx context.Context, sum [32]byte) error { return m.Vouch(ctx, b, sum) }}
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
	if program == "" || strings.ContainsAny(program, "% ") {
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
	b      *browser
	page   signin.Page
	server *http.Server
	client *http.Client
}

func newCallbackServer(b *browser, pg signin.Page) (*callbackServer, error) {
	var listeners []net.Listener
	for _, host := range []string{"127.0.0.1", "::1"} {
		l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(pg.Port)))
		if err == nil {
			listeners = append(listeners, l)
		} else if host == "127.0.0.1" {
			return nil, fmt.Errorf("port %d is taken on the host; sign in with a code instead", pg.Port)
		}
	}
	s := &callbackServer{b: b, page: pg}
	s.server = &http.Server{Handler: s, ReadTimeout: callbackTime, WriteTimeout: 2 * callbackTime, MaxHeaderBytes: 64 << 10}
	same := pg.Port
	s.client = &http.Client{
		Timeout: callbackTime,
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return b.g.DialContext(ctx, "tcp", net.JoinHostPort("localhost", strconv.Itoa(same)))
		}, DisableKeepAlives: true, Proxy: nil},
		// An agent's own next page is a part of the sign-in; the provider's is
		// not for us to read.
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if port, _ := portOf(r.URL); port != same || len(via) > 3 {
				return http.ErrUseLastResponse
			}
			return nil
		},
	}
	for _, l := range listeners {
		go func() { _ = s.server.Serve(l) }()
	}
	time.AfterFunc(signInTime, s.close)
	return s, nil
}

func (s *callbackServer) close() { _ = s.server.Close() }

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
	q := r.URL.Query()
	// A page elsewhere that was made to point here knows neither (DNS rebinding,
	// and codes of somebody else's).
	if port, ok := portOf(&url.URL{Scheme: "http", Host: r.Host}); !ok || port != s.page.Port ||
		r.Method != http.MethodGet || r.URL.EscapedPath() != s.page.Path || s.page.State != "" && q.Get("state") != s.page.State {
		w.WriteHeader(http.StatusNotFound)
		say(w, "Not found", "This is no answer to a sign-in that Berth waits for.")
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), callbackTime)
	defer cancel()
	if code := q.Get("code"); code != "" {
		if err := s.b.vouch(ctx, sha256.Sum256([]byte(code))); err != nil {
			s.b.a.note("the sign-in will be this sandbox's alone: %v", err)
		}
	}
	if err := s.bring(ctx, r.URL); err != nil {
		w.WriteHeader(http.StatusBadGateway)
		say(w, "The sign-in did not work", err.Error())
		return
	}
	say(w, "Signed in to "+s.page.Provider.Title, "The agent has what it needs. You can close this window.")
	// It is answered; the port is free for the next.
	time.AfterFunc(time.Second, s.close)
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
