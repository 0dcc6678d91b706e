// Package guestbin carries berth-guest, the guest's first process, inside the
// berth binary, and lays it out on the host's disk for engines to mount. The
// Makefile builds it before berth; a build without it says so when asked.
package guestbin

import (
	"embed"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"

	"berth.dev/internal/atomicfile"
	"berth.dev/internal/sandbox"
)

// Name of the binary in the folder that Extract returns.
const Name = "berth-guest"

//go:embed all:bin
var files embed.FS

// Extract makes sure that the binary lies on disk below dir, named by its
// content, and returns the folder that holds it and nothing else. It is cheap
// when the binary is there, and safe in several processes at once.
func Extract(dir string) (string, error) {
	data, err := files.ReadFile("bin/" + Name)
	if err != nil {
		return "", sandbox.Errorf(sandbox.ErrInternal, "this berth was built without berth-guest").
			WithHint("build it with: make install")
	}
	// A checksum, because this runs at every start and nobody but this build
	// decides what is hashed.
	sum := crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli))
	out := filepath.Join(dir, fmt.Sprintf("%08x-%d", sum, len(data)))
	path := filepath.Join(out, Name)
	// Size is enough: the name says the content, and writes are atomic.
	if info, err := os.Stat(path); err == nil && info.Size() == int64(len(data)) {
		return out, nil
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return "", err
	}
	return out, atomicfile.Write(path, data, 0o755)
}
