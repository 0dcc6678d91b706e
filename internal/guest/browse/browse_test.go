package browse

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"berth.dev/internal/guestapi"
)

// host is a client of the host's that shows pages.
type host struct {
	conn  net.Conn
	leave func()

	mu    sync.Mutex
	shown []string
}

// join has a client join a desk. It answers each page as answer says, a line.
func join(t *testing.T, d *Desk, answer func(url string) string) *host {
	t.Helper()
	theirs, ours := net.Pipe()
	h := &host{conn: theirs, leave: d.Join(ours)}
	t.Cleanup(func() { theirs.Close(); ours.Close() })
	go func() {
		for r := bufio.NewReaderSize(theirs, guestapi.MaxPage); ; {
			line, err := r.ReadSlice('\n')
			if err != nil {
				return
			}
			page, err := guestapi.Parse[guestapi.Page](line, guestapi.MaxPage)
			said := `{"error":"none"}` + "\n"
			if err == nil {
				h.mu.Lock()
				h.shown = append(h.shown, page.URL)
				h.mu.Unlock()
				said = answer(page.URL)
			} else if string(line) != `{"url":""}`+"\n" {
				t.Errorf("the client got %.200q: %v", line, err)
			}
			if _, err := io.WriteString(theirs, said); err != nil {
				return
			}
		}
	}()
	return h
}

func (h *host) pages() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.shown
}

func ok(string) string { return "{}\n" }

// TestDesk: the client that joined last shows a page; without one there is nobody.
func TestDesk(t *testing.T) {
	d := &Desk{}
	if err := d.Show("https://a"); err != errNobody {
		t.Errorf("nobody is there: %v", err)
	}
	first, last := join(t, d, ok), join(t, d, ok)
	if err := d.Show("https://b"); err != nil || len(first.pages()) != 0 || len(last.pages()) != 1 {
		t.Errorf("%v, %q and %q", err, first.pages(), last.pages())
	}
	last.leave()
	last.leave() // twice does no harm
	if err := d.Show("https://c"); err != nil || len(first.pages()) != 1 || len(last.pages()) != 1 {
		t.Errorf("%v, %q and %q", err, first.pages(), last.pages())
	}
	first.leave()
	if err := d.Show("https://d"); err != errNobody {
		t.Errorf("all have left: %v", err)
	}
}

// TestAnswers: what a client can say.
func TestAnswers(t *testing.T) {
	for said, want := range map[string]string{
		"{}\n": "", `{"error":"no"}` + "\n": "no", "\n": errNobody.Error(), "x\n": errNobody.Error(), "[]\n": errNobody.Error(),
		`{"error":1}` + "\n": errNobody.Error(), strings.Repeat("x", guestapi.MaxError+1) + "\n": errNobody.Error(), "\x00\xff\n": errNobody.Error(),
	} {
		d := &Desk{}
		join(t, d, func(string) string { return said })
		got := ""
		if err := d.Show("https://a"); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%.50q: %q", said, got)
		}
	}
	d := &Desk{}
	h := join(t, d, ok)
	h.conn.Close()
	if err := d.Show("https://a"); err != errNobody {
		t.Errorf("a client that is gone: %v", err)
	}
}

// TestLongAddress: one that the client could not read, as it grows when it is
// encoded, does not end the client.
func TestLongAddress(t *testing.T) {
	d := &Desk{}
	h := join(t, d, ok)
	if err := d.Show("https://a/" + strings.Repeat("\x01", guestapi.MaxPage/3)); err == nil || err == errNobody {
		t.Errorf("a long one: %v", err)
	}
	if err := d.Show("https://a/"); err != nil || len(h.pages()) != 1 {
		t.Errorf("then: %v", err)
	}
}

// serve is a desk that programs of the guest can reach.
func serve(t *testing.T, d *Desk) (dial func() net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "desk"))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); d.Serve(l) }()
	t.Cleanup(func() { l.Close(); <-done })
	return func() net.Conn {
		t.Helper()
		c, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		return c
	}
}

// TestHostilePrograms: what programs of the guest can send. No client gets what
// is no line, and PID 1 answers others all the same.
func TestHostilePrograms(t *testing.T) {
	d := &Desk{}
	h := join(t, d, ok)
	dial := serve(t, d)
	for _, said := range []string{
		"", "https://a", // which are no lines
		strings.Repeat("x", guestapi.MaxPage+1) + "\n", strings.Repeat("\x00", 2*guestapi.MaxPage),
	} {
		c := dial()
		_, _ = io.WriteString(c, said)
		_ = c.(*net.UnixConn).CloseWrite()
		if b, _ := io.ReadAll(c); len(b) != 0 {
			t.Errorf("%.20q: %q", said, b)
		}
	}
	if got := h.pages(); len(got) != 0 {
		t.Errorf("the client got %.100q", got)
	}
	// Bytes that are no text, quotes and second lines are one address, and all that
	// a client gets is one line of JSON.
	for _, said := range []string{"\xff\xfe\x00\n", "https://a\r\n", `"},{"url":"https://b"` + "\n", "https://a\nhttps://b\n", "\u2028\n"} {
		c := dial()
		_, _ = io.WriteString(c, said)
		_ = c.(*net.UnixConn).CloseWrite()
		if b, _ := io.ReadAll(c); string(b) != "ok\n" {
			t.Errorf("%.20q: %q", said, b)
		}
	}
	if got := h.pages(); len(got) != 5 {
		t.Errorf("the client got %q", got)
	}
}

