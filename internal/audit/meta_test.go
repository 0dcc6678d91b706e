package audit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"berth.dev/internal/sandbox"
)

func TestFind(t *testing.T) {
	root := t.TempDir()
	at := func(day int) time.Time { return time.Date(2026, 1, day, 0, 0, 0, 0, time.UTC) }
	for _, m := range []Meta{
		{Name: "box", ID: "000000000001", Created: at(1), Removed: at(2)},
		{Name: "box", ID: "000000000002", Created: at(3)},
		{Name: "box", ID: "000000000003", Created: at(4), Removed: at(5)},
		{Name: "old", ID: "000000000004", Created: at(1), Removed: at(2)},
		{Name: "old", ID: "000000000005", Created: at(2), Removed: at(2)},
	} {
		if err := WriteMeta(filepath.Join(root, m.ID), m); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{UserDir, "000000000006", ".trash-x"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "000000000006", metaFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"box": "000000000002", "old": "000000000005", "000000000001": "000000000001", "000000000006": "000000000006",
	} {
		e, err := Find(root, name)
		if err != nil || e.ID != want || e.Dir != filepath.Join(root, want) {
			t.Errorf("%s: %+v, %v", name, e, err)
		}
	}
	for _, name := range []string{"nobody", "", UserDir} {
		if e, err := Find(root, name); !errors.Is(err, sandbox.ErrNotFound) || sandbox.HintOf(err) == "" {
			t.Errorf("%s: %+v, %v", name, e, err)
		}
	}
	if all, err := List(root); err != nil || len(all) != 6 || all[0].ID != "000000000003" {
		t.Errorf("%+v, %v", all, err)
	}
	dir := filepath.Join(root, "000000000002")
	for range 2 { // the second changes nothing
		if err := MarkRemoved(dir, at(7)); err != nil {
			t.Fatal(err)
		}
	}
	if m, err := ReadMeta(dir); err != nil || m.Name != "box" || !m.Removed.Equal(at(7)) {
		t.Errorf("%+v, %v", m, err)
	}
	if err := MarkRemoved(filepath.Join(root, "none"), at(7)); err != nil {
		t.Error(err)
	}
}

func TestPrune(t *testing.T) {
	root := t.TempDir()
	now := time.Now()
	log := func(id string, removed time.Time) string {
		dir := filepath.Join(root, id)
		written(t, mkdir(t, dir), 1, Options{})
		if err := WriteMeta(dir, Meta{Name: "box", ID: id, Created: now.Add(-1000 * time.Hour), Removed: removed}); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	stays := []string{log("living", time.Time{}), log("young", now.Add(-29*24*time.Hour)), mkdir(t, filepath.Join(root, UserDir)), mkdir(t, filepath.Join(root, "unknown"))}
	inUse := log("inuse", now.Add(-31*24*time.Hour))
	l := openLog(t, inUse, Options{})
	goes := []string{log("old", now.Add(-31*24*time.Hour)), mkdir(t, filepath.Join(root, trashPrefix+"half"))}
	check := func() {
		t.Helper()
		if err := Prune(root, now); err != nil {
			t.Fatal(err)
		}
		for _, dir := range stays {
			if !exists(dir) {
				t.Errorf("%s is gone", dir)
			}
		}
		for _, dir := range goes {
			if exists(dir) {
				t.Errorf("%s is still there", dir)
			}
		}
	}
	stays = append(stays, inUse)
	check()
	closeLog(t, l)
	stays, goes = stays[:len(stays)-1], append(goes, inUse)
	check()
	for i := range maxRemoved {
		id := fmt.Sprintf("%012d", i)
		if err := WriteMeta(filepath.Join(root, id), Meta{ID: id, Removed: now.Add(-time.Duration(i) * time.Minute)}); err != nil {
			t.Fatal(err)
		}
	}
	goes, stays = append(goes, stays[1]), append(stays[:1], stays[2:]...)
	check()
	if all, err := List(root); err != nil || len(all) != maxRemoved+2 {
		t.Errorf("%d, %v", len(all), err)
	}
}

func mkdir(t testing.TB, dir string) string {
	t.Helper()
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}
