package bundle

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"berth.dev/internal/failpoint"
	"berth.dev/internal/sandbox"
)

// savePoints are all places where a save can die, and whether what was being
// saved must be there afterwards.
var savePoints = []struct {
	name  string
	whole bool
}{
	{"test.save.half", false},
	{"bundle.save.synced", false},
	{"bundle.save.sealed", true},
	{"bundle.save.moved-old", true},
	{"bundle.save.moved-new", true},
	{"bundle.save.rotated", true},
}

func content(t *testing.T, h *Held) string {
	t.Helper()
	dir, meta, err := h.CurrentSave()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"root.img", "tmpfs/a.img"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || string(data) != meta.Extra["content"] {
			t.Fatalf("%s holds %q (%v), its save says %q", name, data, err, meta.Extra["content"])
		}
	}
	return meta.Extra["content"]
}

func TestSave(t *testing.T) {
	b := mustCreate(t, newStore(t), sandbox.Spec{Name: "x", Agent: "shell"})
	h := mustLock(t, b)
	_, _, err := h.CurrentSave()
	if !errors.Is(err, sandbox.ErrNotFound) {
		t.Fatal(err)
	}
	for _, text := range []string{"one", "two", "three"} {
		if err := writeSave(h, text); err != nil {
			t.Fatal(err)
		}
		if got := content(t, h); got != text {
			t.Fatalf("saved %q, found %q", text, got)
		}
	}
	if _, err := h.BeginSave(); err != nil {
		t.Fatal(err)
	}
	if got := content(t, h); got != "three" {
		t.Fatal(got)
	}
	if err := h.AbortSave(); err != nil {
		t.Fatal(err)
	}
	meta, ok := b.LastSave()
	if !ok || meta.Size() != 10 || len(meta.Files) != 2 || meta.Engine != "fake" || meta.Created.IsZero() {
		t.Fatalf("%+v", meta)
	}
	names, err := filepath.Glob(filepath.Join(b.Dir(), "save*"))
	if err != nil || len(names) != 1 {
		t.Fatal(names, err)
	}
}

// TestKilledWhileSaving kills a process at each step of a save, on each number
// of saves before, and then once more at each step of the next save.
func TestKilledWhileSaving(t *testing.T) {
	for _, first := range savePoints {
		for _, second := range savePoints {
			t.Run(first.name+"+"+second.name, func(t *testing.T) {
				t.Parallel()
				for before := range 2 {
					testKilledTwice(t, before, first.name, first.whole, second.name, second.whole)
				}
			})
		}
	}
}

func testKilledTwice(t *testing.T, before int, point1 string, whole1 bool, point2 string, whole2 bool) {
	s := newStore(t)
	b := mustCreate(t, s, sandbox.Spec{Name: "x", Agent: "shell"})
	want := ""
	for i := range before {
		h := mustLock(t, b)
		want = "old" + strconv.Itoa(i)
		if err := writeSave(h, want); err != nil {
			t.Fatal(err)
		}
		if err := h.Unlock(); err != nil {
			t.Fatal(err)
		}
	}
	check := func(step string, whole bool, text string) {
		if whole {
			want = text
		}
		meta, ok := b.LastSave()
		if ok != (want != "") || meta.Extra["content"] != want {
			t.Fatalf("%s: a looker sees %q, want %q", step, meta.Extra["content"], want)
		}
	}
	killed(t, "save-killed", s.dir, "x", point1, "first")
	check("first", whole1, "first")
	killed(t, "save-killed", s.dir, "x", point2, "second")
	// A sealed save beside an old one is rotated by the next BeginSave, which
	// then dies at the same steps, before it has anything new.
	finishing := before > 0 && point1 == "bundle.save.sealed" && whole2 && point2 != "bundle.save.sealed"
	check("second", whole2 && !finishing, "second")
	h := mustLock(t, b)
	if want != "" {
		if got := content(t, h); got != want {
			t.Fatalf("found %q, want %q", got, want)
		}
	} else if _, _, err := h.CurrentSave(); !errors.Is(err, sandbox.ErrNotFound) {
		t.Fatal(err)
	}
	if err := writeSave(h, "last"); err != nil {
		t.Fatal(err)
	}
	if got := content(t, h); got != "last" {
		t.Fatal(got)
	}
}

func TestFailedSaveKeepsTheOldOne(t *testing.T) {
	boom := errors.New("disk gone")
	for _, point := range savePoints {
		b := mustCreate(t, newStore(t), sandbox.Spec{Name: "x", Agent: "shell"})
		h := mustLock(t, b)
		if err := writeSave(h, "old"); err != nil {
			t.Fatal(err)
		}
		disarm := failpoint.Arm(point.name, func() error { return boom })
		err := writeSave(h, "new")
		disarm()
		if !errors.Is(err, boom) {
			t.Fatal(err)
		}
		if got := content(t, h); got != map[bool]string{true: "new", false: "old"}[point.whole] {
			t.Fatalf("%s: %q", point.name, got)
		}
	}
}

func TestUnusableSaveIsNotOverwrittenInSilence(t *testing.T) {
	newer := `{"format":99}`
	for name, damage := range map[string]func(dir string) error{
		"newer":     func(d string) error { return os.WriteFile(filepath.Join(d, metaFile), []byte(newer), 0o600) },
		"truncated": func(d string) error { return os.Truncate(filepath.Join(d, "root.img"), 1) },
		"missing":   func(d string) error { return os.Remove(filepath.Join(d, "root.img")) },
		"no-meta":   func(d string) error { return os.Remove(filepath.Join(d, metaFile)) },
	} {
		t.Run(name, func(t *testing.T) {
			b := mustCreate(t, newStore(t), sandbox.Spec{Name: "x", Agent: "shell"})
			h := mustLock(t, b)
			if err := writeSave(h, "old"); err != nil {
				t.Fatal(err)
			}
			dir, _, err := h.CurrentSave()
			if err != nil {
				t.Fatal(err)
			}
			if err := damage(dir); err != nil {
				t.Fatal(err)
			}
			_, _, err = h.CurrentSave()
			if err == nil || errors.Is(err, sandbox.ErrNotFound) && name != "missing" && name != "no-meta" {
				t.Fatal(err)
			}
			if c := sandbox.ClassOf(err); c != sandbox.ErrInternal && c != sandbox.ErrPrecondition {
				t.Fatal(c, err)
			}
			if _, ok := b.LastSave(); ok {
				t.Fatal("shown as a save")
			}
		})
	}
}

func TestSaveHoldsOnlyFiles(t *testing.T) {
	b := mustCreate(t, newStore(t), sandbox.Spec{Name: "x", Agent: "shell"})
	h := mustLock(t, b)
	dir, err := h.BeginSave()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := h.CommitSave(Meta{}); err == nil {
		t.Fatal("a symlink was saved")
	}
}
