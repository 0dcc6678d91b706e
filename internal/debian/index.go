package debian

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"

	"berth.dev/internal/sandbox"
)

// Bounds of an index and of what it may say of a package.
const (
	maxIndex       = 1 << 30 // bytes, decompressed; Debian's main has 57 MB
	maxPackages    = 1 << 20
	maxPackageSize = 8 << 30
)

// candidate is one package of an index, its relations still unparsed: of
// 70,000 only a hundred or so are ever looked at.
type candidate struct {
	Package
	essential  bool
	priority   string
	preDepends string
	depends    string
	provides   string
	conflicts  string
	breaks     string
}

// indexFields are the fields of a Packages file that are kept.
var indexFields = map[string]bool{
	"Package": true, "Version": true, "Architecture": true, "Essential": true, "Priority": true,
	"Pre-Depends": true, "Depends": true, "Provides": true, "Conflicts": true, "Breaks": true,
	"Filename": true, "Size": true, "SHA256": true, "Installed-Size": true,
}

// loadIndexes fetches the package indexes of all components of a suite.
func loadIndexes(ctx context.Context, c cache, f fetcher, r release, arch string, moved func(int64), add func(candidate)) error {
	for _, component := range r.archive.Components {
		file, b, err := r.index(component, arch)
		if err != nil {
			return err
		}
		uri := r.dist(file)
		if err := fetchIndex(ctx, c, f, r, file, b, moved); err != nil {
			return err
		}
		in, err := c.open(b)
		if err != nil {
			return err
		}
		err = readIndex(ctx, in, path.Ext(file), r.archive.URI, arch, add)
		in.Close()
		if err != nil {
			return fmt.Errorf("read %s: %w", redact(uri), err)
		}
	}
	return nil
}

// index picks the best form of a component's index that Release lists.
func (r release) index(component, arch string) (file string, b blob, err error) {
	base := component + "/binary-" + arch + "/Packages"
	for _, ext := range []string{".xz", ".gz", ""} {
		if b, ok := r.files[base+ext]; ok {
			return base + ext, b, nil
		}
	}
	return "", blob{}, sandbox.Errorf(sandbox.ErrUnavailable, "%s lists no %s", redact(r.dist("Release")), base)
}

// fetchIndex brings an index into the cache, by its hash where the archive
// offers that: while a mirror is being updated the plain name may already mean
// the next version.
func fetchIndex(ctx context.Context, c cache, f fetcher, r release, file string, b blob, moved func(int64)) error {
	if b.size > maxIndex {
		return sandbox.Errorf(sandbox.ErrInvalid, "%s is said to have %d bytes", redact(r.dist(file)), b.size)
	}
	if r.byHash {
		err := c.fetch(ctx, f, r.dist(path.Dir(file)+"/by-hash/SHA256/"+b.sha256), b, moved)
		if !errors.Is(err, sandbox.ErrNotFound) {
			return err
		}
	}
	return c.fetch(ctx, f, r.dist(file), b, moved)
}

// readIndex parses a verified index and hands over each package for the
// architecture. root is the archive that the file names are relative to.
func readIndex(ctx context.Context, in *os.File, ext, root, arch string, add func(candidate)) error {
	plain, err := decompress(in, ext, maxIndex)
	if err != nil {
		return err
	}
	defer plain.Close()
	r := newStanzaReader(plain)
	r.keep = func(name []byte) bool { return indexFields[string(name)] }
	for n := 0; ; n++ {
		s, err := r.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if n&1023 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if n >= maxPackages {
			return sandbox.Errorf(sandbox.ErrInvalid, "it has more than %d packages", maxPackages)
		}
		p, err := parseCandidate(s, root)
		if err != nil {
			return err
		}
		if p.Arch == arch || p.Arch == "all" {
			add(p)
		}
	}
}

func parseCandidate(s stanza, root string) (candidate, error) {
	var p candidate
	var file string
	for _, f := range s {
		switch f.name {
		case "Package":
			p.Name = f.value
		case "Version":
			p.Version = f.value
		case "Architecture":
			p.Arch = f.value
		case "Essential":
			p.essential = f.value == "yes"
		case "Priority":
			p.priority = f.value
		case "Pre-Depends":
			p.preDepends = f.value
		case "Depends":
			p.depends = f.value
		case "Provides":
			p.provides = f.value
		case "Conflicts":
			p.conflicts = f.value
		case "Breaks":
			p.breaks = f.value
		case "Filename":
			file = f.value
		case "SHA256":
			p.SHA256 = f.value
		case "Size":
			p.Size, _ = strconv.ParseInt(f.value, 10, 64)
		case "Installed-Size": // in units of 1024 bytes; it may be absent
			n, _ := strconv.ParseInt(f.value, 10, 64)
			p.InstalledSize = min(max(n, 0), maxPackageSize>>10) << 10
		}
	}
	if what := p.fault(file); what != "" {
		return p, sandbox.Errorf(sandbox.ErrInvalid, "package %q: %s", p.Name, what)
	}
	p.URI = root + "/" + strings.TrimPrefix(file, "./")
	return p, nil
}

// fault says what is wrong with a package of an index, "" when nothing is: its
// words become file names and URIs.
func (p *candidate) fault(file string) string {
	switch {
	case !validPackageName(p.Name):
		return "its name is not one"
	case checkVersion(p.Version) != nil:
		return "its version is not one"
	case !validArch(p.Arch):
		return "its architecture is not one"
	case !validSum(p.SHA256):
		return "it has no SHA256"
	case p.Size <= 0 || p.Size > maxPackageSize:
		return "it has no size"
	case file == "" || path.Clean("/"+file) != "/"+strings.TrimPrefix(file, "./") || strings.ContainsAny(file, "?#\n"):
		return "its file name is not one"
	}
	return ""
}
