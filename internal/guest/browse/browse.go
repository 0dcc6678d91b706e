// Package browse hands web pages that programs of the guest want shown to the
// host, whose user has a browser. A program runs `berth-guest open URL`, which
// asks PID 1 by a socket; PID 1 asks the client that joined last. What may be
// opened is for that client to say: nothing here is trusted.
package browse

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"berth.dev/internal/guestapi"
)

// Socket is where PID 1 listens: an abstract address, which needs no folder.
const Socket = "@berth-open"

// Bounds of what anybody in the guest can make PID 1 hold.
const (
	maxWaiting = 8
	waitTime   = 20 * time.Second
)

// Desk is where pages are handed in. The zero value is ready; it is safe for
// concurrent use.
type Desk struct {
	mu      sync.Mutex
	clients []*client
	waiting int
}

// client is one of the host's that shows pages.
type client struct {
	mu sync.Mutex // one page at a time
	rw io.ReadWriter
	r  *bufio.Reader
}

// errNobody is why a page cannot be shown when no client is there.
var errNobody = errors.New("nobody is there on the host to open it")

// Join offers pages to a client of the host's, until leave is called.
func (d *Desk) Join(rw io.ReadWriter) (leave func()) {
	c := &client{rw: rw, r: bufio.NewReaderSize(rw, guestapi.MaxError)}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.clients = append(d.clients, c)
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.clients = slices.DeleteFunc(d.clients, func(o *client) bool { return o == c })
	}
}

// Show has a page shown by the client that joined last.
func (d *Desk) Show(url string) error {
	d.mu.Lock()
	if len(d.clients) == 0 {
		d.mu.Unlock()
		return errNobody
	}
	if d.waiting >= maxWaiting {
		d.mu.Unlock()
		return errors.New("too many pages at once")
	}
	d.waiting++
	c := d.clients[len(d.clients)-1]
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.waiting--
	}()
	return c.show(url)
}

func (c *client) show(url string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	b, err := guestapi.Marshal(guestapi.Page{URL: url})
	if err != nil {
		return fmt.Errorf("encode the address: %w", err)
	}
	if len(b) >= guestapi.MaxPage { // the client would take it for a guest gone mad, and leave
		return errors.New("the address is too long to be opened on the host")
	}
	if _, err := c.rw.Write(append(b, '\n')); err != nil {
		return errNobody
	}
	line, err := c.r.ReadSlice('\n')
	if err != nil {
		return errNobody
	}
	var shown guestapi.Shown
	if err := json.Unmarshal(line, &shown); err != nil {
		return errNobody
	}
	if shown.Error != "" {
		return errors.New(shown.Error)
	}
	return nil
}

// Serve answers programs of the guest until l is closed.
func (d *Desk) Serve(l net.Listener) {
	slots := make(chan struct{}, maxWaiting)
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		select {
		case slots <- struct{}{}:
			go func() {
				defer func() { <-slots }()
				d.serve(c)
			}()
		default:
			_ = c.Close()
		}
	}
}

func (d *Desk) serve(c net.Conn) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(waitTime))
	line, err := bufio.NewReaderSize(c, guestapi.MaxPage).ReadSlice('\n')
	if err != nil {
		return
	}
	answer := "ok"
	if err := d.Show(strings.TrimSuffix(string(line), "\n")); err != nil {
		answer = err.Error()
	}
	_, _ = io.WriteString(c, answer+"\n")
}

// Open is `berth-guest open URL`: it has a page shown and says how that went.
func Open(url string) error {
	// What cannot be an address would only be refused further on.
	if !strings.HasPrefix(url, "https://") && !strings.HasPrefix(url, "http://") || strings.ContainsAny(url, "\r\n") || len(url) >= guestapi.MaxPage {
		return errors.New("a sandbox has no desktop: only web pages can be opened, on the host")
	}
	c, err := net.DialTimeout("unix", Socket, time.Second)
	if err != nil {
		return errNobody
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(waitTime))
	if _, err := io.WriteString(c, url+"\n"); err != nil {
		return errNobody
	}
	answer, err := bufio.NewReader(io.LimitReader(c, guestapi.MaxError)).ReadString('\n')
	switch answer = strings.TrimSpace(answer); {
	case err != nil:
		return errNobody
	case answer != "ok":
		return errors.New(answer)
	}
	return nil
}
