package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"berth.dev/internal/sandbox"
)

// childDir makes this binary a process that writes to the log in it until it is
// killed.
const childDir = "BERTH_TEST_AUDIT_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		writeForever(dir)
	}
	os.Exit(m.Run())
}

// folder is where a log may be made.
func folder(t testing.TB) string {
	t.Helper()
	return filepath.Join(t.TempDir(), "0123456789ab")
}

func openLog(t testing.TB, dir string, opts Options) *Log {
	t.Helper()
	l, err := Open(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// written makes a log of n events that is closed.
func written(t testing.TB, dir string, n int, opts Options) {
	t.Helper()
	l := openLog(t, dir, opts)
	for i := range n {
		l.Record(conn(i))
	}
	closeLog(t, l)
}

func closeLog(t testing.TB, l *Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func verify(t testing.TB, dir string) Report {
	t.Helper()
	r, err := Verify(dir)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func read(t testing.TB, dir string, f Filter) []Event {
	t.Helper()
	var all []Event
	if err := Read(dir, f, func(e Event) error { all = append(all, e); return nil }); err != nil {
		t.Fatal(err)
	}
	return all
}

// waitFor waits until something is so.
func waitFor(t testing.TB, what string, so func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	end := time.After(30 * time.Second)
	for !so() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// conn is an event of the usual kind.
func conn(n int) Event {
	return Event{
		Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).Add(time.Duration(n) * time.Second), Sandbox: "box", ID: "0123456789ab",
		Kind: Connection, Name: "api.example.com", Address: "192.0.2.7", Port: 443, Protocol: "tls", Verdict: Allow,
		Rule: "allow **.example.com:443", Origin: "preset balanced", Reason: "allowed by preset balanced",
		Sent: int64(n), Received: 1 << 20, Duration: time.Second,
	}
}

func TestRecordAndRead(t *testing.T) {
	dir := folder(t)
	l := openLog(t, dir, Options{Sandbox: "box", ID: "0123456789ab"})
	want := []Event{
		conn(1),
		{Time: conn(2).Time, Kind: HTTP, Name: "xn--bcher-kva.example", Method: "POST", Path: `/a"b\c<&>?q`, Status: 403, Verdict: Deny, Error: "ünïcödé"},
		{Time: conn(3).Time, Kind: DNS, Question: "AAAA", Answer: "NXDOMAIN"},
		{Time: conn(4).Time, Kind: Lifecycle, Detail: "ended", Sandbox: "other", ID: "x"},
	}
	for _, e := range want {
		l.Record(e)
	}
	closeLog(t, l)
	if err := l.Close(); err != nil {
		t.Error("the second time:", err)
	}
	l.Record(conn(9)) // nothing, and no panic

	raw, err := os.ReadFile(filepath.Join(dir, currentFile))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(raw), "\n"), "\n")
	got := read(t, dir, Filter{})
	if len(got) != len(want) || len(lines) != len(want) {
		t.Fatalf("%d events in %d lines", len(got), len(lines))
	}
	for i, e := range got {
		if e.Seq != uint64(i+1) || e.Line() != lines[i] || e.Sandbox == "" || e.ID == "" {
			t.Errorf("event %d: %+v", i+1, e)
		}
		e.Seq, e.Prev, e.Hash, e.line = 0, "", "", ""
		if i == 1 || i == 2 {
			e.Sandbox, e.ID = "", "" // were put in
		}
		if !reflect.DeepEqual(e, want[i]) {
			t.Errorf("got  %+v\nwant %+v", e, want[i])
		}
	}
	r := verify(t, dir)
	if !r.OK() || r.Events != 4 || r.First != 1 || r.Last != 4 || r.LastHash != got[3].Hash || r.Open || len(r.Gaps) != 0 || !r.To.Equal(want[3].Time) {
		t.Errorf("%+v", r)
	}
	for name, mode := range map[string]fs.FileMode{currentFile: 0o600, headFile: 0o600, lockFile: 0o600, ".": 0o700} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
}

func TestHostileEvent(t *testing.T) {
	dir := folder(t)
	l := openLog(t, dir, Options{})
	long := strings.Repeat("é\"\\", 100<<10)
	for _, s := range []string{long, "a\x1b]0;x\x07b\r\nc\u202ed\xff\u2028", strings.Repeat("\x00", 1<<20)} {
		l.Record(Event{
			Time: time.Date(123456, 1, 1, 0, 0, 0, 0, time.UTC), Sandbox: s, ID: s, Kind: Kind(s), Name: s, Address: s, Protocol: s, Question: s,
			Answer: s, Method: s, Path: s, Verdict: s, Rule: s, Origin: s, Reason: s, Error: s, Detail: s,
		})
	}
	closeLog(t, l)
	all := read(t, dir, Filter{})
	if len(all) != 3 || !verify(t, dir).OK() {
		t.Fatal(len(all), verify(t, dir))
	}
	if want := "a?]0;x?b??c?d??"; all[1].Detail != want || all[1].Path != want {
		t.Errorf("%q", all[1].Detail)
	}
	for _, e := range all {
		if len(e.Line()) > 16<<10 || !utf8.ValidString(e.Line()) || e.Time.Year() > 9999 {
			t.Errorf("%d bytes, year %d", len(e.Line()), e.Time.Year())
		}
		for limit, s := range map[int]string{255: e.Name, 1024: e.Path, 512: e.Reason, 64: e.Sandbox, 16: e.Verdict} {
			if len(s) > limit {
				t.Errorf("%d bytes where %d may be: %q", len(s), limit, s)
			}
		}
	}
	if !strings.HasSuffix(all[0].Path, cut) {
		t.Errorf("nothing says that it was cut: %q", all[0].Path[1000:])
	}
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "abcdefgh": "abcdefgh", "abcdefghi": "abcde…", "äöü": "äöü", "äöüä": "äöüä", "äöüäö": "äö…", "日本語": "日…", "a\nb": "a?b",
	} {
		if got := printable(in, 8); got != want || len(got) > 8 {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestManyGoroutines(t *testing.T) {
	dir := folder(t)
	l := openLog(t, dir, Options{MaxFile: 64 << 10, MaxFiles: 1000})
	const writers, each = 8, 2000
	var wg sync.WaitGroup
	for g := range writers {
		wg.Go(func() {
			for i := range each {
				l.Record(conn(g*each + i))
			}
		})
	}
	reads := make(chan error)
	go func() {
		var errs []error
		for range 20 {
			r, err := Verify(dir)
			if err == nil && !r.OK() {
				err = fmt.Errorf("while it is written: %v", r.Problems)
			}
			errs = append(errs, err, Read(dir, Filter{}, func(Event) error { return nil }))
		}
		reads <- errors.Join(errs...)
	}()
	wg.Wait()
	if err := <-reads; err != nil {
		t.Error(err)
	}
	closeLog(t, l)
	r := verify(t, dir)
	total := r.Events - uint64(len(r.Gaps))
	for _, g := range r.Gaps {
		total += g.Lost
	}
	if !r.OK() || total != writers*each {
		t.Errorf("%d of %d: %+v", total, writers*each, r)
	}
}

func TestOneWriter(t *testing.T) {
	dir := folder(t)
	l := openLog(t, dir, Options{})
	if _, err := Open(dir, Options{}); !errors.Is(err, sandbox.ErrPrecondition) {
		t.Errorf("two at once: %v", err)
	}
	l.Record(conn(0))
	done := make(chan error)
	go func() { done <- Append(dir, Event{Kind: Policy, Detail: "waited"}) }()
	closeLog(t, l)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := Append(dir, Event{Kind: Policy, Detail: "one of many"}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if r := verify(t, dir); !r.OK() || r.Events != 10 || r.Open || len(r.Gaps) > 0 {
		t.Errorf("%+v", r)
	}
}

func TestCannotOpen(t *testing.T) {
	if _, err := Open(filepath.Join(t.TempDir(), "a", "b"), Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	for _, name := range []string{currentFile, headFile} {
		dir := folder(t)
		written(t, dir, 3, Options{})
		target := filepath.Join(t.TempDir(), "target")
		if err := errors.Join(os.Remove(filepath.Join(dir, name)), os.WriteFile(target, []byte("x"), 0o600), os.Symlink(target, filepath.Join(dir, name))); err != nil {
			t.Fatal(err)
		}
		l, err := Open(dir, Options{})
		if err == nil {
			err = l.Close()
		}
		if text, _ := os.ReadFile(target); string(text) != "x" || name == currentFile && err == nil {
			t.Errorf("%s: %v, the target of a link holds %q", name, err, text)
		}
	}
	dir := folder(t)
	written(t, dir, 3, Options{})
	path := filepath.Join(dir, headFile)
	text, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, []byte(strings.Replace(string(text), `"version": 1`, `"version": 2`, 1)), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	_, err = Open(dir, Options{})
	_, verr := Verify(dir)
	if !errors.Is(err, sandbox.ErrPrecondition) || !errors.Is(verr, sandbox.ErrPrecondition) {
		t.Errorf("a newer format: %v, %v", err, verr)
	}
}

func (l *Log) waiting() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.queue)
}

// BenchmarkRecord measures the caller (ns/op, while the writer runs beside it)
// and the writer (events/s).
func BenchmarkRecord(b *testing.B) {
	l := openLog(b, folder(b), Options{})
	e := conn(1)
	b.ReportAllocs()
	var waited time.Duration
	n := 0
	for b.Loop() {
		l.Record(e)
		if n++; n%4096 == 0 { // so that none is lost
			b.StopTimer()
			begin := time.Now()
			for l.waiting() > 0 {
				runtime.Gosched()
			}
			waited += time.Since(begin)
			b.StartTimer()
		}
	}
	closeLog(b, l)
	b.ReportMetric(float64(n)/(waited+b.Elapsed()).Seconds(), "events/s")
}
