package signin

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"berth.dev/test/standin"
)

// TestRenewedOnceForAll: many sandboxes whose token runs out at once.
func TestRenewedOnceForAll(t *testing.T) {
	w := newWorld(t)
	a := apps["claude"]
	first := w.box("first", "claude", false)
	first.sign(a, true)
	boxes := []*box{first}
	for i := range 5 {
		boxes = append(boxes, w.box(fmt.Sprint("box", i), "claude", false))
	}
	old := w.login("login/claude").Access.Reveal()
	w.pass(58 * time.Minute)
	var wg sync.WaitGroup
	for _, b := range boxes {
		for range 3 {
			wg.Go(func() {
				if r := b.call(a.call, b.broker.Placeholder("login/claude")); r.status != http.StatusOK {
					t.Errorf("%s: %d %s", b.name, r.status, r.body)
				}
				if r := b.refresh(a, b.broker.Part("login/claude", "refresh")); r.status != http.StatusOK {
					t.Errorf("%s: %d %s", b.name, r.status, r.body)
				}
			})
		}
	}
	wg.Wait()
	if n := w.signIn.Refreshes(); n != 1 || w.login("login/claude").Access.Reveal() == old {
		t.Errorf("renewed %d times", n)
	}
	for _, u := range w.signIn.Uses() {
		if strings.HasSuffix(u.Line, "/profile") && u.State != standin.Current {
			t.Errorf("a call came with a token that is %s", u.State)
		}
	}
	for _, b := range boxes {
		b.clean()
	}
}

// TestRefusedToken: a token that a server does not take is renewed, and then not
// again for a while, whatever the guest does.
func TestRefusedToken(t *testing.T) {
	w := newWorld(t)
	a := apps["claude"]
	b := w.box("one", "claude", false)
	ph := b.sign(a, true).text("access_token")
	w.signIn.Expire() // the provider only
	if r := b.call(a.call, ph); r.status != http.StatusOK || w.signIn.Refreshes() != 1 {
		t.Fatalf("the guest sees %d, after %d renewals", r.status, w.signIn.Refreshes())
	}
	if used := b.used(); !strings.Contains(used, "sent again, renewed") {
		t.Errorf("the record lacks it:\n%s", used)
	}
	// A guest that has each of its tokens refused.
	for range 20 {
		w.signIn.Expire()
		b.call(a.call, ph)
	}
	if n := w.signIn.Refreshes(); n != 1 {
		t.Errorf("renewed %d times at once", n)
	}
	w.pass(between + time.Second)
	if r := b.call(a.call, ph); r.status != http.StatusOK || w.signIn.Refreshes() != 2 {
		t.Errorf("later %d, after %d renewals", r.status, w.signIn.Refreshes())
	}
	// What was refused and is nobody's token changes nothing.
	for i := range 5 * maxVouched {
		r, _ := http.NewRequest(http.MethodGet, a.call, nil)
		r.Header.Set("Authorization", fmt.Sprint("Bearer x", i))
		b.keeper.notTaken(r)
	}
	if len(b.keeper.refused) > maxVouched {
		t.Errorf("%d tokens are remembered", len(b.keeper.refused))
	}
	b.clean()
}

// TestLoginThatEnded: the guest hears it as its provider would say it, and the
// provider is not asked again and again.
func TestLoginThatEnded(t *testing.T) {
	for agent, a := range apps {
		if agent == "copilot" {
			continue // has nothing to renew with
		}
		t.Run(agent, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			b := w.box("one", agent, false)
			got := b.sign(a, true)
			w.signIn.SignOut()
			w.pass(58 * time.Minute)
			b.used()
			before := len(w.server.Requests())
			for range 5 {
				if r := b.refresh(a, got.text("refresh_token")); r.status != http.StatusBadRequest || r.text("error") != "invalid_grant" {
					t.Errorf("a refresh: %d %s", r.status, r.body)
				}
				if r := b.call(a.call, got.text("access_token")); r.status != http.StatusUnauthorized || r.text("error") != "invalid_token" {
					t.Errorf("a call: %d %s", r.status, r.body)
				}
			}
			if n := len(w.server.Requests()) - before; n != 1 {
				t.Errorf("the provider was asked %d times", n)
			}
			if said := b.used(); !strings.Contains(said, "sign in again") || !strings.Contains(said, "deny login/"+a.provider) {
				t.Errorf("recorded: %s", said)
			}
			// It is kept: that the provider says so may pass. And a new sign-in counts
			// at once.
			if w.login("login/"+a.provider) == nil {
				t.Error("the login is gone")
			}
			b.sign(a, true)
			if r := b.call(a.call, got.text("access_token")); r.status != http.StatusOK {
				t.Errorf("after the next sign-in: %d %s", r.status, r.body)
			}
			b.clean()
		})
	}
}

