package reclaim

import (
	"os"
	"path/filepath"
	"testing"
)

func TestLargest(t *testing.T) {
	proc := t.TempDir()
	for pid, statm := range map[string]string{
		"1": "9999 9999 1", "7": "500 40 1", "8": "60 50 1", "9": "garbage", "10": "1 99999999999999999999 1", "self": "1 1000 1", "77": "800 700 2",
	} {
		dir := filepath.Join(proc, pid)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, data := range map[string]string{"statm": statm, "comm": "p" + pid + "\x1b[m\n"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	var killed []int
	kill := func(pid int) error { killed = append(killed, pid); return nil }
	got, err := Largest(proc, 77, kill)
	if err != nil || got.PID != 8 || got.Name != "p8?[m" || got.Bytes != 50*int64(os.Getpagesize()) {
		t.Errorf("%+v, %v", got, err)
	}
	if len(killed) != 1 || killed[0] != 8 {
		t.Errorf("killed %v", killed)
	}
	if _, err := Largest(t.TempDir(), 1, kill); err == nil {
		t.Error("something was ended where nothing runs")
	}
}
