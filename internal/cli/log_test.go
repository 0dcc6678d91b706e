package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"berth.dev/internal/audit"
	"berth.dev/internal/bundle"
	"berth.dev/internal/hostdir"
	"berth.dev/internal/sandbox"
)

// makeRecord puts an audit log on disk: SANDBOX FILE, where the sandbox exists;
// "removed" NAME ID FILE; "user" FILE. The file holds events as JSON.
func makeRecord(args []string) int {
	if err := tryRecord(args); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func tryRecord(args []string) error {
	dirs, err := hostdir.From(os.Getenv, os.Getuid())
	if err != nil {
		return err
	}
	root, err := dirs.Audit()
	if err != nil {
		return err
	}
	name, id := args[0], args[0]
	switch {
	case name == "removed":
		name, id = args[1], args[2]
		if err := audit.WriteMeta(filepath.Join(root, id), audit.Meta{Name: name, ID: id, Created: time.Now(), Removed: time.Now()}); err != nil {
			return err
		}
	case name != audit.UserDir:
		dir, err := dirs.Bundles()
		if err != nil {
			return err
		}
		store, err := bundle.Open(dir)
		if err != nil {
			return err
		}
		b, err := store.Find(name)
		if err != nil {
			return err
		}
		id = b.ID()
	default:
		name = ""
	}
	f, err := os.Open(args[len(args)-1])
	if err != nil {
		return err
	}
	defer f.Close()
	log, err := audit.Open(filepath.Join(root, id), audit.Options{Sandbox: name, ID: id})
	if err != nil {
		return err
	}
	for d := json.NewDecoder(f); ; {
		var e audit.Event
		if err := d.Decode(&e); errors.Is(err, io.EOF) {
			return log.Close()
		} else if err != nil {
			return err
		}
		log.Record(e)
	}
}

func TestParseSince(t *testing.T) {
	now := time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"": {}, "10m": now.Add(-10 * time.Minute), "2h30m": now.Add(-150 * time.Minute), "3d": now.AddDate(0, 0, -3),
		"2026-01-31": time.Date(2026, 1, 31, 0, 0, 0, 0, time.Local), "2026-01-31T15:04:05+02:00": time.Date(2026, 1, 31, 13, 4, 5, 0, time.UTC),
	} {
		if got, err := parseSince(text, now); err != nil || !got.Equal(want) {
			t.Errorf("%q: %s, %v", text, got, err)
		}
	}
	for _, bad := range []string{"x", "-1h", "10", "d", "-3d", "1.5d", "2026-13-01", "99999999d"} {
		if got, err := parseSince(bad, now); !errors.Is(err, sandbox.ErrInvalid) || sandbox.HintOf(err) == "" {
			t.Errorf("%q: %s, %v", bad, got, err)
		}
	}
}

func TestLogTable(t *testing.T) {
	events := []audit.Event{
		{Kind: audit.Connection, Verdict: audit.Allow, Name: "api.example.com", Port: 443, Rule: "allow **.example.com:443", Origin: "preset balanced", Sent: 1500, Received: 3 << 30, Duration: 90 * time.Minute, Sandbox: "box"},
		{Kind: audit.HTTP, Verdict: audit.Deny, Name: "api.example.com", Port: 443, Method: "POST", Path: "/" + strings.Repeat("long/", 60), Reason: "no rule allows it", Status: 403, Sandbox: strings.Repeat("n", 63)},
		{Kind: audit.DNS, Verdict: audit.Deny, Name: "\x1b]0;evil\x07.example\n\u202e", Question: "A"},
		{Kind: audit.Connection, Verdict: audit.Deny, Address: "fd00::1", Port: 22, Error: "日本語日本語日本語日本語日本語日本語日本語"},
		{Kind: audit.Gap, Lost: 7, Detail: "why"},
		{Kind: audit.Lifecycle, Detail: "started, preset balanced"},
	}
	print := func(width int, styled, several bool) []string {
		var b bytes.Buffer
		table := newLogTable(&b, styled, width, []logPlace{{name: strings.Repeat("n", 63)}}, several)
		for _, e := range events {
			if err := table.print(e); err != nil {
				t.Fatal(err)
			}
		}
		return strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	}
	lines := print(0, false, false)
	if len(lines) != len(events)+1 || !strings.HasPrefix(lines[0], "TIME ") || strings.Contains(lines[0], "SANDBOX") {
		t.Errorf("%d lines: %s", len(lines), lines[0])
	}
	for i, want := range []string{
		"allow      api.example.com:443 ", "deny       POST api.example.com/long/", "deny       dns A ?]0;evil?.example ?", "[fd00::1]:22",
		"7 events are missing here", "lifecycle  started, preset balanced",
	} {
		if !strings.Contains(lines[i+1], want) {
			t.Errorf("%q lacks %q", lines[i+1], want)
		}
	}
	if !strings.HasSuffix(lines[1], "1.5K/3.0G      1h30m0s") || !strings.Contains(lines[2], events[1].Path) {
		t.Errorf("%q\n%q", lines[1], lines[2])
	}
	for _, width := range []int{80, 110, 132, 200} {
		for _, several := range []bool{false, true} {
			for _, line := range print(width, false, several) {
				if n := utf8.RuneCountInString(line); n > width {
					t.Errorf("%d characters on a terminal of %d: %q", n, width, line)
				}
			}
		}
	}
	if colored := strings.Join(print(0, true, true), "\n"); !strings.Contains(colored, "\x1b[31mdeny\x1b[m") || strings.Contains(colored, "\x1b]") {
		t.Errorf("%q", colored)
	}
}

func TestShortBytes(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 1023: "1023", 1024: "1.0K", 10188: "9.9K", 10200: "10K", 1 << 20: "1.0M", 1<<20 - 1: "1.0M", 1<<63 - 1: "8.0E"} {
		if got := shortBytes(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

// TestFollowLogs: several logs at once, and one that comes to be meanwhile.
func TestFollowLogs(t *testing.T) {
	root := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	record := func(id, detail string) {
		if err := audit.Append(filepath.Join(root, id), audit.Event{Kind: audit.Lifecycle, Detail: detail}); err != nil {
			t.Error(err)
		}
	}
	record("a", "shown before")
	record("b", "1")
	places := []logPlace{newLogPlace(root, "a", "a", true), newLogPlace(root, "b", "b", true)}
	*places[0].after = 1
	var got []string
	more := func() ([]logPlace, error) {
		record("c", "3")
		return []logPlace{places[0], newLogPlace(root, "c", "c", true)}, nil
	}
	err := followLogs(ctx, audit.Filter{}, places, more, func(e audit.Event) error {
		switch got = append(got, e.Detail); e.Detail {
		case "1":
			record("a", "2")
		case "3":
			cancel()
		}
		return nil
	})
	if err != nil || !slices.Equal(got, []string{"1", "2", "3"}) {
		t.Errorf("%q, %v", got, err)
	}
	stop := errors.New("stop")
	if err := followLogs(context.Background(), audit.Filter{}, places, more, func(audit.Event) error { return stop }); !errors.Is(err, stop) {
		t.Error(err)
	}
}
