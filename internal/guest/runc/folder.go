package runc

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"berth.dev/internal/guest/trust"
)

// makeFolder makes what a container finds at its folder of authorities. The
// bundle is the image's own with the sandbox's authority: what the image trusts
// and the sandbox does not stays so. An image without one is given the
// sandbox's, because the variables are there when a step installs one.
func (s system) makeFolder(dir, root string, java bool) error {
	ca, err := os.ReadFile(s.authority)
	if err != nil {
		return err
	}
	bundle, ok := imageBundle(root)
	if !ok {
		if bundle, err = os.ReadFile(s.bundle); err != nil {
			return err
		}
	}
	bundle = trust.Add(bundle, ca, nil)
	wget, _ := inRoot(root, "/etc/wgetrc") // none, for most
	files := map[string][]byte{
		authorityPEM: ca, bundlePEM: bundle, aptConf: []byte(aptConfiguration), wgetrc: append(wget, wgetConfiguration...),
	}
	if java {
		files[keyStore] = trust.KeyStore(trust.Certificates(bundle))
	}
	// A bundle is fresh; one that is not may be left over from a start.
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// imageBundle is what an image trusts, if it has that.
func imageBundle(root string) ([]byte, bool) {
	for _, name := range trust.Bundles() {
		if data, err := inRoot(root, name); err == nil {
			return data, true
		}
	}
	return nil, false
}

// maxLinks bounds the symbolic links on the way to a file, as the kernel does.
const maxLinks = 40

// inRoot reads a file of a container as the container sees it: no link leads
// out of its root. Nothing runs in there yet that could change what was seen.
func inRoot(root, name string) ([]byte, error) {
	at := "/"
	rest := strings.Split(name, "/")
	for links := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		next := filepath.Join(at, part) // ".." of the root is the root
		fi, err := os.Lstat(filepath.Join(root, next))
		if err != nil {
			return nil, err
		}
		if fi.Mode()&fs.ModeSymlink == 0 {
			at = next
			continue
		}
		if links++; links > maxLinks {
			return nil, fmt.Errorf("read %s: too many links", name)
		}
		target, err := os.Readlink(filepath.Join(root, next))
		if err != nil {
			return nil, err
		}
		if filepath.IsAbs(target) {
			at = "/"
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return readFile(filepath.Join(root, at), trust.MaxFile)
}
