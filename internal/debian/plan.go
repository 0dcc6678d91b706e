package debian

import (
	"crypto/sha256"
	"fmt"
	"io"
)

// layerVersion counts what WriteLayer makes of the same packages; raise it
// with every change of that, and templates are built anew.
const layerVersion = 1

// Package is one package of a plan.
type Package struct {
	Name, Version string
	Arch          string // the plan's, or "all"
	SHA256        string // of the .deb, lower case hex
	Size          int64  // of the .deb, bytes
	InstalledSize int64  // as the archive estimates it, bytes
	// URI is where the .deb comes from; it may hold a password.
	URI string
}

func (p Package) blob() blob { return blob{p.SHA256, p.Size} }

// Plan is a resolved base system: exactly these packages.
type Plan struct {
	Distribution, Codename string
	Arch                   string
	Packages               []Package // sorted by name

	source Source
}

// Digest identifies what WriteLayer and ConfigureScript make of the plan:
// "sha256:" and hex digits. It does not depend on the order in which, or the
// mirror from which, anything was found, but the guest is told of its mirror,
// and so that counts.
func (p Plan) Digest() string {
	h := sha256.New()
	fmt.Fprintf(h, "berth debian layer %d\n%s %s %s\n", layerVersion, p.Distribution, p.Codename, p.Arch)
	for _, k := range p.Packages {
		fmt.Fprintf(h, "%s=%s:%s=%s\n", k.Name, k.Version, k.Arch, k.SHA256)
	}
	for _, f := range p.guestFiles() {
		fmt.Fprintf(h, "%s %o %d\n", f.name, f.mode, len(f.data))
		_, _ = h.Write(f.data) // a hash never fails
	}
	_, _ = io.WriteString(h, p.ConfigureScript())
	return "sha256:" + hexSum(h)
}

// DownloadSize is the size of all .deb files, bytes; what the cache has
// already counts.
func (p Plan) DownloadSize() (n int64) {
	for _, k := range p.Packages {
		n += k.Size
	}
	return n
}

// InstalledSize is what the unpacked packages take, as the archive estimates
// it, bytes.
func (p Plan) InstalledSize() (n int64) {
	for _, k := range p.Packages {
		n += k.InstalledSize
	}
	return n
}
