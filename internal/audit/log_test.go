package audit

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// faulty is a file on a disk that can be made to hang and to be full.
type faulty struct {
	file
	disk *disk
}

type disk struct {
	mu     sync.Mutex
	room   int           // bytes that can still be written; negative: any number
	hang   chan struct{} // Write waits until it is closed
	tries  int
	opened int
}

func (d *disk) set(room int) {
	d.mu.Lock()
	d.room = room
	d.mu.Unlock()
}

func (d *disk) tried() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.tries
}

func (d *disk) options(o Options) Options {
	o.retry = time.Millisecond
	o.openFile = func(path string) (file, error) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.opened++
		if d.room == 0 && d.opened > 1 {
			return nil, syscall.ENOSPC
		}
		f, err := appendTo(path)
		return faulty{f, d}, err
	}
	return o
}

func (f faulty) Write(p []byte) (int, error) {
	if f.disk.hang != nil {
		<-f.disk.hang
	}
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	f.disk.tries++
	if f.disk.room < 0 || f.disk.room >= len(p) {
		return f.file.Write(p)
	}
	n, _ := f.file.Write(p[:f.disk.room])
	f.disk.room = 0
	return n, syscall.ENOSPC
}

// TestFullQueue: what finds no room is counted, and the record says so.
func TestFullQueue(t *testing.T) {
	for what, e := range map[string]Event{"events": conn(1), "bytes": {Kind: HTTP, Path: strings.Repeat("x", 1024), Reason: strings.Repeat("y", 512)}} {
		dir := folder(t)
		d := &disk{room: -1, hang: make(chan struct{})}
		l := openLog(t, dir, d.options(Options{Sandbox: "box", ID: "0123456789ab"}))
		const n = queueEvents * 3
		for range n {
			l.Record(e) // returns although nothing can be written
		}
		close(d.hang)
		closeLog(t, l)
		r := verify(t, dir)
		if !r.OK() || len(r.Gaps) == 0 {
			t.Fatalf("%s: %+v", what, r)
		}
		lost := uint64(0)
		for _, g := range r.Gaps {
			lost += g.Lost
		}
		if lost == 0 || r.Events-uint64(len(r.Gaps))+lost != n {
			t.Errorf("%s: %d events and %d lost of %d", what, r.Events, lost, n)
		}
		gap := read(t, dir, Filter{Kinds: []Kind{Gap}})[0]
		if gap.Sandbox != "box" || gap.ID != "0123456789ab" || gap.Time.IsZero() {
			t.Errorf("%+v", gap)
		}
	}
}

// TestFullDisk: lines that were written in part are completed when there is
// room again, and the record tells of the time without.
func TestFullDisk(t *testing.T) {
	for _, opts := range []Options{{}, {MaxFile: 2 << 10, MaxFiles: 100}} {
		dir := folder(t)
		d := &disk{room: 1000}
		l := openLog(t, dir, d.options(opts))
		for i := range 20 {
			l.Record(conn(i))
		}
		waitFor(t, "several tries", func() bool { return d.tried() > 5 })
		if r := verify(t, dir); !r.OK() || r.Torn == 0 || r.Events == 0 {
			t.Errorf("while the disk is full: %+v", r)
		}
		d.set(-1)
		waitFor(t, "all written", func() bool { return len(read(t, dir, Filter{Kinds: []Kind{Connection}})) == 20 })
		closeLog(t, l)
		r := verify(t, dir)
		if !r.OK() || len(r.Gaps) == 0 || r.Gaps[0].Lost != 0 || !strings.Contains(r.Gaps[0].Why, "no space left") {
			t.Errorf("%+v", r)
		}
	}
}

// TestDiskStaysFull: Close ends, and the next writer records that something is
// missing.
func TestDiskStaysFull(t *testing.T) {
	dir := folder(t)
	d := &disk{room: 1000}
	l := openLog(t, dir, d.options(Options{}))
	for i := range 20 {
		l.Record(conn(i))
	}
	if err := l.Close(); !errors.Is(err, syscall.ENOSPC) {
		t.Error(err)
	}
	written(t, dir, 1, Options{})
	r := verify(t, dir)
	if !r.OK() || len(r.Gaps) != 1 || r.Gaps[0].Why != gapTorn || r.Gaps[0].Lost != 1 {
		t.Errorf("%+v", r)
	}
}

