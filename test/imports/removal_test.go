package imports

import (
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestMicroVMIsRemovable builds the tree, tests and all, without the folder of
// that engine: nothing needs it but the lines that register it.
func TestMicroVMIsRemovable(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	const registry = "internal/engine/all/all.go"
	text, err := os.ReadFile(filepath.Join(root, registry))
	if err != nil {
		t.Fatal(err)
	}
	var kept []string
	dropped := 0
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, "microvm") {
			dropped++
			continue
		}
		kept = append(kept, line)
	}
	if dropped != 2 {
		t.Errorf("%s names it in %d lines, not in its import and its registration alone", registry, dropped)
	}
	changed := filepath.Join(t.TempDir(), "all.go")
	if err := os.WriteFile(changed, []byte(strings.Join(kept, "")), 0o644); err != nil {
		t.Fatal(err)
	}
	overlay := map[string]string{filepath.Join(root, registry): changed}
	err = filepath.WalkDir(filepath.Join(root, "internal/engine/microvm"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			overlay[path] = "" // as if it were not there
		}
		return err
	})
	if err != nil || len(overlay) < 10 {
		t.Fatalf("%d files, %v", len(overlay), err)
	}
	data, err := json.Marshal(map[string]any{"Replace": overlay})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "overlay.json")
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"list", "-overlay", file, "-test", "-deps", module + "..."},
		{"build", "-overlay", file, "-o", os.DevNull, module + "cmd/berth"},
	} {
		cmd := exec.Command("go", args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("go %s: %v\n%s", args[0], err, out)
		}
		if strings.Contains(string(out), "engine/microvm") {
			t.Errorf("go %s still knows it:\n%s", args[0], out)
		}
	}
}
