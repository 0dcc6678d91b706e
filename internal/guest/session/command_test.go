package session

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"berth.dev/internal/guest/account"
	"berth.dev/internal/guestapi"
)

func TestLookPath(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"a/run": 0o644, "b/run": 0o755, "b/data": 0o644, "b/group": 0o710, "b/other": 0o701, "c/run/x": 0o755} {
		p := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, nil, 0o600), os.Chmod(p, mode)); err != nil {
			t.Fatal(err)
		}
	}
	path := dir + "/c:" + dir + "/a:b:/nowhere"
	uid, gid := uint32(os.Getuid()), uint32(os.Getgid())
	owner := account.Account{UID: uid, GID: gid}
	member := account.Account{UID: 54321, GID: 54321, Groups: []uint32{gid}}
	stranger := account.Account{UID: 54321, GID: 54321}
	tests := []struct {
		name string
		who  account.Account
		want string
		code guestapi.Code
	}{
		{"run", owner, dir + "/b/run", ""}, // not the folder, not the plain file before it
		{"run", stranger, dir + "/b/run", ""},
		{"data", owner, "", guestapi.NotExecutable},
		{"none", owner, "", guestapi.CommandNotFound},
		{"./b/run", owner, dir + "/b/run", ""},
		{"b/none", owner, "", guestapi.CommandNotFound},
		{"b/run/x", owner, "", guestapi.CommandNotFound},
		{"./c", owner, "", guestapi.NotExecutable},
		{"group", member, dir + "/b/group", ""},
		{"group", stranger, "", guestapi.NotExecutable},
		{"other", member, "", guestapi.NotExecutable},
		{"other", stranger, dir + "/b/other", ""},
	}
	for _, tt := range tests {
		got, err := lookPath(tt.name, dir, path, tt.who)
		var e *guestapi.Error
		if tt.code == "" && (err != nil || got != tt.want) || tt.code != "" && (!errors.As(err, &e) || e.Code != tt.code) {
			t.Errorf("%s as %d: %q, %v", tt.name, tt.who.UID, got, err)
		}
	}
}

func TestCut(t *testing.T) {
	if got := cut([]string{"ab", "cdefgh", "x"}, 6); !slices.Equal(got, []string{"ab", "cde..."}) {
		t.Errorf("%q", got)
	}
}

func TestMembers(t *testing.T) {
	pid, sid, ok := parseStat("12 (a) b) (c) S 1 34 56 0 -1")
	if pid != 12 || sid != 56 || !ok {
		t.Error(pid, sid, ok)
	}
}

func FuzzStat(f *testing.F) {
	f.Add("1 (x) S 0 1 1 0")
	f.Add("1 )(")
	f.Fuzz(func(t *testing.T, s string) { parseStat(s) })
}
