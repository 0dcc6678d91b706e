package guestapi

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"
)

func config() Config {
	return Config{
		Version: Version, Hostname: "box", HostKey: "k", AuthorizedKey: "a", Listen: "10.0.0.2:22", Peer: "10.0.0.1",
		User: User{Name: "agent", UID: 1000, GID: 1000, Home: "/home/agent"}, Env: map[string]string{"A": "b"},
		Mounts:   []MountPoint{{Type: "tmpfs", Target: "/tmp"}},
		Files:    []File{{Path: "/etc/x", Mode: 0o644, Content: []byte{0, 255}, Policy: Once}},
		Creation: "c-1", Docker: Docker{Enabled: true, DNS: []string{"10.0.0.1"}},
	}
}

func TestConfig(t *testing.T) {
	b, err := json.Marshal(config())
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseConfig(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	want := config()
	want.Ring, want.GraceMS, want.Dir, want.StateDir = DefaultRing, DefaultGraceMS, "/home/agent", DefaultStateDir
	if !reflect.DeepEqual(*got, want) {
		t.Errorf("got %+v", got)
	}
	bad := map[string]func(*Config){
		"version":            func(c *Config) { c.Version = 2 },
		"listen":             func(c *Config) { c.Listen = "box:22" },
		"peer":               func(c *Config) { c.Peer = "::1" },
		"hostname":           func(c *Config) { c.Hostname = "a/b" },
		"user":               func(c *Config) { c.User.Name = "" },
		"home":               func(c *Config) { c.User.Home = "home" },
		"working directory":  func(c *Config) { c.Dir = "/a/../b" },
		"state directory":    func(c *Config) { c.StateDir = "x" },
		"scrollback":         func(c *Config) { c.Ring = MaxRing + 1 },
		"grace":              func(c *Config) { c.GraceMS = -1 },
		"creation":           func(c *Config) { c.Creation = "../x" },
		"environment":        func(c *Config) { c.Env = map[string]string{"A=": ""} },
		"type":               func(c *Config) { c.Mounts[0].Type = "ext4" },
		"mount target":       func(c *Config) { c.Mounts[0].Target = "/" },
		"not a clean":        func(c *Config) { c.Files[0].Path = "/etc/../x" },
		"mode":               func(c *Config) { c.Files[0].Mode = 0o4755 },
		"policy":             func(c *Config) { c.Files[0].Policy = "" },
		"creation has no na": func(c *Config) { c.Creation = "" },
		"resolver":           func(c *Config) { c.Docker.DNS = []string{"x"} },
	}
	for text, change := range bad {
		c := config()
		change(&c)
		b, _ := json.Marshal(c)
		if _, err := ParseConfig(bytes.NewReader(b)); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestErrors(t *testing.T) {
	e := Errorf(CommandNotFound, "%s: command not found", "x\x1b[2J\"")
	got := ParseError(e.Encode())
	if got.Code != CommandNotFound || got.Message != "x?[2J\": command not found" || got.ExitCode() != 127 {
		t.Errorf("%+v", got)
	}
	for _, s := range []string{"", "plain \x07 text", "{}", `{"code":1}`, strings.Repeat("x", MaxError+1)} {
		if got := ParseError(s); got.Code != Internal || strings.Contains(got.Message, "\x07") || len(got.Message) > 300 {
			t.Errorf("%.20q: %+v", s, got)
		}
	}
	for _, long := range []string{strings.Repeat("\u00fc", 5000), strings.Repeat("\x00", 5000)} {
		if s := Errorf(Internal, "%s", long).Encode(); len(s) > MaxError {
			t.Errorf("%d bytes", len(s))
		}
	}
}

func TestFrames(t *testing.T) {
	var b bytes.Buffer
	now := time.Now().UTC().Round(0)
	events := []*Event{
		{Type: Synced, Time: now, Data: []byte{}},
		{Type: Output, Time: now, ID: "a", Stream: Stderr, Offset: 7, Data: []byte{0, 1, '{'}},
		{Type: Ended, Time: now, Session: &SessionInfo{ID: "a", Result: &Result{ExitCode: 3}}, Data: []byte{}},
	}
	for _, e := range events {
		if err := WriteFrame(&b, e); err != nil {
			t.Fatal(err)
		}
	}
	whole := b.Bytes()
	for _, want := range events {
		if got, err := ReadFrame(&b); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%+v, %v", got, err)
		}
	}
	if _, err := ReadFrame(&b); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
	for cut := 1; cut < 30; cut++ {
		if _, err := ReadFrame(bytes.NewReader(whole[:cut])); err != io.ErrUnexpectedEOF {
			t.Errorf("cut at %d: %v", cut, err)
		}
	}
}

// What a guest sends that cannot be true does not get through.
func TestHostileFrames(t *testing.T) {
	frame := func(head, data string) []byte {
		b := binary.BigEndian.AppendUint32(nil, uint32(len(head)))
		b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
		return append(append(b, head...), data...)
	}
	for _, f := range [][]byte{
		{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0},
		{0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff},
		frame("", ""),
		frame("{}", ""),
		frame("[]", ""),
		frame(`{"type":"started"}`, ""),
		frame(`{"type":"ended","session":{"id":"a"}}`, ""),
		frame(`{"type":"ended","session":{"id":"a","result":{"exit_code":256}}}`, ""),
		frame(`{"type":"ended","session":{"id":"../a","result":{}}}`, ""),
		frame(`{"type":"output","id":"a","stream":"x"}`, ""),
		frame(`{"type":"output","id":"a","stream":"stdout","offset":-1}`, ""),
		frame(`{"type":"output","id":"","stream":"stdout"}`, ""),
		frame(`{"type":"output","id":5,"stream":"stdout"}`, ""),
	} {
		if e, err := ReadFrame(bytes.NewReader(f)); err == nil {
			t.Errorf("%q: %+v", f, e)
		}
	}
}

func TestMarshalIsShort(t *testing.T) {
	b, err := Marshal("<&>")
	if err != nil || string(b) != `"<&>"` {
		t.Errorf("%s, %v", b, err)
	}
}

func FuzzConfig(f *testing.F) {
	c := config()
	b, _ := json.Marshal(c)
	f.Add(b)
	f.Add([]byte(`{"version":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseConfig(bytes.NewReader(b))
		if err == nil && (c.Check() != nil || c.Ring <= 0 || c.Dir == "") {
			t.Errorf("%+v", c)
		}
	})
}

func FuzzRequests(f *testing.F) {
	f.Add([]byte(`{"spec":{"kind":"agent","args":["claude"],"tty":true,"size":{"cols":80,"rows":24},"env":{"A":"b"}},"attach":true}`))
	f.Add([]byte(`{"id":"x","screen":true,"from":{"stdout":-1,"stderr":5}}`))
	f.Add([]byte(`{"method":"signal","id":"x","signal":"INT"}`))
	f.Add([]byte(`{"output":true,"from":{"x":{"stdout":1}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := Parse[StartRequest](b, MaxRequest); err == nil && len(r.Spec.Args) == 0 {
			t.Error("a start without a command")
		}
		if r, err := Parse[AttachRequest](b, MaxRequest); err == nil && r.ID == "" {
			t.Error("an attach without a session")
		}
		_, _ = Parse[EventsRequest](b, MaxRequest)
		_, _ = Parse[SFTPRequest](b, MaxRequest)
		_, _ = Parse[Call](b, MaxRequest)
	})
}

func FuzzFromGuest(f *testing.F) {
	var b bytes.Buffer
	_ = WriteFrame(&b, &Event{Type: Output, ID: "a", Stream: Stdout, Data: []byte("x")})
	f.Add(b.Bytes())
	f.Add([]byte(`{"id":"a","args":["x"],"kept":{"stdout":0},"result":{"exit_code":1,"signal":"KILL"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, err := ReadFrame(bytes.NewReader(b)); err == nil && e.Type == Ended && e.Session.Result.ExitCode > 255 {
			t.Error("an impossible status")
		}
		if r, err := ParseResult(b); err == nil && (r.Detached || r.ExitCode < 0 || r.ExitCode > 255) {
			t.Errorf("%+v", r)
		}
		_, _ = ParseInfo(b)
		e := ParseError(string(b))
		if e.Message != Printable(e.Message, 4096) || e.Code == "" {
			t.Errorf("%+v", e)
		}
	})
}
