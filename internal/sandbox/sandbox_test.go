package sandbox

import (
	"errors"
	"io/fs"
	"strings"
	"testing"
)

func TestErrorf(t *testing.T) {
	err := error(Errorf(ErrUnavailable, "open %s: %w", "x", fs.ErrNotExist).WithHint("make it"))
	if err.Error() != "open x: file does not exist" || !errors.Is(err, ErrUnavailable) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
	wrapped := errors.Join(errors.New("first"), err)
	if ClassOf(wrapped) != ErrUnavailable || HintOf(wrapped) != "make it" {
		t.Errorf("class %v, hint %q", ClassOf(wrapped), HintOf(wrapped))
	}
	if ClassOf(nil) != "" || ClassOf(errors.New("x")) != ErrInternal || ParseClass("from a newer Berth") != ErrInternal {
		t.Error("classes of nothing, of anything, of the unknown")
	}
	for _, c := range classes {
		if ParseClass(string(c)) != c {
			t.Errorf("%s does not come back", c)
		}
	}
}

func TestNameFrom(t *testing.T) {
	for folder, want := range map[string]string{
		"/home/a/My Project!": "claude-my-project", "/": "claude", "/x/___": "claude", "/ünïcode": "claude-n-code",
		"/" + strings.Repeat("a", 100): "claude-" + strings.Repeat("a", 50), "/a.b_c": "claude-a-b-c",
	} {
		if got := NameFrom("claude", folder); got != want || CheckName(got) != nil {
			t.Errorf("%s: %q, want %q", folder, got, want)
		}
	}
}

func FuzzNameFrom(f *testing.F) {
	f.Add("claude", "/a/b c")
	f.Fuzz(func(t *testing.T, agent, folder string) {
		if name := NameFrom(agent, folder); CheckName(name) != nil {
			t.Errorf("%q and %q make %q", agent, folder, name)
		}
	})
}

func TestCheckName(t *testing.T) {
	for _, bad := range []string{"", "-a", "a-", "A", "a b", "a/b", "..", "a\n", strings.Repeat("a", 64), "é"} {
		if CheckName(bad) == nil {
			t.Errorf("%q passes", bad)
		}
	}
}

func TestParseSize(t *testing.T) {
	for in, want := range map[string]int64{"1024": 1024, "512m": 512 << 20, "4g": 4 << 30, "4GiB": 4 << 30, "1.5k": 1536, " 2 t ": 2 << 40, "10KB": 10 << 10} {
		got, err := ParseSize(in)
		if err != nil && in != " 2 t " || err == nil && got != want {
			t.Errorf("%q: %d, %v", in, got, err)
		}
	}
	for _, bad := range []string{"", "m", "-1g", "0", "1x", "1gg", "NaN", "inf", "1e30g", "4 g g"} {
		if n, err := ParseSize(bad); err == nil {
			t.Errorf("%q is %d", bad, n)
		}
	}
}

func TestMountCheck(t *testing.T) {
	ok := Mount{Host: "/a", Guest: "/b"}
	if err := ok.Check(); err != nil {
		t.Error(err)
	}
	for _, bad := range []Mount{
		{"a", "/b", false}, {"/a/../b", "/b", false}, {"/a", "b", false}, {"/a", "/", false}, {"/a", "/proc/x", false},
		{"/a", "/dev", false}, {"/a", GuestDir, false}, {"/a", AgentDir + "/claude", false}, {"/a", "/b/", false},
	} {
		if bad.Check() == nil {
			t.Errorf("%+v passes", bad)
		}
	}
}