// TestRealFullDisk is TestFullDisk on a file system that is full, where this
// process may mount one.
func TestRealFullDisk(t *testing.T) {
	mnt := t.TempDir()
	if err := syscall.Mount("tmpfs", mnt, "tmpfs", 0, "size=64k"); err != nil {
		t.Logf("no small file system (%v): TestFullDisk stands for this", err)
		return
	}
	t.Cleanup(func() { _ = syscall.Unmount(mnt, syscall.MNT_DETACH) })
	dir := filepath.Join(mnt, "log")
	l := openLog(t, dir, Options{retry: time.Millisecond})
	waitFor(t, "the head", func() bool { _, err := readHead(dir); return err == nil })
	if err := os.WriteFile(filepath.Join(mnt, "fill"), make([]byte, 48<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		l.Record(conn(i))
	}
	waitFor(t, "a full disk", func() bool { r, err := Verify(dir); return err == nil && r.Events > 0 && r.Torn > 0 })
	if err := os.Remove(filepath.Join(mnt, "fill")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", mnt, "tmpfs", syscall.MS_REMOUNT, "size=4m"); err != nil {
		t.Fatal(err)
	}
	closeLog(t, l)
	r := verify(t, dir)
	if !r.OK() || r.Events != 201 || len(r.Gaps) != 1 {
		t.Errorf("%+v", r)
	}
}

// TestRemovedUnderTheWriter: what comes after goes into a new file.
func TestRemovedUnderTheWriter(t *testing.T) {
	dir := folder(t)
	l := openLog(t, dir, Options{})
	l.Record(conn(1))
	path := filepath.Join(dir, currentFile)
	waitFor(t, "the first line", func() bool { info, err := os.Stat(path); return err == nil && info.Size() > 0 })
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "a new file", func() bool { l.Record(conn(2)); _, err := os.Stat(path); return err == nil })
	closeLog(t, l)
	if r := verify(t, dir); len(r.Problems) != 1 || r.Events == 0 {
		t.Errorf("%+v", r)
	}
}

// writeForever says on standard output how many events it has recorded.
func writeForever(dir string) {
	l, err := Open(dir, Options{MaxFile: 128 << 10, MaxFiles: 3})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for i := 0; ; i++ {
		l.Record(conn(i))
		for l.waiting() > 1000 {
			runtime.Gosched()
		}
		if i%1000 == 0 {
			fmt.Println(i)
		}
	}
}

