// Package account reads the guest's users and groups from /etc/passwd and
// /etc/group, in Go, because the guest's binary has no libc. What is in the
// files is the guest's to say: they are read with bounds and what cannot be
// understood is passed over, as libc does.
package account

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Account is somebody a process can run as.
type Account struct {
	Name   string // "" when the uid has no name
	UID    uint32
	GID    uint32
	Groups []uint32 // supplementary, the primary one not among them
	Home   string
	Shell  string
}

// ErrUnknown means that there is no such user or group.
var ErrUnknown = errors.New("unknown user or group")

// Bounds: longer files are read up to here, longer lists cut.
const (
	maxFile   = 4 << 20
	maxGroups = 1024
)

// Base knows the users of a root directory. It reads the files at every
// question, because the guest may add users at any time.
type Base struct{ root string }

// Open makes a Base of the files under root, "/" for the running system.
func Open(root string) *Base { return &Base{root: root} }

// Lookup finds who is meant by NAME or UID, optionally followed by ":GROUP" or
// ":GID" (`docker exec -u`). A numeric uid need not exist; a group given
// explicitly replaces the supplementary ones. Errors wrap ErrUnknown.
func (b *Base) Lookup(who string) (Account, error) {
	user, group, withGroup := strings.Cut(who, ":")
	users, err := b.read("etc/passwd", ParsePasswd)
	if err != nil {
		return Account{}, err
	}
	a, err := pick(users, user)
	if err != nil {
		return Account{}, err
	}
	groups, err := readGroups(b)
	if err != nil {
		return Account{}, err
	}
	if withGroup {
		gid, err := groupID(groups, group)
		if err != nil {
			return Account{}, err
		}
		a.GID = gid
		return a, nil
	}
	a.Groups = memberships(groups, a)
	return a, nil
}

// Group finds a group's id by its name. The error wraps ErrUnknown when there
// is none.
func (b *Base) Group(name string) (uint32, error) {
	groups, err := readGroups(b)
	if err != nil {
		return 0, err
	}
	return groupID(groups, name)
}

func pick(users []Account, user string) (Account, error) {
	for _, u := range users {
		if u.Name == user {
			return u, nil
		}
	}
	uid, err := strconv.ParseUint(user, 10, 32)
	if err != nil || uid == 1<<32-1 { // -1 means "leave it" to setresuid(2)
		return Account{}, fmt.Errorf("user %q: %w", user, ErrUnknown)
	}
	for _, u := range users {
		if u.UID == uint32(uid) {
			return u, nil
		}
	}
	return Account{UID: uint32(uid), Home: "/", Shell: "/bin/sh"}, nil
}

func groupID(groups []Group, name string) (uint32, error) {
	for _, g := range groups {
		if g.Name == name {
			return g.GID, nil
		}
	}
	gid, err := strconv.ParseUint(name, 10, 32)
	if err != nil || gid == 1<<32-1 {
		return 0, fmt.Errorf("group %q: %w", name, ErrUnknown)
	}
	return uint32(gid), nil
}

func memberships(groups []Group, a Account) []uint32 {
	var out []uint32
	for _, g := range groups {
		if a.Name != "" && g.GID != a.GID && len(out) < maxGroups &&
			slices.Contains(g.Members, a.Name) && !slices.Contains(out, g.GID) {
			out = append(out, g.GID)
		}
	}
	return out
}

func (b *Base) read(name string, parse func(io.Reader) []Account) ([]Account, error) {
	f, err := os.Open(filepath.Join(b.root, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parse(io.LimitReader(f, maxFile)), nil
}

func readGroups(b *Base) ([]Group, error) {
	f, err := os.Open(filepath.Join(b.root, "etc/group"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return ParseGroup(io.LimitReader(f, maxFile)), nil
}

// ParsePasswd reads passwd(5); lines that are not in that form are skipped.
func ParsePasswd(r io.Reader) []Account {
	var out []Account
	eachLine(r, func(f []string) {
		if len(f) != 7 {
			return
		}
		uid, err1 := strconv.ParseUint(f[2], 10, 32)
		gid, err2 := strconv.ParseUint(f[3], 10, 32)
		if err1 != nil || err2 != nil {
			return
		}
		a := Account{Name: f[0], UID: uint32(uid), GID: uint32(gid), Home: f[5], Shell: f[6]}
		if a.Home == "" {
			a.Home = "/"
		}
		if a.Shell == "" {
			a.Shell = "/bin/sh"
		}
		out = append(out, a)
	})
	return out
}

// Group is a line of group(5).
type Group struct {
	Name    string
	GID     uint32
	Members []string
}

// ParseGroup reads group(5); lines that are not in that form are skipped.
func ParseGroup(r io.Reader) []Group {
	var out []Group
	eachLine(r, func(f []string) {
		if len(f) != 4 {
			return
		}
		gid, err := strconv.ParseUint(f[2], 10, 32)
		if err != nil {
			return
		}
		g := Group{Name: f[0], GID: uint32(gid)}
		for m := range strings.SplitSeq(f[3], ",") {
			if m = strings.TrimSpace(m); m != "" {
				g.Members = append(g.Members, m)
			}
		}
		out = append(out, g)
	})
	return out
}

// eachLine calls fn with the fields of each line that has a name in it. A
// line longer than 64 KiB ends the reading.
func eachLine(r io.Reader, fn func([]string)) {
	s := bufio.NewScanner(r)
	for s.Scan() {
		line := strings.TrimSpace(s.Text())
		if line == "" || line[0] == '#' || line[0] == ':' {
			continue
		}
		fn(strings.Split(line, ":"))
	}
}
