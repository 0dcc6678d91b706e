// Package programs carries the sentry's seccomp program, compiled when berth
// is built. gVisor's own releases have theirs built in; module builds do not,
// and compile it anew at each start of a sandbox, which takes a good part of
// that start. The Makefile makes the file; without it a start is slower and
// otherwise the same.
package programs

import (
	"bytes"
	"embed"
	"encoding/gob"
	"fmt"

	"gvisor.dev/gvisor/pkg/seccomp/precompiledseccomp"
)

// GVisor is the version of the gVisor module that this tree is built with. A
// test holds it equal to go.mod; a test binary does not know its modules.
const GVisor = "v0.0.0-20260905035102-160fafc42237"

// File is the name of the file in the folder bin.
const File = "programs.gob"

//go:embed all:bin
var files embed.FS

// Program is a compiled program.
type Program = precompiledseccomp.Program

// stored is the content of the file.
type stored struct {
	GVisor   string // module version that the programs were compiled from
	Programs map[string]Program
}

// Load returns the embedded programs by name, none when there is no file.
func Load() (map[string]Program, error) {
	data, err := files.ReadFile("bin/" + File)
	if err != nil {
		return nil, nil
	}
	return decode(data, GVisor)
}

func decode(data []byte, gvisor string) (map[string]Program, error) {
	var s stored
	if err := gob.NewDecoder(bytes.NewReader(data)).Decode(&s); err != nil {
		return nil, fmt.Errorf("read the seccomp programs: %w", err)
	}
	if s.GVisor != gvisor {
		return nil, fmt.Errorf("the seccomp programs are those of gVisor %s, this is %s", s.GVisor, gvisor)
	}
	return s.Programs, nil
}

// Encode makes the content of the file.
func Encode(gvisor string, all map[string]Program) ([]byte, error) {
	var b bytes.Buffer
	err := gob.NewEncoder(&b).Encode(stored{GVisor: gvisor, Programs: all})
	return b.Bytes(), err
}