// TestProviderAway: a token near its end is used on; one that has run out is not.
func TestProviderAway(t *testing.T) {
	w := newWorld(t)
	a := apps["claude"]
	b := w.box("one", "claude", false)
	ph := b.sign(a, true).text("access_token")
	token := w.login("login/claude").Access.Reveal()
	w.instead(func(rw http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/token") {
			rw.WriteHeader(http.StatusServiceUnavailable)
			_, _ = rw.Write([]byte("refresh_token=" + r.FormValue("refresh_token")))
			return
		}
		_, _ = rw.Write([]byte(r.Header.Get("Authorization")[:7]))
		if !strings.HasSuffix(r.Header.Get("Authorization"), token) {
			rw.WriteHeader(http.StatusTeapot)
		}
	})
	w.pass(58 * time.Minute)
	if r := b.call(a.call, ph); r.status != http.StatusOK {
		t.Errorf("near its end: %d %s", r.status, r.body)
	}
	if r := b.refresh(a, b.broker.Part("login/claude", "refresh")); r.status != http.StatusOK {
		t.Errorf("a refresh: %d %s", r.status, r.body)
	}
	w.pass(time.Hour)
	b.used()
	if r := b.call(a.call, ph); r.status != http.StatusBadGateway {
		t.Errorf("after its end: %d %s", r.status, r.body)
	}
	if r := b.refresh(a, b.broker.Part("login/claude", "refresh")); r.status != http.StatusBadGateway {
		t.Errorf("a refresh: %d %s", r.status, r.body)
	}
	if said := b.used(); strings.Count(said, "503") != 2 {
		t.Errorf("recorded: %s", said)
	}
	w.instead(nil)
	if r := b.call(a.call, ph); r.status != http.StatusOK {
		t.Errorf("when it is back: %d %s", r.status, r.body)
	}
}

// TestGuestLeaves: nobody's patience ends a renewal halfway, for what it was
// renewed with is spent.
func TestGuestLeaves(t *testing.T) {
	w := newWorld(t)
	a := apps["claude"]
	b := w.box("one", "claude", false)
	ph := b.sign(a, true).text("access_token")
	asked, goOn := make(chan struct{}), make(chan struct{})
	w.instead(func(rw http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/token") {
			close(asked)
			<-goOn
		}
		w.signIn.ServeHTTP(rw, r)
	})
	w.pass(58 * time.Minute)
	ctx, leave := context.WithCancel(t.Context())
	r, _ := http.NewRequestWithContext(ctx, http.MethodGet, a.call, nil)
	r.Header.Set("Authorization", "Bearer "+ph)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		if res, err := b.guest.Do(r); err == nil {
			res.Body.Close()
		}
	}()
	<-asked
	old := w.login("login/claude").Refresh.Reveal()
	leave()
	<-gone
	close(goOn)
	deadline := time.Now().Add(10 * time.Second)
	for w.login("login/claude").Refresh.Reveal() == old {
		if time.Now().After(deadline) {
			t.Fatal("the next refresh token was lost")
		}
		time.Sleep(time.Millisecond)
	}
	if r := b.call(a.call, ph); r.status != http.StatusOK || w.signIn.Refreshes() != 1 {
		t.Errorf("afterwards %d, %d renewals", r.status, w.signIn.Refreshes())
	}
}

