package failpoint_test

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"berth.dev/internal/failpoint"
)

func TestArmedOnlyUntilDisarmed(t *testing.T) {
	boom := errors.New("boom")
	if err := failpoint.Hit("x"); err != nil {
		t.Fatalf("unarmed: %v", err)
	}
	disarm := failpoint.Arm("x", func() error { return boom })
	if err := failpoint.Hit("x"); !errors.Is(err, boom) {
		t.Fatalf("armed: %v", err)
	}
	if err := failpoint.Hit("y"); err != nil {
		t.Fatalf("another name: %v", err)
	}
	disarm()
	if err := failpoint.Hit("x"); err != nil {
		t.Fatalf("disarmed: %v", err)
	}
}

// TestOnlyTestsArm reads the whole module: an Arm in a shipped file would be a
// fault that a shipped binary can meet.
func TestOnlyTestsArm(t *testing.T) {
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".") && d.Name() != ".." {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return nil // whether it compiles is the compiler's business
		}
		ast.Inspect(f, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok || sel.Sel.Name != "Arm" {
				return true
			}
			if pkg, ok := sel.X.(*ast.Ident); ok && pkg.Name == "failpoint" {
				t.Errorf("%s calls failpoint.Arm", path)
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