// TestBounds: how many pages and programs there can be at once.
func TestBounds(t *testing.T) {
	d := &Desk{}
	release := make(chan struct{})
	h := join(t, d, func(string) string { <-release; return "{}\n" })
	dial := serve(t, d)
	var waiting []net.Conn
	for i := range maxWaiting {
		c := dial()
		fmt.Fprintf(c, "https://a/%d\n", i)
		waiting = append(waiting, c)
	}
	// All slots are taken: the next is turned away at once, by itself.
	for end := time.Now().Add(10 * time.Second); ; {
		c := dial()
		_ = c.SetDeadline(time.Now().Add(200 * time.Millisecond))
		if _, err := io.ReadAll(c); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("there is no bound")
		}
		waiting = append(waiting, c)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		d.mu.Lock()
		n := d.waiting
		d.mu.Unlock()
		if n == maxWaiting {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d pages wait", n)
		}
	}
	if err := d.Show("https://full"); err == nil {
		t.Error("there is no bound of pages")
	}
	close(release)
	for _, c := range waiting {
		if b, _ := io.ReadAll(c); string(b) != "ok\n" && string(b) != "" {
			t.Errorf("a program that waited got %q", b)
		}
	}
	if n := len(h.pages()); n != maxWaiting {
		t.Errorf("%d pages were shown", n)
	}
	// And afterwards there is room again.
	c := dial()
	_, _ = io.WriteString(c, "https://b\n")
	if b, _ := io.ReadAll(c); string(b) != "ok\n" {
		t.Errorf("afterwards %q", b)
	}
}

// TestManyClients: clients come and go while pages are shown.
func TestManyClients(t *testing.T) {
	d := &Desk{}
	join(t, d, ok)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 20 {
				join(t, d, ok).leave()
			}
		})
		wg.Go(func() {
			for range 20 {
				_ = d.Show("https://a")
			}
		})
	}
	wg.Wait()
	if err := d.Show("https://a"); err != nil {
		t.Error(err)
	}
}

// TestOpen: what berth-guest open takes for a page.
func TestOpen(t *testing.T) {
	for _, bad := range []string{"", "file:///etc/passwd", "/etc/passwd", "mailto:x", "HTTPS://a", "https://a\nhttps://b", "https://a\r", "https://" + strings.Repeat("a", guestapi.MaxPage)} {
		if err := Open(bad); err == nil || !strings.Contains(err.Error(), "only web pages") {
			t.Errorf("%.50q: %v", bad, err)
		}
	}
}

// FuzzServe: whatever a program of the guest sends, a client gets lines of JSON
// that it can read, one for each address.
func FuzzServe(f *testing.F) {
	for _, s := range []string{"https://a\n", "\n", "\xff\n", "\"\\\n", "<>&\n", "a\nb\n", "\x00"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, said []byte) {
		d := &Desk{}
		h := join(t, d, ok)
		program, pid1 := net.Pipe()
		done := make(chan struct{})
		go func() { defer close(done); d.serve(pid1) }()
		_ = program.SetDeadline(time.Now().Add(5 * time.Second))
		go func() {
			_, _ = program.Write(said)
			if !strings.Contains(string(said), "\n") {
				program.Close()
			}
		}()
		answer, _ := io.ReadAll(program)
		program.Close()
		<-done
		if n := len(h.pages()); n > 1 || n == 1 && string(answer) != "ok\n" {
			t.Fatalf("%d pages, the answer %q", n, answer)
		}
	})
}

// FuzzShown: whatever a client answers, the program gets one line of it at most.
func FuzzShown(f *testing.F) {
	for _, s := range []string{"{}\n", `{"error":"x"}` + "\n", "\n", "x", `{"error":"\u001b\n"}` + "\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, said []byte) {
		d := &Desk{}
		theirs, ours := net.Pipe()
		defer ours.Close()
		d.Join(ours)
		go func() {
			_, _ = bufio.NewReader(theirs).ReadSlice('\n')
			_, _ = theirs.Write(said)
			theirs.Close()
		}()
		err := d.Show("https://a")
		line, _, whole := strings.Cut(string(said), "\n")
		var shown guestapi.Shown
		want := whole && len(line) < guestapi.MaxError && json.Unmarshal([]byte(line), &shown) == nil
		if good := want && shown.Error == ""; (err == nil) != good {
			t.Fatalf("%q: %v", said, err)
		}
	})
}
