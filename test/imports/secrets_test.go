package imports

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// touches are the packages that may touch the bytes of a secret, and why. All
// others hand secret.Values on, which cannot be printed.
var touches = map[string]string{
	"internal/secret":     "keeps them",
	"internal/credential": "puts them into requests and takes them out of answers",
	"internal/signin":     "takes tokens out of the answers to sign-ins, and renews them",
}

// knows are the packages that may have secret.Values in their hands at all.
var knows = map[string]string{
	"internal/secret":     "makes them",
	"internal/credential": "opens them",
	"internal/signin":     "makes them of tokens",
	"internal/control":    "carries those of a shell to the supervisor",
	"internal/supervisor": "hands the values of this shell and the sources of the store on to credential",
	"internal/manager":    "hands them on to the supervisor",
	"internal/cli":        "makes Values of what the user types, and of this shell's variables",
}

// carries are the packages that may name secret.Wire, the one form of a secret
// that JSON writes with its bytes.
var carries = map[string]string{
	"internal/secret":     "",
	"internal/cli":        "sends",
	"internal/manager":    "passes on",
	"internal/control":    "sends and receives",
	"internal/supervisor": "receives",
}

// reveals returns the places in a file of Go that get at a secret's bytes, or
// could: calls of Reveal and mentions of it as a method, and reaching for it by
// a linkname.
func reveals(fset *token.FileSet, name string, src any) ([]string, error) {
	f, err := parser.ParseFile(fset, name, src, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	var found []string
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			if n.Sel.Name == "Reveal" {
				found = append(found, fset.Position(n.Sel.Pos()).String())
			}
		case *ast.InterfaceType:
			// A Value in an interface with that method could be asked through it.
			for _, m := range n.Methods.List {
				for _, id := range m.Names {
					if id.Name == "Reveal" {
						found = append(found, fset.Position(id.Pos()).String())
					}
				}
			}
		case *ast.BasicLit:
			// MethodByName of package reflect.
			if n.Kind == token.STRING && strings.Trim(n.Value, "\"`") == "Reveal" {
				found = append(found, fset.Position(n.Pos()).String())
			}
		case *ast.Comment:
			if strings.HasPrefix(n.Text, "//go:linkname") && strings.Contains(n.Text, "internal/secret.") {
				found = append(found, fset.Position(n.Pos()).String())
			}
		}
		return true
	})
	return found, nil
}

// wires returns the places in a file that name secret.Wire.
func wires(fset *token.FileSet, name string) ([]string, error) {
	f, err := parser.ParseFile(fset, name, nil, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	local := "secret"
	for _, imp := range f.Imports {
		if imp.Path.Value == `"`+module+`internal/secret"` && imp.Name != nil {
			local = imp.Name.Name
		}
	}
	var found []string
	ast.Inspect(f, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok && sel.Sel.Name == "Wire" {
			if x, ok := sel.X.(*ast.Ident); ok && x.Name == local {
				found = append(found, fset.Position(sel.Pos()).String())
			}
		}
		return true
	})
	return found, nil
}

// TestRevealsSees: the check finds what it is meant to find.
func TestRevealsSees(t *testing.T) {
	for _, line := range []string{
		`func f(v secret.Value) string { return v.Reveal() }`,
		`func f(t secret.Token) string { return t.Value.Reveal() }`,
		`var f = secret.Value.Reveal`,
		`func f(v secret.Value) func() string { return v.Reveal }`,
		`type r interface{ Reveal() string }`,
		`var f = reflect.ValueOf(v).MethodByName("Reveal")`,
		"//go:linkname x berth.dev/internal/secret.Value.Reveal\nfunc x()",
	} {
		found, err := reveals(token.NewFileSet(), "x.go", "package p\n"+line+"\n")
		if err != nil || len(found) != 1 {
			t.Errorf("%s: %v, %v", line, found, err)
		}
	}
	found, err := reveals(token.NewFileSet(), "x.go", "package p\n// Reveal is a word.\nfunc f(v secret.Value) string { return v.String() }\n")
	if err != nil || len(found) != 0 {
		t.Error(found, err)
	}
}

// TestSecretBytes: nobody but those named above gets at the bytes of a secret,
// and nobody but those named above is given one.
func TestSecretBytes(t *testing.T) {
	const root = "../.."
	fset := token.NewFileSet()
	files, calls := 0, map[string]int{}
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		switch {
		case e.IsDir() && (strings.HasPrefix(e.Name(), ".") && rel != "." || e.Name() == "testdata" || rel == "test"):
			return fs.SkipDir
		case e.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		files++
		found, err := reveals(fset, path, nil)
		if err != nil {
			return err
		}
		wired, err := wires(fset, path)
		if err != nil {
			return err
		}
		pkg := filepath.ToSlash(filepath.Dir(rel))
		if _, ok := carries[pkg]; !ok {
			for _, at := range wired {
				t.Errorf("%s: %s names secret.Wire, which only these may: %s", at, pkg, names(carries))
			}
		}
		calls[pkg] += len(found)
		if _, ok := touches[pkg]; !ok {
			for _, at := range found {
				t.Errorf("%s: %s gets at the bytes of a secret; only these may: %s", at, pkg, names(touches))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 100 || calls["internal/secret"] == 0 {
		t.Errorf("looked at %d files, %d calls", files, calls["internal/secret"])
	}
	for _, p := range list(t) {
		from := strings.TrimPrefix(p.ImportPath, module)
		if _, ok := knows[from]; !ok && slices.Contains(p.Imports, module+"internal/secret") && !strings.HasPrefix(from, "test/") {
			t.Errorf("%s imports internal/secret, which only these may: %s", from, names(knows))
		}
	}
}

func names(of map[string]string) string {
	var all []string
	for name := range of {
		all = append(all, name)
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}
