package secret

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/godbus/dbus/v5"
)

// desktop is a session bus with a Secret Service on it, for what a real one
// cannot be made to do: hang, ask, refuse, be without encryption.
type desktop struct {
	address string

	mu       sync.Mutex
	locked   bool
	noAlias  bool            // there is no default collection
	noDH     bool            // only plain sessions
	absent   bool            // the bus has no such service
	password bool            // the user types it when asked
	hang     map[string]bool // methods that are not answered; "auth" for the bus
	refuse   map[string]bool // methods that fail
	asked    int             // prompts that were shown
	calls    []string
	wire     []string // secrets as they travelled
	items    map[dbus.ObjectPath]fakeItem
	made     int
}

type fakeItem struct {
	label string
	attrs map[string]string
	text  string
}

func newDesktop(t testing.TB) *desktop {
	t.Helper()
	path := filepath.Join(shortDir(t), "bus")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	d := &desktop{address: "unix:path=" + path, hang: map[string]bool{}, refuse: map[string]bool{}, items: map[dbus.ObjectPath]fakeItem{}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				stop := make(chan struct{})
				defer close(stop)
				go func() {
					select {
					case <-t.Context().Done():
						c.Close()
					case <-stop:
					}
				}()
				(&fakeBus{d: d, conn: c}).serve()
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return d
}

// set changes how the desktop behaves.
func (d *desktop) set(change func(*desktop)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change(d)
}

// texts are the secrets in the keyring, by their labels.
func (d *desktop) texts() map[string]string {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := map[string]string{}
	for _, it := range d.items {
		all[it.label] = it.text
	}
	return all
}

// said is a copy of a list that it keeps.
func (d *desktop) said(list func(*desktop) []string) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(list(d))
}

// prompts is how often the user was asked.
func (d *desktop) prompts() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.asked
}

// fakeBus is one connection.
type fakeBus struct {
	d      *desktop
	conn   net.Conn
	cipher cipherOf
}

func (b *fakeBus) hangs(method string) bool {
	b.d.mu.Lock()
	defer b.d.mu.Unlock()
	return b.d.hang[method]
}

func (b *fakeBus) serve() {
	in := bufio.NewReader(b.conn)
	if b.hangs("auth") {
		_, _ = in.ReadString(0xff)
		return
	}
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		switch line = strings.Trim(line, "\x00\r\n"); {
		case line == "AUTH":
			fmt.Fprint(b.conn, "REJECTED EXTERNAL\r\n")
		case line == "AUTH EXTERNAL":
			fmt.Fprint(b.conn, "DATA\r\n")
		case line == "DATA":
			fmt.Fprint(b.conn, "OK 0123456789abcdef0123456789abcdef\r\n")
		}
		if line == "BEGIN" {
			break
		}
	}
	for {
		m, err := dbus.DecodeMessage(in)
		if err != nil {
			return
		}
		method, _ := m.Headers[dbus.FieldMember].Value().(string)
		b.d.mu.Lock()
		b.d.calls = append(b.d.calls, method)
		hang, refuse := b.d.hang[method], b.d.refuse[method]
		b.d.mu.Unlock()
		switch {
		case hang:
		case refuse:
			b.fail(m, "org.freedesktop.DBus.Error.Failed", "refused\n by the test")
		default:
			b.answer(m, method)
		}
	}
}

func (b *fakeBus) send(m *dbus.Message) {
	if len(m.Body) > 0 {
		m.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(m.Body...))
	}
	_ = m.EncodeTo(b.conn, binary.LittleEndian)
}

func (b *fakeBus) reply(to *dbus.Message, body ...any) {
	b.send(&dbus.Message{Type: dbus.TypeMethodReply, Body: body,
		Headers: map[dbus.HeaderField]dbus.Variant{dbus.FieldReplySerial: dbus.MakeVariant(to.Serial())}})
}

func (b *fakeBus) fail(to *dbus.Message, name, text string) {
	b.send(&dbus.Message{Type: dbus.TypeError, Body: []any{text}, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldReplySerial: dbus.MakeVariant(to.Serial()), dbus.FieldErrorName: dbus.MakeVariant(name)}})
}

const (
	fakeCollection = dbus.ObjectPath("/org/freedesktop/secrets/collection/login")
	fakePrompt     = dbus.ObjectPath("/org/freedesktop/secrets/prompt/p1")
	fakeSession    = dbus.ObjectPath("/org/freedesktop/secrets/session/s1")
)

