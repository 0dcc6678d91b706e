package debian

import (
	"bytes"
	"io"
	"strconv"
	"strings"

	"berth.dev/internal/sandbox"
)

// arMember is one file of an ar archive.
type arMember struct {
	name string
	data *io.SectionReader
}

// maxARMembers: a .deb has three; deb(5) allows more at the end.
const maxARMembers = 64

// readAR lists the members of an ar archive of the common form that .deb files
// have (deb(5)): no long names, sizes in decimal.
func readAR(r io.ReaderAt, size int64) ([]arMember, error) {
	bad := func(what string) ([]arMember, error) {
		return nil, sandbox.Errorf(sandbox.ErrInvalid, "ar archive: %s", what)
	}
	const magic, headerSize = "!<arch>\n", 60
	head := make([]byte, len(magic))
	if _, err := r.ReadAt(head, 0); err != nil || string(head) != magic {
		return bad("it does not begin as one")
	}
	var all []arMember
	for off := int64(len(magic)); off < size; {
		var h [headerSize]byte
		if n, err := r.ReadAt(h[:], off); n < headerSize {
			if err == io.EOF {
				return bad("it ends in the middle of a header")
			}
			return nil, err
		}
		if string(h[58:60]) != "`\n" {
			return bad("a header is damaged")
		}
		length, err := strconv.ParseUint(string(bytes.TrimSpace(h[48:58])), 10, 62)
		if err != nil {
			return bad("a member's size is no number")
		}
		off += headerSize
		if int64(length) > size-off {
			return bad("it ends in the middle of a member")
		}
		if len(all) >= maxARMembers {
			return bad("it has too many members")
		}
		name := strings.TrimSuffix(strings.TrimRight(string(h[:16]), " "), "/")
		all = append(all, arMember{name, io.NewSectionReader(r, off, int64(length))})
		off += int64(length) + int64(length)&1 // members begin at even offsets
	}
	return all, nil
}