// TestHostileRenewal: what a token endpoint may answer to the host.
func TestHostileRenewal(t *testing.T) {
	w := newWorld(t)
	a := apps["claude"]
	b := w.box("one", "claude", false)
	ph := b.sign(a, true).text("access_token")
	kept := w.login("login/claude")
	elsewhere := false
	w.pass(58 * time.Minute)
	for name, answer := range map[string]func(http.ResponseWriter){
		"too long": func(rw http.ResponseWriter) {
			_, _ = rw.Write([]byte(`{"x":"` + strings.Repeat("x", maxAnswer) + `"}`))
		},
		"broken":   func(rw http.ResponseWriter) { _, _ = rw.Write([]byte(`{`)) },
		"no token": func(rw http.ResponseWriter) { _, _ = rw.Write([]byte(`{"refresh_token":"x"}`)) },
		"no token at all": func(rw http.ResponseWriter) {
			_, _ = rw.Write([]byte(`{"access_token":"a b"}`))
		},
		"redirect": func(rw http.ResponseWriter) {
			rw.Header().Set("Location", "https://evil.example.com/token")
			rw.WriteHeader(http.StatusTemporaryRedirect)
		},
	} {
		w.instead(func(rw http.ResponseWriter, r *http.Request) {
			elsewhere = elsewhere || r.Host == "evil.example.com"
			if r.Method == http.MethodPost {
				rw.Header().Set("Content-Type", jsonType)
				answer(rw)
			}
		})
		if r := b.call(a.call, ph); r.status != http.StatusOK {
			t.Errorf("%s: %d %s", name, r.status, r.body)
		}
		if l := w.login("login/claude"); !l.Refresh.Equal(kept.Refresh) || !l.Access.Equal(kept.Access) {
			t.Errorf("%s: what is kept has changed", name)
		}
	}
	if elsewhere {
		t.Error("what renews the login went elsewhere")
	}
}

// TestWhereItIsRenewed: a login is renewed where it was made, which is one of the
// provider's token endpoints, whatever the guest said.
func TestWhereItIsRenewed(t *testing.T) {
	w := newWorld(t)
	w.account("ann")
	b := w.box("one", "claude", false)
	for _, link := range []string{
		"https://evil.example.com/v1/oauth/token", "https://platform.claude.com/v1/oauth/hello", "https://evil.example.com/?https://platform.claude.com/v1/oauth/token",
	} {
		b.post(link, jsonType, apps["claude"].redemption("x"))
	}
	r, _ := http.NewRequest(http.MethodPost, "https://evil.example.com/v1/oauth/token", strings.NewReader("{}"))
	r.Host = "platform.claude.com"
	b.do(r)
	if w.login("login/claude.one") != nil || b.used() != "" {
		t.Error("a sign-in elsewhere is kept")
	}
	said := apps["claude"].redemption("x")
	said["token_endpoint"], said["iss"] = "https://evil.example.com/", "https://evil.example.com"
	b.post(apps["claude"].token, jsonType, said)
	if l := w.login("login/claude.one"); l == nil || l.Endpoint != "platform.claude.com/v1/oauth/token" {
		t.Errorf("it is renewed at %+v", l)
	}
}

// TestRenewedButNotKept: a store that cannot be written while a login is renewed.
func TestRenewedButNotKept(t *testing.T) {
	w := newWorld(t)
	a := apps["claude"]
	b := w.box("one", "claude", false)
	ph := b.sign(a, true).text("access_token")
	w.pass(58 * time.Minute)
	values := w.dir + "/values"
	if err := os.Rename(values, values+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(values, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b.call(a.call, ph)
	if n := w.signIn.Refreshes(); n != 1 {
		t.Fatalf("renewed %d times", n)
	}
	if err := os.Remove(values); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(values+".away", values); err != nil {
		t.Fatal(err)
	}
	if r := b.call(a.call, ph); r.status != http.StatusOK || w.signIn.Refreshes() != 1 {
		t.Errorf("when it can be written again: %d %s, %d renewals", r.status, r.body, w.signIn.Refreshes())
	}
	if l := w.login("login/claude"); !w.isCurrent(l.Refresh.Reveal()) {
		t.Error("what is kept renews nothing")
	}
	b.clean()
}

// isCurrent reports whether a refresh token is the last that was issued.
func (w *world) isCurrent(token string) bool {
	last := ""
	for _, s := range w.signIn.Issued() {
		if s.Kind == standin.Refresh {
			last = s.Value
		}
	}
	return last == token
}
