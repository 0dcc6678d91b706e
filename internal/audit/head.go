package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"berth.dev/internal/atomicfile"
	"berth.dev/internal/sandbox"
)

const headFile = "head"

// head is the content of the file head.
type head struct {
	Version   int    `json:"version"`
	FirstSeq  uint64 `json:"first_seq"`  // where what is kept begins
	FirstPrev string `json:"first_prev"` // prev of that line
	LastSeq   uint64 `json:"last_seq"`   // FirstSeq-1 when there is no line
	LastHash  string `json:"last_hash"`  // FirstPrev then
	Closed    bool   `json:"closed"`     // nobody writes any more
}

// newHead is that of a log without a line.
func newHead(dir string) head {
	g := genesis(filepath.Base(dir))
	return head{Version: Version, FirstSeq: 1, FirstPrev: g, LastHash: g}
}

// sameMoment reports whether files that were looked at between the reading of
// two heads fit to either: no file was dropped meanwhile, and no log that was
// closed was added to.
func (h head) sameMoment(o head) bool {
	return h == o || !h.Closed && !o.Closed && h.FirstSeq == o.FirstSeq
}

func (h head) encode() []byte {
	b, _ := json.MarshalIndent(h, "", " ") // numbers and texts have JSON
	return append(b, '\n')
}

func (h head) write(dir string) error {
	if err := atomicfile.Write(filepath.Join(dir, headFile), h.encode(), 0o600); err != nil {
		return fmt.Errorf("write the head of an audit log: %w", err)
	}
	return nil
}

// errHead: there is a head, and Berth did not write it as it is.
var errHead = errors.New("the head file was changed")

// readHead reads the head of a log: fs.ErrNotExist when there is none, errHead
// when it makes no sense, sandbox.ErrPrecondition when a newer Berth wrote it.
func readHead(dir string) (head, error) {
	f, err := openFile(filepath.Join(dir, headFile))
	if errors.Is(err, errNoFile) {
		return head{}, errHead
	} else if err != nil {
		return head{}, err
	}
	defer f.Close()
	data := make([]byte, 4096)
	n, err := f.ReadAt(data, 0)
	if err == nil {
		return head{}, errHead // longer than any
	}
	data = data[:n]
	var version struct {
		Version int `json:"version"`
	}
	if json.Unmarshal(data, &version) == nil && version.Version > Version {
		return head{}, newer(dir, version.Version)
	}
	var h head
	if json.Unmarshal(data, &h) != nil || !bytes.Equal(h.encode(), data) || h.Version != Version ||
		!isHash(h.FirstPrev) || !isHash(h.LastHash) || h.FirstSeq == 0 || h.LastSeq+1 < h.FirstSeq {
		return head{}, errHead
	}
	return h, nil
}

func newer(path string, version int) error {
	return sandbox.Errorf(sandbox.ErrPrecondition, "the audit log in %s was written by a newer Berth (format %d, this one knows %d)", path, version, Version).
		WithHint("use the newer berth")
}

// isMissing reports whether there is no file.
func isMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// errNoFile: what is there is no regular file.
var errNoFile = errors.New("it is no file")

// openFile opens a regular file for reading. Anything else in its place, such
// as a symlink or a pipe, is errNoFile and is not waited for.
func openFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|noFollow, 0)
	if errors.Is(err, errLoop) {
		return nil, errNoFile
	} else if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		_ = f.Close()
		return nil, errNoFile
	}
	return f, nil
}
