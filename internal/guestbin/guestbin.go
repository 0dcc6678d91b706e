// Package guestbin carries berth-guest, the guest's first process, inside the
// berth binary, and lays it out on the host's disk for engines to mount. The
// Makefile builds it, and the file with its hash, before berth; a build
// without them says so when asked.
package guestbin

import (
	"embed"
	"os"
	"path/filepath"
	"strings"

	"berth.dev/internal/atomicfile"
	"berth.dev/internal/sandbox"
)

// Name of the binary in the folder that Extract returns.
const Name = "berth-guest"

//go:embed all:bin
var files embed.FS

// Extract makes sure that the binary lies on disk below dir, in a folder named
// by its hash, and returns the folder, which holds it and nothing else. When
// it is there already nothing of it is read, because that costs milliseconds
// of every start. It is safe in several processes at once.
func Extract(dir string) (string, error) {
	sum, err := files.ReadFile("bin/" + Name + ".sha256")
	if err != nil {
		return "", sandbox.Errorf(sandbox.ErrInternal, "this berth was built without berth-guest").
			WithHint("build it with: make install")
	}
	out := filepath.Join(dir, strings.TrimSpace(string(sum)))
	path := filepath.Join(out, Name)
	if _, err := os.Stat(path); err == nil {
		return out, nil
	}
	data, err := files.ReadFile("bin/" + Name)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return "", err
	}
	return out, atomicfile.Write(path, data, 0o755)
}
