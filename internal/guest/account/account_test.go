package account

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

const passwd = `# comment
root:x:0:0:root:/root:/bin/bash
agent:x:1000:1000::/home/agent:
broken:x:abc:0::/:/bin/sh
short:x:1
+nis
minus:x:-1:0::/:/bin/sh
nohome:x:7:8:::/bin/false
`

const group = `root:x:0:
sudo:x:27:agent, nohome
docker:x:999:agent
again:x:999:agent
agent:x:1000:agent
bad:x:1e3:agent
`

func base(t *testing.T) *Base {
	t.Helper()
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"passwd": passwd, "group": group} {
		if err := os.WriteFile(filepath.Join(root, "etc", name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return Open(root)
}

func TestLookup(t *testing.T) {
	b := base(t)
	agent := Account{Name: "agent", UID: 1000, GID: 1000, Groups: []uint32{27, 999}, Home: "/home/agent", Shell: "/bin/sh"}
	explicit := agent
	explicit.GID, explicit.Groups = 999, nil
	for who, want := range map[string]Account{
		"agent":        agent,
		"1000":         agent,
		"agent:docker": explicit,
		"agent:999":    explicit,
		"nohome":       {Name: "nohome", UID: 7, GID: 8, Groups: []uint32{27}, Home: "/", Shell: "/bin/false"},
		"4242":         {UID: 4242, Home: "/", Shell: "/bin/sh"},
		"4242:27":      {UID: 4242, GID: 27, Home: "/", Shell: "/bin/sh"},
	} {
		if got, err := b.Lookup(who); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v", who, got, err)
		}
	}
	for _, who := range []string{"", "nobody", "broken", "minus", "-1", "4294967295", "4294967296", "agent:none", "agent:4294967295", "agent:", ":"} {
		if got, err := b.Lookup(who); !errors.Is(err, ErrUnknown) {
			t.Errorf("%q: %+v, %v", who, got, err)
		}
	}
	if g, err := b.Group("docker"); g != 999 || err != nil {
		t.Error(g, err)
	}
	// A root without the files has no names, and numbers still work.
	empty := Open(t.TempDir())
	if a, err := empty.Lookup("5:6"); err != nil || a.UID != 5 || a.GID != 6 {
		t.Error(a, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(passwd)
	f.Add(group)
	f.Add(strings.Repeat(":", 100) + "\n\x00:\xff:1:1:::\n")
	f.Fuzz(func(t *testing.T, s string) {
		for _, a := range ParsePasswd(strings.NewReader(s)) {
			if a.Name == "" || a.Home == "" || a.Shell == "" || strings.Contains(a.Name, ":") {
				t.Errorf("%+v", a)
			}
		}
		for _, g := range ParseGroup(strings.NewReader(s)) {
			if g.Name == "" {
				t.Errorf("%+v", g)
			}
		}
	})
}