func (b *fakeBus) answer(m *dbus.Message, method string) {
	d := b.d
	d.mu.Lock()
	defer d.mu.Unlock()
	path, _ := m.Headers[dbus.FieldPath].Value().(dbus.ObjectPath)
	switch dest, _ := m.Headers[dbus.FieldDestination].Value().(string); {
	case method == "Hello":
		b.reply(m, ":1.7")
		return
	case method == "AddMatch":
		b.reply(m)
		return
	case dest != ssName || d.absent:
		b.fail(m, "org.freedesktop.DBus.Error.ServiceUnknown", "nobody has that name")
		return
	}
	switch method {
	case "OpenSession":
		b.openSession(m)
	case "ReadAlias":
		if d.noAlias {
			b.reply(m, noPath)
			return
		}
		b.reply(m, fakeCollection)
	case "Get":
		b.reply(m, dbus.MakeVariant(d.locked))
	case "Unlock":
		b.reply(m, []dbus.ObjectPath{}, fakePrompt)
	case "Dismiss":
		b.reply(m)
	case "Prompt":
		d.asked++
		d.locked = !d.password
		b.reply(m)
		b.send(&dbus.Message{Type: dbus.TypeSignal, Body: []any{!d.password, dbus.MakeVariant([]dbus.ObjectPath{})},
			Headers: map[dbus.HeaderField]dbus.Variant{
				dbus.FieldPath: dbus.MakeVariant(path), dbus.FieldInterface: dbus.MakeVariant(ssPrompt), dbus.FieldMember: dbus.MakeVariant("Completed")}})
	case "CreateItem":
		b.createItem(m)
	case "SearchItems":
		want, _ := m.Body[0].(map[string]string)
		found := []dbus.ObjectPath{}
		for p, it := range d.items {
			if contains(it.attrs, want) {
				found = append(found, p)
			}
		}
		if d.locked {
			b.reply(m, []dbus.ObjectPath{}, found)
			return
		}
		b.reply(m, found, []dbus.ObjectPath{})
	case "GetSecret":
		iv, sealed, _ := b.cipher.seal([]byte(d.items[path].text))
		d.wire = append(d.wire, string(sealed))
		b.reply(m, ssSecret{fakeSession, iv, sealed, "text/plain"})
	case "Delete":
		delete(d.items, path)
		b.reply(m, noPath)
	default:
		b.fail(m, "org.freedesktop.DBus.Error.UnknownMethod", method)
	}
}

func contains(all, want map[string]string) bool {
	for k, v := range want {
		if all[k] != v {
			return false
		}
	}
	return true
}

func (b *fakeBus) openSession(m *dbus.Message) {
	if m.Body[0] == "plain" {
		b.cipher = plain{}
		b.reply(m, dbus.MakeVariant(""), fakeSession)
		return
	}
	if b.d.noDH {
		b.fail(m, "org.freedesktop.DBus.Error.NotSupported", "no such algorithm")
		return
	}
	peer, _ := m.Body[1].(dbus.Variant).Value().([]byte)
	mine, _ := newDH()
	b.cipher, _ = mine.agree(peer)
	b.reply(m, dbus.MakeVariant(mine.public()), fakeSession)
}

func (b *fakeBus) createItem(m *dbus.Message) {
	props, _ := m.Body[0].(map[string]dbus.Variant)
	attrs, _ := props[ssItem+".Attributes"].Value().(map[string]string)
	label, _ := props[ssItem+".Label"].Value().(string)
	var sec ssSecret
	if err := dbus.Store(m.Body[1:2], &sec); err != nil {
		b.fail(m, "org.freedesktop.DBus.Error.InvalidArgs", err.Error())
		return
	}
	b.d.wire = append(b.d.wire, string(sec.Value))
	text, err := b.cipher.open(sec.Parameters, sec.Value)
	if err != nil {
		b.fail(m, "org.freedesktop.DBus.Error.InvalidArgs", err.Error())
		return
	}
	b.d.made++
	p := dbus.ObjectPath(fmt.Sprintf("%s/%d", fakeCollection, b.d.made))
	b.d.items[p] = fakeItem{label, maps.Clone(attrs), string(text)}
	b.reply(m, p, noPath)
}
