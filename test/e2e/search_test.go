package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// search looks for keys where they should not be.
type search struct {
	u    *user
	keys []string
}

func (k keeping) search() search { return search{k.u, []string{realKey}} }

// everywhere says where a sandbox has one of the keys. It is stopped then.
func (s search) everywhere(t *testing.T, name string) map[string]bool {
	t.Helper()
	found := map[string]bool{
		"environment":  s.guest(t, name, "cat /proc/[0-9]*/environ"),
		"files":        s.guest(t, name, "tar c --ignore-failed-read /etc /home /root /run /tmp /var /dev/shm 2>/dev/null"),
		"guest memory": s.memory(t, name),
	}
	var known []struct{ ID string }
	if err := json.Unmarshal([]byte(s.u.must(t, "", "inspect", name)), &known); err != nil || len(known) != 1 {
		t.Fatalf("inspect: %v", err)
	}
	s.u.must(t, "", "stop", name)
	found["saved state"] = s.folder(t, s.u.inspect(t, name).Dir)
	found["host's record"] = s.folder(t, filepath.Join(s.u.berthHome, "data", "audit", known[0].ID))
	t.Logf("%s: %v", name, found)
	return found
}

// guest says whether what root of the guest can print has a key in it. It is
// looked for outside: a search inside would bring it in.
func (s search) guest(t *testing.T, name, script string) bool {
	t.Helper()
	r := s.u.run(t, "", nil, "exec", "-u", "root", name, "sh", "-c", script)
	if len(r.out) < 1000 {
		t.Fatalf("%s: %d %s", script, r.code, r.err)
	}
	return has(r.out, s.keys...)
}

// memory looks through the memory of the sandbox's processes but for the
// supervisor, which has to have the key.
func (s search) memory(t *testing.T, name string) bool {
	t.Helper()
	return slices.ContainsFunc(s.u.inspect(t, name).PIDs.Engine, func(pid int) bool { return s.pid(t, pid) })
}

// pid looks through the memory of a process.
func (s search) pid(t *testing.T, pid int) bool {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	looked := 0
	for line := range strings.Lines(string(maps)) {
		var from, to int64
		var mode string
		if n, _ := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); n != 3 || mode[0] != 'r' {
			continue
		}
		n, has := s.stream(io.NewSectionReader(mem, from, to-from))
		looked += n
		if has {
			return true
		}
	}
	if looked < 1<<20 {
		t.Fatalf("only %d bytes of process %d could be read", looked, pid)
	}
	return false
}

// stream reads as far as it can, and says whether a key is in it.
func (s search) stream(r io.Reader) (read int, found bool) {
	longest := 0
	for _, key := range s.keys {
		longest = max(longest, len(key))
	}
	b := bufio.NewReaderSize(r, 1<<20)
	var tail []byte
	buf := make([]byte, 1<<20)
	for {
		n, err := b.Read(buf)
		read += n
		both := append(tail, buf[:n]...)
		if has(string(both), s.keys...) {
			return read, true
		}
		tail = append([]byte(nil), both[max(0, len(both)-longest):]...)
		if err != nil {
			return read, false
		}
	}
}

// folder looks through the files below a folder.
func (s search) folder(t *testing.T, dir string) bool {
	t.Helper()
	found, files := false, 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || d.Name() == "spec.json" { // which has what -e said, as its user was told
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		files++
		if _, has := s.stream(f); has {
			found = true
		}
		return nil
	})
	if err != nil || files == 0 {
		t.Fatalf("%s: %d files, %v", dir, files, err)
	}
	return found
}
