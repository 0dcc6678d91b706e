package secret

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"berth.dev/internal/failpoint"
	"berth.dev/internal/sandbox"
)

// perChild is how many secrets each process of a test sets.
const perChild = 6

func TestSetListRemove(t *testing.T) {
	s, n := open(t, t.TempDir())
	ctx := t.Context()
	if all, err := s.List(ctx); err != nil || len(all) != 0 {
		t.Fatal(all, err)
	}
	set(t, s, Entry{Name: "B_KEY"}, "for-all")
	set(t, s, Entry{Name: "B_KEY", Sandbox: "box"}, "for-box")
	set(t, s, Entry{Name: "A_KEY", Service: "hosts = ['a']"}, "a1")
	set(t, s, Entry{Name: "A_KEY", Service: "hosts = ['a']"}, "a2")
	if err := s.Set(ctx, Entry{Name: "C", Command: "true", TTL: time.Minute}, Value{}); err != nil {
		t.Fatal(err)
	}
	all, err := s.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range all {
		if time.Since(e.Set) > time.Minute || e.Set.Location() != time.UTC {
			t.Errorf("set %s", e.Set)
		}
		got = append(got, fmt.Sprintf("%s|%s|%s|%s|%s|%s", e.Name, e.Sandbox, e.Command, e.TTL, e.Service, e.Backend))
	}
	want := []string{"A_KEY|||0s|hosts = ['a']|file", "B_KEY|||0s||file", "B_KEY|box||0s||file", "C||true|1m0s||"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	for _, c := range [][3]string{{"B_KEY", "box", "for-box"}, {"B_KEY", "other", "for-all"}, {"B_KEY", "", "for-all"}, {"A_KEY", "box", "a2"}} {
		if got := token(t, s, c[0], c[1]); got != c[2] {
			t.Errorf("%v: %s", c, got)
		}
	}
	if _, e, err := s.Source("B_KEY", "box"); err != nil || e.Sandbox != "box" {
		t.Error(e, err)
	}
	if err := s.Remove(ctx, "B_KEY", "box"); err != nil {
		t.Error(err)
	}
	if got := token(t, s, "B_KEY", "box"); got != "for-all" {
		t.Error(got)
	}
	for _, err := range []error{s.Remove(ctx, "B_KEY", "box"), s.Remove(ctx, "NO", "")} {
		if !errors.Is(err, sandbox.ErrNotFound) || sandbox.HintOf(err) == "" {
			t.Error(err)
		}
	}
	if _, _, err := s.Source("NO", ""); !errors.Is(err, sandbox.ErrNotFound) {
		t.Error(err)
	}
	// What was replaced or removed is on disk no more.
	if left, _ := os.ReadDir(s.file.values); len(left) != 2 {
		t.Errorf("%d values", len(left))
	}
	if said := n.take(); said != "" {
		t.Errorf("said %q", said)
	}
}

func TestRemoveSandbox(t *testing.T) {
	s, _ := open(t, t.TempDir())
	for _, box := range []string{"", "box", "other"} {
		set(t, s, Entry{Name: "K", Sandbox: box}, "v"+box)
	}
	set(t, s, Entry{Name: "L", Sandbox: "box"}, "v")
	for range 2 {
		if err := s.RemoveSandbox(t.Context(), "box"); err != nil {
			t.Fatal(err)
		}
	}
	if all, err := s.List(t.Context()); err != nil || len(all) != 2 || all[0].Sandbox != "" || all[1].Sandbox != "other" {
		t.Error(all, err)
	}
	if err := s.RemoveSandbox(t.Context(), ""); err != nil {
		t.Error(err)
	}
	if all, _ := s.List(t.Context()); len(all) != 2 {
		t.Error(all)
	}
}

// TestWhatIsRefused: and the error never says what was given, as it may be the
// secret in a wrong place.
func TestWhatIsRefused(t *testing.T) {
	s, _ := open(t, t.TempDir())
	v := NewValue(bytesOfIt)
	for name, c := range map[string]struct {
		e Entry
		v Value
	}{
		"no name":           {Entry{}, v},
		"a value as a name": {Entry{Name: bytesOfIt + "/x"}, v},
		"a long name":       {Entry{Name: strings.Repeat("x", maxName+1)}, v},
		"a path":            {Entry{Name: "../x"}, v},
		"a dot":             {Entry{Name: ".x"}, v},
		"a flag":            {Entry{Name: "-x"}, v},
		"no value":          {Entry{Name: "K"}, Value{}},
		"both":              {Entry{Name: "K", Command: "echo"}, v},
		"a long value":      {Entry{Name: "K"}, NewValue(strings.Repeat(bytesOfIt, maxValue))},
		"a zero byte":       {Entry{Name: "K"}, NewValue(bytesOfIt + "\x00")},
		"a long command":    {Entry{Name: "K", Command: strings.Repeat("x", maxCommand+1)}, Value{}},
		"a binary command":  {Entry{Name: "K", Command: "\xff"}, Value{}},
		"a negative TTL":    {Entry{Name: "K", Command: "x", TTL: -1}, Value{}},
		"an endless TTL":    {Entry{Name: "K", Command: "x", TTL: 1 << 62}, Value{}},
		"a TTL of a value":  {Entry{Name: "K", TTL: time.Minute}, v},
		"a bad sandbox":     {Entry{Name: "K", Sandbox: "A B"}, v},
		"a long service":    {Entry{Name: "K", Service: strings.Repeat("x", maxService+1)}, v},
	} {
		err := s.Set(t.Context(), c.e, c.v)
		if !errors.Is(err, sandbox.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
		shows(t, name, fmt.Sprintf("%v %s", err, sandbox.HintOf(err)))
	}
	if got := files(t, s.dir); len(got) != 0 {
		t.Errorf("left %v", got)
	}
}

// TestNothingOnDiskShowsIt: values are encrypted, for a key that lies beside
// them, and the modes are closed.
func TestNothingOnDiskShowsIt(t *testing.T) {
	s, _ := open(t, filepath.Join(t.TempDir(), "secrets"))
	set(t, s, Entry{Name: "K"}, bytesOfIt)
	if err := s.Set(t.Context(), Entry{Name: "C", Command: "printf '%s' sk-ant-; echo very-secret-7f3"}, Value{}); err != nil {
		t.Fatal(err)
	}
	if got := token(t, s, "C", ""); got != bytesOfIt {
		t.Fatal(got)
	}
	if err := s.Put(t.Context(), LoginPrefix+"p", NewValue(bytesOfIt)); err != nil {
		t.Fatal(err)
	}
	for name, text := range files(t, s.dir) {
		shows(t, name, text)
	}
	err := filepath.WalkDir(s.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		want := fs.FileMode(0o600)
		if e.IsDir() {
			want = 0o700
		}
		if err == nil && info.Mode().Perm() != want {
			t.Errorf("%s is %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	// Another store, that has memory of nothing, reads it.
	again, _ := open(t, s.dir)
	if got := token(t, again, "K", ""); got != bytesOfIt {
		t.Error(got)
	}
}

// TestChangesActAtOnce: on a source that was handed out, and in another process.
func TestChangesActAtOnce(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, dir)
	other, _ := open(t, dir)
	set(t, s, Entry{Name: "K"}, "one")
	src, _, err := other.Source("K", "box")
	if err != nil || tokenOf(t, src) != "one" {
		t.Fatal(err)
	}
	stamp := other.Stamp()
	set(t, s, Entry{Name: "K"}, "two")
	if got := tokenOf(t, src); got != "two" || other.Stamp() == stamp {
		t.Error(got)
	}
	// By a command now, and by a value again.
	if err := s.Set(t.Context(), Entry{Name: "K", Command: "echo three"}, Value{}); err != nil {
		t.Fatal(err)
	}
	if got := tokenOf(t, src); got != "three" {
		t.Error(got)
	}
	set(t, s, Entry{Name: "K"}, "four")
	if got := tokenOf(t, src); got != "four" {
		t.Error(got)
	}
	// One for the sandbox may be for other hosts: this source does not take it.
	set(t, s, Entry{Name: "K", Sandbox: "box", Service: "x"}, "five")
	if got := tokenOf(t, src); got != "four" {
		t.Error(got)
	}
	// For the same reason it refuses what is for another service by now.
	set(t, s, Entry{Name: "K", Service: "hosts = ['elsewhere']"}, "six")
	if tok, err := src.Token(t.Context()); !errors.Is(err, sandbox.ErrPrecondition) || !tok.Value.IsZero() {
		t.Error(tok, err)
	}
	if err := s.Remove(t.Context(), "K", ""); err != nil {
		t.Fatal(err)
	}
	if tok, err := src.Token(t.Context()); !errors.Is(err, sandbox.ErrNotFound) || !tok.Value.IsZero() {
		t.Error(tok, err)
	}
	if len(other.values) != 0 {
		t.Error("what was removed is still in memory")
	}
}

// TestAtOnce: goroutines and processes change the store, readers read, one
// process is killed on the way; nothing is lost and nothing is left.
func TestAtOnce(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, dir)
	set(t, s, Entry{Name: "READ"}, "r")
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		wg.Go(func() {
			src, _, err := s.Source("READ", "")
			for err == nil {
				select {
				case <-stop:
					return
				default:
				}
				_, err = src.Token(context.Background())
			}
			t.Error(err)
		})
	}
	var writers sync.WaitGroup
	for p := range 3 {
		writers.Go(func() {
			if _, err := play("set-many", dir, "", fmt.Sprintf("P%d_", p)); err != nil {
				t.Error(err)
			}
		})
		writers.Go(func() {
			for i := range perChild {
				name := fmt.Sprintf("G%d_%d", p, i)
				if err := s.Set(context.Background(), Entry{Name: name}, NewValue("v-"+name)); err != nil {
					t.Error(err)
				}
				if err := s.Set(context.Background(), Entry{Name: "READ"}, NewValue("r")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Go(func() {
		if _, err := play("set-killed", dir, "", "secret.put", "VICTIM", "x"); !killed(err) {
			t.Errorf("the victim ended by itself: %v", err)
		}
	})
	writers.Wait()
	close(stop)
	wg.Wait()
	all, err := s.List(t.Context())
	if err != nil || len(all) != 2*3*perChild+1 {
		t.Fatalf("%d secrets, %v", len(all), err)
	}
	for _, e := range all {
		want := "v-" + e.Name
		if e.Name == "READ" {
			want = "r"
		}
		if got := token(t, s, e.Name, ""); got != want {
			t.Errorf("%s is %s", e.Name, got)
		}
	}
	set(t, s, Entry{Name: "READ"}, "r") // cleans up after the victim
	if left, _ := os.ReadDir(s.file.values); len(left) != len(all) {
		t.Errorf("%d values for %d secrets", len(left), len(all))
	}
}

// TestKilled kills a process at each step of a change: what was before holds, or
// what was meant, and the next change leaves no trace of it.
func TestKilled(t *testing.T) {
	for _, where := range []string{"file", "keyring"} {
		for _, point := range []string{"secret.put", "secret.index", "secret.sweep", "secret.dropped"} {
			for _, remove := range []bool{false, true} {
				if point == "secret.dropped" && where == "file" || point == "secret.put" && remove {
					continue
				}
				t.Run(fmt.Sprintf("%s %s remove=%v", where, point, remove), func(t *testing.T) {
					dir, d, bus := t.TempDir(), newDesktop(t), ""
					opts := []Option{patience}
					if where == "keyring" {
						bus = d.address
						opts = append(opts, onDesktop(d))
					}
					s, _ := open(t, dir, opts...)
					set(t, s, Entry{Name: "K"}, "old")
					set(t, s, Entry{Name: "OTHER"}, "stays")
					value := "new"
					if remove {
						value = ""
					}
					if _, err := play("set-killed", dir, bus, point, "K", value); !killed(err) {
						t.Fatalf("ended by itself: %v", err)
					}
					// The point of the index is in front of it, those behind come after.
					want := value
					if point == "secret.put" || point == "secret.index" {
						want = "old"
					}
					fresh, _ := open(t, dir, opts...)
					if _, _, err := fresh.Source("K", ""); want == "" {
						if !errors.Is(err, sandbox.ErrNotFound) {
							t.Error(err)
						}
					} else if got := token(t, fresh, "K", ""); got != want {
						t.Errorf("it is %q, not %q", got, want)
					}
					set(t, fresh, Entry{Name: "OTHER"}, "stays")
					if got := token(t, fresh, "OTHER", ""); got != "stays" {
						t.Error(got)
					}
					kept := 1
					if want != "" {
						kept++
					}
					ix, _ := fresh.current()
					left, _ := os.ReadDir(fresh.file.values)
					if n := len(d.texts()) + len(left); n != kept || len(ix.Stray) != 0 {
						t.Errorf("%d values, not %d; stray %q", n, kept, ix.Stray)
					}
				})
			}
		}
	}
}

// TestFailures: a step that does not work changes nothing.
func TestFailures(t *testing.T) {
	s, _ := open(t, t.TempDir())
	set(t, s, Entry{Name: "K"}, "old")
	boom := errors.New("boom")
	for _, point := range []string{"secret.put", "secret.index"} {
		disarm := failpoint.Arm(point, func() error { return boom })
		err := s.Set(t.Context(), Entry{Name: "K"}, NewValue(bytesOfIt))
		disarm()
		if !errors.Is(err, boom) {
			t.Errorf("%s: %v", point, err)
		}
		shows(t, point, fmt.Sprint(err))
		if got := token(t, s, "K", ""); got != "old" {
			t.Errorf("%s: %s", point, got)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Set(ctx, Entry{Name: "K"}, NewValue("x")); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if os.Geteuid() != 0 {
		if err := os.Chmod(s.dir, 0o500); err != nil {
			t.Fatal(err)
		}
		if err := s.Set(t.Context(), Entry{Name: "K"}, NewValue("x")); err == nil {
			t.Error("written into a folder that cannot be written to")
		}
		if err := os.Chmod(s.dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if got := token(t, s, "K", ""); got != "old" {
		t.Error(got)
	}
}

// TestDamaged: what cannot be read is said, with what to do, and stays as it is.
func TestDamaged(t *testing.T) {
	const id = "0123456789abcdef0123456789abcdef"
	rec := `{"id":"` + id + `","name":"K","set":"2026-01-01T00:00:00Z","value":{"backend":"file","id":"` + id + `"}}`
	good := `{"version":1,"store":"` + id + `","secrets":[` + rec + `],"logins":[]}`
	if _, err := parseIndex("f", []byte(good)); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		text  string
		class sandbox.Class
	}{
		"empty":       {"", sandbox.ErrInvalid},
		"cut":         {good[:len(good)/2], sandbox.ErrInvalid},
		"no JSON":     {"secrets!", sandbox.ErrInvalid},
		"a list":      {"[]", sandbox.ErrInvalid},
		"no version":  {`{"secrets":[]}`, sandbox.ErrInvalid},
		"version 0":   {strings.Replace(good, `"version":1`, `"version":0`, 1), sandbox.ErrInvalid},
		"newer":       {strings.Replace(good, `"version":1`, `"version":2,"x":{}`, 1), sandbox.ErrPrecondition},
		"strange key": {strings.Replace(good, `"logins"`, `"x":1,"logins"`, 1), sandbox.ErrInvalid},
		"more":        {good + "{}", sandbox.ErrInvalid},
		"twice":       {strings.Replace(good, rec, rec+","+rec, 1), sandbox.ErrInvalid},
		"path as ID":  {strings.Replace(good, `"file","id":"`+id, `"file","id":"../../../../etc/passwd0000000000`, 1), sandbox.ErrInvalid},
		"bad name":    {strings.Replace(good, `"K"`, `"a b"`, 1), sandbox.ErrInvalid},
		"no value":    {strings.Replace(good, `"value"`, `"failed":null,"value":null,"cached"`, 1), sandbox.ErrInvalid},
		"no place":    {strings.Replace(good, `"file"`, `"cloud"`, 1), sandbox.ErrInvalid},
		"bad login":   {strings.Replace(good, `"logins":[]`, `"logins":[{"name":"x"}]`, 1), sandbox.ErrInvalid},
		"bad stray":   {strings.Replace(good, `"logins":[]`, `"logins":[],"stray":["x"]`, 1), sandbox.ErrInvalid},
		"huge":        {strings.Repeat(" ", maxIndex+1), sandbox.ErrInvalid},
	} {
		dir := t.TempDir()
		s, _ := open(t, dir)
		set(t, s, Entry{Name: "K"}, "v")
		if err := os.WriteFile(s.indexPath(), []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		before := files(t, dir)
		if _, err := Open(dir); sandbox.ClassOf(err) != c.class || sandbox.HintOf(err) == "" && name != "huge" || !strings.Contains(fmt.Sprint(err), "index.json") {
			t.Errorf("%s: open: %v", name, err)
		}
		_, _, serr := s.Source("K", "")
		_, lerr := s.List(t.Context())
		for what, err := range map[string]error{"set": s.Set(t.Context(), Entry{Name: "N"}, NewValue("x")), "remove": s.Remove(t.Context(), "K", ""), "source": serr, "list": lerr} {
			if sandbox.ClassOf(err) != c.class {
				t.Errorf("%s: %s: %v", name, what, err)
			}
		}
		if after := files(t, dir); fmt.Sprint(after) != fmt.Sprint(before) {
			t.Errorf("%s: it was changed", name)
		}
	}
}

// TestLostParts: the index, the key or a value is gone or of another store.
func TestLostParts(t *testing.T) {
	break_ := func(do func(s *Store) error) (*Store, string) {
		t.Helper()
		dir := t.TempDir()
		s, _ := open(t, dir)
		set(t, s, Entry{Name: "K"}, "v")
		set(t, s, Entry{Name: "L"}, "w")
		if err := do(s); err != nil {
			t.Fatal(err)
		}
		return s, dir
	}
	_, dir := break_(func(s *Store) error { return os.Remove(s.indexPath()) })
	if _, err := Open(dir); !errors.Is(err, sandbox.ErrInvalid) || !strings.Contains(err.Error(), "missing") {
		t.Error(err)
	}

	s, dir := break_(func(s *Store) error { return os.Remove(s.file.keyFile) })
	fresh, _ := open(t, dir)
	src, _, err := fresh.Source("K", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := src.Token(t.Context()); !errors.Is(err, sandbox.ErrPrecondition) || !strings.Contains(err.Error(), "key.txt is gone") {
		t.Error(err)
	}
	if err := s.Set(t.Context(), Entry{Name: "N"}, NewValue("x")); !errors.Is(err, sandbox.ErrPrecondition) {
		t.Error("another key was made, and the values of the first are lost:", err)
	}
	// The way out.
	for _, name := range []string{"K", "L"} {
		if err := s.Remove(t.Context(), name, ""); err != nil {
			t.Error(err)
		}
	}
	set(t, s, Entry{Name: "N"}, "x")

	for what, text := range map[string]string{"rubbish": "AGE-SECRET-KEY-1" + bytesOfIt + "\n", "nothing": "# c\n"} {
		s, dir = break_(func(s *Store) error { return os.WriteFile(s.file.keyFile, []byte(text), 0o600) })
		fresh, _ = open(t, dir)
		src, _, _ = fresh.Source("K", "")
		for _, err := range []error{second(src.Token(t.Context())), s.Set(t.Context(), Entry{Name: "N"}, NewValue("x"))} {
			if !errors.Is(err, sandbox.ErrInvalid) || !strings.Contains(err.Error(), "no key of age") {
				t.Errorf("%s: %v", what, err)
			}
			shows(t, what, fmt.Sprint(err))
		}
		if got, _ := os.ReadFile(s.file.keyFile); string(got) != text {
			t.Error("the key was overwritten")
		}
	}

	for what, do := range map[string]func(path string) error{
		"cut": func(path string) error { return os.Truncate(path, 20) },
		"foreign": func(path string) error {
			return os.WriteFile(path, []byte("age-encryption.org/v1\n-> X25519 x\n"), 0o600)
		},
	} {
		var path string
		_, dir = break_(func(s *Store) error {
			ix, _ := s.current()
			path = s.file.path(ix.find("K", "").Value.ID)
			return do(path)
		})
		fresh, _ = open(t, dir)
		src, _, _ = fresh.Source("K", "")
		if _, err := src.Token(t.Context()); !errors.Is(err, sandbox.ErrInvalid) || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, dir = break_(func(s *Store) error { return os.RemoveAll(s.file.values) })
	fresh, _ = open(t, dir)
	src, _, _ = fresh.Source("K", "")
	if _, err := src.Token(t.Context()); !errors.Is(err, sandbox.ErrPrecondition) || !strings.Contains(err.Error(), "gone") {
		t.Error(err)
	}
}

func second[A, B any](_ A, b B) B { return b }

// TestModes: what others can write to is refused, what they can read is closed.
func TestModes(t *testing.T) {
	parts := map[string]func(*Store) string{
		"folder": func(s *Store) string { return s.dir }, "values": func(s *Store) string { return s.file.values },
		"index": func(s *Store) string { return s.indexPath() }, "key": func(s *Store) string { return s.file.keyFile },
	}
	for name, part := range parts {
		dir := t.TempDir()
		s, _ := open(t, dir)
		set(t, s, Entry{Name: "K"}, "v")
		path := part(s)
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
		s, n := open(t, dir)
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s stays %v: %v", name, info.Mode(), err)
		}
		if said := n.take(); !info.IsDir() && !strings.Contains(said, "closed now") {
			t.Errorf("%s: said %q", name, said)
		}
		if got := token(t, s, "K", ""); got != "v" {
			t.Error(got)
		}
		if err := os.Chmod(path, 0o777); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir); !errors.Is(err, sandbox.ErrForbidden) || sandbox.HintOf(err) == "" {
			t.Errorf("%s that others may write to: %v", name, err)
		}
		if err := os.Chmod(path, 0o700); err != nil {
			t.Fatal(err)
		}
		if os.Geteuid() == 0 {
			if err := os.Chown(path, 12345, -1); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(dir); !errors.Is(err, sandbox.ErrForbidden) {
				t.Errorf("%s of another user: %v", name, err)
			}
			continue
		}
	}
	// A link could lead to a file that others write.
	for _, name := range []string{"index.json", "key.txt"} {
		dir := t.TempDir()
		s, _ := open(t, dir)
		set(t, s, Entry{Name: "K"}, "v")
		path := filepath.Join(dir, name)
		if err := errors.Join(os.Rename(path, path+".real"), os.Symlink(path+".real", path)); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir); !errors.Is(err, sandbox.ErrForbidden) {
			t.Errorf("%s as a link: %v", name, err)
		}
	}
	// A value that others could read.
	dir := t.TempDir()
	s, _ := open(t, dir)
	set(t, s, Entry{Name: "K"}, "v")
	ix, _ := s.current()
	if err := os.Chmod(s.file.path(ix.find("K", "").Value.ID), 0o644); err != nil {
		t.Fatal(err)
	}
	s, n := open(t, dir)
	if got := token(t, s, "K", ""); got != "v" || !strings.Contains(n.take(), "could read") {
		t.Error(got)
	}
}

// TestLeftovers: what a killed process left goes with the next change.
func TestLeftovers(t *testing.T) {
	s, _ := open(t, t.TempDir())
	set(t, s, Entry{Name: "K"}, "v")
	for _, name := range []string{".index.json.tmp-1", "values/.x.age.tmp-2", "values/" + newID() + ".age"} {
		if err := os.WriteFile(filepath.Join(s.dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	set(t, s, Entry{Name: "L"}, "w")
	var names []string
	for name := range files(t, s.dir) {
		names = append(names, name)
	}
	if len(names) != 5 { // index, key, lock, two values
		t.Error(names)
	}
}

func TestLogins(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, dir)
	ctx := t.Context()
	const name = LoginPrefix + "claude"
	if _, err := s.Get(ctx, name); !errors.Is(err, sandbox.ErrNotFound) {
		t.Error(err)
	}
	for _, v := range []string{"one", "two"} {
		if err := s.Put(ctx, name, NewValue(v)); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Get(ctx, name); err != nil || got.Reveal() != v {
			t.Error(got.Reveal(), err)
		}
	}
	if all, err := s.List(ctx); err != nil || len(all) != 0 {
		t.Error(all, err)
	}
	all, err := s.Logins(ctx)
	if err != nil || len(all) != 1 || all[0].Name != name || all[0].Backend != BackendFile {
		t.Error(all, err)
	}
	for _, bad := range []string{"claude", "login/", "login/../x", "login/a/b", ""} {
		if err := s.Put(ctx, bad, NewValue("x")); !errors.Is(err, sandbox.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if err := s.Put(ctx, name, Value{}); !errors.Is(err, sandbox.ErrInvalid) {
		t.Error(err)
	}
	if err := errors.Join(s.Delete(ctx, name)); err != nil {
		t.Error(err)
	}
	if err := s.Delete(ctx, name); !errors.Is(err, sandbox.ErrNotFound) {
		t.Error(err)
	}
	if left, _ := os.ReadDir(s.file.values); len(left) != 0 {
		t.Error(left)
	}

	// A token that gives the next one once is renewed by one process at a time.
	const each = 4
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for range each {
				if _, err := play("renew", dir, "", name); err != nil {
					t.Error(err)
				}
			}
		})
		wg.Go(func() {
			for range each {
				_, err := s.Update(context.Background(), name, func(_ context.Context, old Value) (Value, error) {
					time.Sleep(5 * time.Millisecond)
					return NewValue(old.Reveal() + "+"), nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got, err := s.Get(ctx, name); err != nil || got.Reveal() != strings.Repeat("+", 4*each) {
		t.Errorf("%q %v", got.Reveal(), err)
	}
	boom := errors.New("boom")
	stamp := s.Stamp()
	if _, err := s.Update(ctx, name, func(context.Context, Value) (Value, error) { return NewValue("lost"), boom }); !errors.Is(err, boom) || s.Stamp() != stamp {
		t.Error(err)
	}
	if _, err := s.Update(ctx, name, func(_ context.Context, old Value) (Value, error) { return old, nil }); err != nil || s.Stamp() != stamp {
		t.Error(err)
	}
}
