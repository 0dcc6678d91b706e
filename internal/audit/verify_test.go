package audit

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// sample is a log that was rotated, lost its oldest files to that, and is
// closed.
func sample(t testing.TB) string {
	dir := folder(t)
	written(t, dir, 40, Options{MaxFile: 3 << 10, MaxFiles: 3})
	return dir
}

func load(t testing.TB, dir string) map[string][]byte {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files[e.Name()] = data
	}
	return files
}

// store makes a log of files, in a folder of the right name.
func store(t testing.TB, dir string, files map[string][]byte) {
	t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRotation(t *testing.T) {
	dir := sample(t)
	r := verify(t, dir)
	if !r.OK() || r.Files != 3 || r.Last != 40 || r.First <= 1 || r.Dropped != r.First-1 || r.Events != 40-r.Dropped {
		t.Errorf("%+v", r)
	}
	for name, data := range load(t, dir) {
		if first, ok := firstOf(name); (ok || name == currentFile) && (len(data) > 3<<10 || len(data) == 0) {
			t.Errorf("%s has %d bytes, from %d", name, len(data), first)
		}
	}
	all := read(t, dir, Filter{})
	if len(all) != int(r.Events) || all[0].Seq != r.First {
		t.Errorf("%d events from %d", len(all), all[0].Seq)
	}
	// One file that is kept is the current one alone.
	dir = folder(t)
	written(t, dir, 40, Options{MaxFile: 3 << 10, MaxFiles: 1})
	if r := verify(t, dir); !r.OK() || r.Files != 1 || r.Last != 40 || r.Dropped != r.First-1 {
		t.Errorf("%+v", r)
	}
	written(t, dir, 1, Options{MaxFile: 1, MaxFiles: 1})
	if r := verify(t, dir); !r.OK() || r.Files != 1 || r.Last != 41 || r.First != 41 {
		t.Errorf("%+v", r)
	}
}

// TestEveryChangeIsFound changes a log in every way and in every place.
func TestEveryChangeIsFound(t *testing.T) {
	dir := sample(t)
	whole := load(t, dir)
	found := 0
	try := func(what string, change func(files map[string][]byte)) {
		t.Helper()
		files := map[string][]byte{}
		for name, data := range whole {
			files[name] = slices.Clone(data)
		}
		change(files)
		store(t, dir, files)
		if r, err := Verify(dir); err == nil && r.OK() {
			t.Errorf("%s is not found", what)
		}
		found++
		// Whatever it is, reading it goes on.
		if err := Read(dir, Filter{Broken: func(Problem) {}}, func(Event) error { return nil }); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	var names []string
	for name := range whole {
		if _, ok := firstOf(name); ok || name == currentFile {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	other := folder(t)
	written(t, other, 50, Options{})
	foreign := bytes.SplitAfter(load(t, other)[currentFile], []byte("\n"))[49]
	for _, name := range names {
		lines := bytes.SplitAfter(whole[name], []byte("\n"))
		lines = lines[:len(lines)-1]
		with := func(change func(l [][]byte) [][]byte) func(map[string][]byte) {
			return func(files map[string][]byte) {
				files[name] = bytes.Join(change(bytes.SplitAfter(files[name], []byte("\n"))[:len(lines)]), nil)
			}
		}
		for i, line := range lines {
			at := fmt.Sprintf("%s:%d ", name, i+1)
			try(at+"removed", with(func(l [][]byte) [][]byte { return slices.Delete(l, i, i+1) }))
			try(at+"and all after it in the file removed", with(func(l [][]byte) [][]byte { return l[:i] }))
			try(at+"and all before it in the file removed", with(func(l [][]byte) [][]byte { return l[i+1:] }))
			try(at+"doubled", with(func(l [][]byte) [][]byte { return slices.Insert(l, i, line) }))
			try(at+"repeated at the end", with(func(l [][]byte) [][]byte { return append(l, line) }))
			try(at+"cut", with(func(l [][]byte) [][]byte { l[i] = l[i][:len(l[i])/2]; return l }))
			try(at+"an empty line before it", with(func(l [][]byte) [][]byte { return slices.Insert(l, i, []byte("\n")) }))
			try(at+"another log's before it", with(func(l [][]byte) [][]byte { return slices.Insert(l, i, foreign) }))
			try(at+"another log's in its place", with(func(l [][]byte) [][]byte { l[i] = foreign; return l }))
			try(at+"carriage return", with(func(l [][]byte) [][]byte { l[i] = bytes.ReplaceAll(l[i], []byte("\n"), []byte("\r\n")); return l }))
			try(at+"rewritten with a hash of its own", with(func(l [][]byte) [][]byte { l[i] = forge(t, l[i], nil); return l }))
			try(at+"inserted, linked to the one before", with(func(l [][]byte) [][]byte {
				return slices.Insert(l, i, forge(t, l[i], func(e *Event) { e.Detail = "inserted" }))
			}))
			if i+1 < len(lines) {
				try(at+"swapped", with(func(l [][]byte) [][]byte { l[i], l[i+1] = l[i+1], l[i]; return l }))
			}
		}
		last := lines[len(lines)-1]
		try(name+" a line linked to its last", with(func(l [][]byte) [][]byte {
			return append(l, forge(t, last, func(e *Event) { e.Prev, e.Seq = e.Hash, e.Seq+1 }))
		}))
		try(name+" begins of a line", with(func(l [][]byte) [][]byte { return append(l, []byte(`{"time`)) }))
		try(name+" removed", func(files map[string][]byte) { delete(files, name) })
		try(name+" emptied", func(files map[string][]byte) { files[name] = nil })
	}
	try("two files exchanged", func(files map[string][]byte) {
		files[names[0]], files[names[1]] = files[names[1]], files[names[0]]
	})
	try("a file under another name", func(files map[string][]byte) {
		files[oldName(3)] = files[names[0]]
		delete(files, names[0])
	})
	try("all removed", func(files map[string][]byte) {
		for _, name := range names {
			delete(files, name)
		}
	})
	try("the head removed", func(files map[string][]byte) { delete(files, headFile) })
	t.Logf("%d changes", found)

	store(t, dir, whole)
	if r := verify(t, dir); !r.OK() {
		t.Errorf("without a change: %+v", r)
	}
	if err := os.Symlink(names[0], filepath.Join(dir, oldName(1))); err != nil {
		t.Fatal(err)
	}
	if r := verify(t, dir); r.OK() {
		t.Error("a link in place of a file is not found")
	}
	moved := filepath.Join(filepath.Dir(dir), "ba9876543210")
	dir = folder(t)
	written(t, dir, 3, Options{})
	if err := os.Rename(dir, moved); err != nil {
		t.Fatal(err)
	}
	if r := verify(t, moved); r.OK() {
		t.Error("a log in the folder of another is not found")
	}
}

// TestEveryByteCounts changes each byte of a log.
func TestEveryByteCounts(t *testing.T) {
	dir := folder(t)
	written(t, dir, 5, Options{MaxFile: 1 << 10, MaxFiles: 2})
	for name, data := range load(t, dir) {
		if name == lockFile {
			continue
		}
		path := filepath.Join(dir, name)
		for pos, was := range data {
			for _, c := range []byte{was ^ 1, '\n', ' '} {
				if c == was {
					continue
				}
				data[pos] = c
				if err := os.WriteFile(path, data, 0o600); err != nil {
					t.Fatal(err)
				}
				// A head of another version is an error.
				if r, err := Verify(dir); err == nil && r.OK() {
					t.Errorf("%s: byte %d from %q to %q is not found", name, pos, was, c)
				}
			}
			data[pos] = was
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if r := verify(t, dir); !r.OK() || r.Files != 2 {
		t.Errorf("without a change: %+v", r)
	}
}

// forge changes a line and gives it the hash that it then has to have.
func forge(t testing.TB, line []byte, change func(*Event)) []byte {
	t.Helper()
	e, err := ParseLine(bytes.TrimSuffix(line, []byte("\n")))
	if err != nil {
		t.Fatal(err)
	}
	e.Reason = "forged"
	if change != nil {
		change(&e)
	}
	out, _, err := newEncoder().line(&e)
	if err != nil {
		t.Fatal(err)
	}
	return slices.Clone(out)
}

func TestProblemsSayWhere(t *testing.T) {
	dir := folder(t)
	written(t, dir, 5, Options{})
	path := filepath.Join(dir, currentFile)
	whole := load(t, dir)[currentFile]
	lines := bytes.SplitAfter(whole, []byte("\n"))
	for want, data := range map[string][]byte{
		"audit.log:3: event 3: it was changed: its hash does not fit":      bytes.Replace(whole, []byte(`"sent":2`), []byte(`"sent":7`), 1),
		"audit.log:3: event 4: missing before it: event 3":                 bytes.Join(slices.Delete(slices.Clone(lines), 2, 3), nil),
		"audit.log: missing at the end: event 5":                           bytes.Join(lines[:4], nil),
		"audit.log: missing at the end: events 4 to 5":                     bytes.Join(lines[:3], nil),
		"audit.log:3: event 2: it is out of place: event 3 has to be here": bytes.Join(slices.Insert(slices.Clone(lines), 2, lines[1]), nil),
		"audit.log:6: the line is not whole":                               append(slices.Clone(whole), "{"...),
	} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		r := verify(t, dir)
		if len(r.Problems) != 1 || r.Problems[0].String() != want {
			t.Errorf("%v\nwant %s", r.Problems, want)
		}
	}
	// However much is wrong, the report stays bounded.
	if err := os.WriteFile(path, []byte(strings.Repeat("x\n", 5000)+strings.Repeat("y", 3*maxLine)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := verify(t, dir); len(r.Problems) != maxProblems || r.More < 4000 {
		t.Errorf("%d problems and %d more", len(r.Problems), r.More)
	}
}

func FuzzParseLine(f *testing.F) {
	f.Add([]byte("{"))
	for _, line := range bytes.Split(load(f, sample(f))[currentFile], []byte("\n")) {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		e, err := ParseLine(line)
		if err != nil {
			return
		}
		body := line[:len(line)-hashTail]
		if hashOf(body) != e.Hash || !bytes.HasSuffix(body, []byte(prevKey+e.Prev+`"`)) || e.Line() != string(line) {
			t.Errorf("%q is taken for whole", line)
		}
	})
}

// FuzzVerify changes a log in one place, to anything.
func FuzzVerify(f *testing.F) {
	dir := sample(f)
	whole := load(f, dir)
	f.Add(currentFile, 10, 1, []byte("x"))
	f.Add(headFile, 0, 500, []byte(nil))
	f.Add(currentFile, 0, 1<<20, []byte("{}\n"))
	f.Add(oldName(1), 0, 0, []byte("{}\n"))
	f.Fuzz(func(t *testing.T, name string, at, remove int, insert []byte) {
		data, ok := whole[name]
		if _, old := firstOf(name); !ok && !old || name == lockFile || at < 0 || remove < 0 {
			return
		}
		at = min(at, len(data))
		changed := slices.Concat(data[:at], insert, data[min(len(data), at+min(remove, len(data))):])
		files := map[string][]byte{}
		for n, d := range whole {
			files[n] = d
		}
		files[name] = changed
		dir := filepath.Join(t.TempDir(), filepath.Base(dir))
		store(t, dir, files)
		r, err := Verify(dir)
		if err == nil && r.OK() && ok != bytes.Equal(changed, data) {
			t.Errorf("%s: %d bytes at %d for %q: not found", name, remove, at, insert)
		}
		if err := Read(dir, Filter{Last: 5}, func(Event) error { return nil }); err != nil && len(insert) < maxLine {
			t.Error(err)
		}
		if l, err := Open(dir, Options{}); err == nil {
			l.Record(conn(1))
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}
