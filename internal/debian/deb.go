package debian

import (
	"archive/tar"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"berth.dev/internal/sandbox"
)

// Bounds of a .deb file.
const (
	maxControlTar = 128 << 20
	maxDataTar    = 16 << 30
)

// deb is a .deb file (deb(5)) with its control part read.
type deb struct {
	Package
	control stanza
	members []controlMember
	modTime time.Time // of the control part, for files made for the package
}

// controlMember is a file of the control part: a maintainer script, md5sums,
// conffiles, ...
type controlMember struct {
	name string
	mode int64
	data []byte
}

// member returns a control file's content, nil when there is none.
func (d *deb) member(name string) []byte {
	for _, m := range d.members {
		if m.name == name {
			return m.data
		}
	}
	return nil
}

// openDeb reads the control part of a verified .deb and holds it against what
// the index said.
func openDeb(r io.ReaderAt, p Package) (*deb, error) {
	control, _, err := splitDeb(r, p.Size)
	if err != nil {
		return nil, err
	}
	d := &deb{Package: p}
	if err := d.readControl(control); err != nil {
		return nil, fmt.Errorf("read %s: %w", control.name, err)
	}
	for _, f := range []struct{ field, want string }{{"Package", p.Name}, {"Version", p.Version}, {"Architecture", p.Arch}} {
		if got := d.control.get(f.field); got != f.want {
			return nil, sandbox.Errorf(sandbox.ErrInvalid, "its control file says %s: %q, the index %q", f.field, got, f.want)
		}
	}
	return d, nil
}

// splitDeb finds the parts: debian-binary, control.tar.*, data.tar.*, in this
// order; members with a leading underscore may be anywhere (deb(5)).
func splitDeb(r io.ReaderAt, size int64) (control, data arMember, err error) {
	members, err := readAR(r, size)
	if err != nil {
		return control, data, err
	}
	members = slices.DeleteFunc(members, func(m arMember) bool { return strings.HasPrefix(m.name, "_") })
	if len(members) < 3 || members[0].name != "debian-binary" ||
		!strings.HasPrefix(members[1].name, "control.tar") || !strings.HasPrefix(members[2].name, "data.tar") {
		return control, data, sandbox.Errorf(sandbox.ErrInvalid, "it has not the parts of a .deb file")
	}
	version := make([]byte, 2)
	if _, err := members[0].data.ReadAt(version, 0); err != nil || string(version) != "2." {
		return control, data, sandbox.Errorf(sandbox.ErrInvalid, "its format is not 2.x")
	}
	return members[1], members[2], nil
}

func (d *deb) readControl(m arMember) error {
	plain, err := decompress(m.data, path.Ext(m.name), maxControlTar)
	if err != nil {
		return err
	}
	defer plain.Close()
	tr := tar.NewReader(plain)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg {
			continue // the folder itself
		}
		name := path.Clean(h.Name)
		if strings.Contains(name, "/") || strings.HasPrefix(name, ".") {
			return sandbox.Errorf(sandbox.ErrInvalid, "control file %q does not lie at the top", h.Name)
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			return err
		}
		if h.ModTime.After(d.modTime) {
			d.modTime = h.ModTime
		}
		d.members = append(d.members, controlMember{name, h.Mode & 0o755, data})
	}
	stanzas, err := parseStanzas(d.member("control"))
	if err != nil {
		return err
	}
	if len(stanzas) != 1 {
		return sandbox.Errorf(sandbox.ErrInvalid, "it has no control file")
	}
	d.control = stanzas[0]
	return nil
}

// infoName is the beginning of the package's file names in dpkg's database:
// with the architecture where several may be installed side by side.
func (d *deb) infoName() string {
	if d.control.get("Multi-Arch") == "same" {
		return d.Name + ":" + d.Arch
	}
	return d.Name
}

// conffiles returns the configuration files that the package ships, as
// absolute clean paths.
func (d *deb) conffiles() []string {
	var all []string
	for line := range strings.SplitSeq(string(d.member("conffiles")), "\n") {
		// "remove-on-upgrade /path" names one that is shipped no more.
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "/") {
			all = append(all, path.Clean(line))
		}
	}
	return all
}

// openData opens the files of a .deb as an uncompressed tar stream.
func openData(r io.ReaderAt, size int64) (io.ReadCloser, error) {
	_, data, err := splitDeb(r, size)
	if err != nil {
		return nil, err
	}
	return decompress(data.data, path.Ext(data.name), maxDataTar)
}