// TestKilledWriter kills real processes at any moment. What they leave is whole
// but for its end, and the next one records that.
func TestKilledWriter(t *testing.T) {
	dir := folder(t)
	for round := range 8 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childDir+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for range 3 + 3*round { // by 2000 the head is there
			if !lines.Scan() || strings.Trim(lines.Text(), "0123456789") != "" {
				t.Fatal(lines.Text(), lines.Err())
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		if r := verify(t, dir); !r.OK() || !r.Open {
			t.Fatalf("round %d: %+v", round, r)
		}
	}
	// 3000 more, so that the gap of the last kill is all that is kept of them.
	before := verify(t, dir)
	written(t, dir, 10, Options{})
	r := verify(t, dir)
	if !r.OK() || r.Open || r.Last < before.Last+10 || len(r.Gaps) == 0 {
		t.Fatalf("%+v", r)
	}
	gap := r.Gaps[len(r.Gaps)-1]
	if gap.Seq != before.Last+1 || gap.Why != gapKilled && gap.Why != gapTorn {
		t.Errorf("%+v after event %d", gap, before.Last)
	}
}

// TestMend: what Open makes of a log that somebody, or a crash, was at. What
// was wrong stays to be seen.
func TestMend(t *testing.T) {
	open := func(files map[string][]byte) {
		files[headFile] = bytes.Replace(files[headFile], []byte(`"closed": true`), []byte(`"closed": false`), 1)
	}
	cutTail := func(n int) func(files map[string][]byte) {
		return func(files map[string][]byte) { files[currentFile] = files[currentFile][:len(files[currentFile])-n] }
	}
	line := len(bytes.SplitAfter(load(t, sample(t))[currentFile], []byte("\n"))[0])
	for what, c := range map[string]struct {
		change func(files map[string][]byte)
		gaps   []string
		found  bool // the change is found afterwards
	}{
		"nothing":                 {func(map[string][]byte) {}, nil, false},
		"a kill":                  {open, []string{gapKilled}, false},
		"a torn line after":       {func(f map[string][]byte) { open(f); f[currentFile] = append(f[currentFile], "{\"time\":"...) }, []string{gapTorn}, false},
		"zeros after":             {func(f map[string][]byte) { open(f); f[currentFile] = append(f[currentFile], make([]byte, 4096)...) }, []string{gapTorn}, false},
		"a torn line when closed": {func(f map[string][]byte) { f[currentFile] = append(f[currentFile], '{') }, []string{gapTorn}, false},
		"tail":                    {cutTail(line), []string{gapTail}, true},
		"part of the tail":        {cutTail(line + 10), []string{gapTail, gapTorn}, true},
		"current file":            {func(f map[string][]byte) { delete(f, currentFile) }, []string{gapTail}, true},
		"current file emptied":    {func(f map[string][]byte) { f[currentFile] = nil }, []string{gapTail}, true},
		"last line":               {func(f map[string][]byte) { c := f[currentFile]; c[len(c)-100] ^= 1 }, []string{gapTail, gapDamaged}, true},
		"head removed":            {func(f map[string][]byte) { delete(f, headFile) }, []string{gapHead}, true},
		"head changed":            {func(f map[string][]byte) { f[headFile][20] ^= 1 }, []string{gapHead}, true},
		"all but the head": {func(f map[string][]byte) {
			for name := range f {
				if name != headFile {
					delete(f, name)
				}
			}
		}, []string{gapTail}, true},
	} {
		dir := sample(t)
		files := load(t, dir)
		c.change(files)
		store(t, dir, files)
		written(t, dir, 3, Options{})
		r := verify(t, dir)
		var gaps []string
		for _, g := range r.Gaps {
			gaps = append(gaps, g.Why)
		}
		if r.OK() == c.found || !slices.Equal(gaps, c.gaps) || r.Open {
			t.Errorf("%s: %q, want %q; %+v", what, gaps, c.gaps, r.Problems)
		}
		// Once is enough.
		written(t, dir, 1, Options{})
		if again := verify(t, dir); len(again.Gaps) != len(gaps) || len(again.Problems) != len(r.Problems) || again.Events != r.Events+1 {
			t.Errorf("%s, once more: %+v", what, again)
		}
	}
}

// TestDeletionCutShort: rotation was killed between the head and the files that
// it no longer speaks of.
func TestDeletionCutShort(t *testing.T) {
	dir := folder(t)
	written(t, dir, 40, Options{MaxFile: 3 << 10})
	whole := load(t, dir)
	names, err := list(dir)
	if err != nil {
		t.Fatal(err)
	}
	first, err := firstLine(filepath.Join(dir, names[2]))
	if err != nil {
		t.Fatal(err)
	}
	h, err := readHead(dir)
	if err != nil {
		t.Fatal(err)
	}
	h.FirstSeq, h.FirstPrev = first.Seq, first.Prev
	whole[headFile] = h.encode()
	for _, gone := range [][]string{nil, names[:1], names[:2]} {
		files := map[string][]byte{}
		for name, data := range whole {
			if !slices.Contains(gone, name) {
				files[name] = data
			}
		}
		store(t, dir, files)
		if r := verify(t, dir); !r.OK() || r.Dropped != r.First-1 {
			t.Errorf("%v: %+v", gone, r)
		}
	}
	// The next rotation finishes it.
	written(t, dir, 30, Options{MaxFile: 3 << 10, MaxFiles: 3})
	if r := verify(t, dir); !r.OK() || r.Files != 3 || r.Last != 70 {
		t.Errorf("%+v", r)
	}
}
