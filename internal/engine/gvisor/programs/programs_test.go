package programs

import (
	"os"
	"strings"
	"testing"
)

// TestEmbedded holds the embedded programs against what this gVisor compiles.
// Compilation orders rules by chance, so two results have the same meaning and
// about the same length, not the same bytes; that they come from the same
// rules is what the version in the file is for.
func TestEmbedded(t *testing.T) {
	embedded, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	if len(embedded) == 0 {
		t.Fatal("no programs are embedded; run: make generate")
	}
	fresh, err := Compile()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range fresh {
		got, ok := embedded[name]
		if !ok {
			t.Errorf("%s is not embedded; run: make generate", name)
			continue
		}
		if d := len(got.Bytecode32) - len(want.Bytecode32); d > 64 || d < -64 {
			t.Errorf("%s has %d words, a fresh one %d; run: make generate", name, len(got.Bytecode32), len(want.Bytecode32))
		}
	}
}

// TestStale shows that programs of another gVisor are not used.
func TestStale(t *testing.T) {
	if _, err := decode(encode(t, "v0.0.0-other"), "v0.0.0-this"); err == nil {
		t.Error("programs of another gVisor were accepted")
	}
	if all, err := decode(encode(t, "v1"), "v1"); err != nil || len(all) != 1 {
		t.Errorf("programs of this gVisor: %v, %v", all, err)
	}
}

func encode(t *testing.T, gvisor string) []byte {
	t.Helper()
	data, err := Encode(gvisor, map[string]Program{"x": {Name: "x"}})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestVersion holds the constant equal to the module that is built in.
func TestVersion(t *testing.T) {
	data, err := os.ReadFile("../../../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(data), "gvisor.dev/gvisor "+GVisor+"\n") {
		t.Errorf("go.mod has another gVisor than %s", GVisor)
	}
}
