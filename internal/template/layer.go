package template

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
)

// producer writes a tar to w.
type producer func(w io.Writer) error

// consumer reads a tar to its end.
type consumer func(r io.Reader) error

// pipe joins the two. The first error of either ends both.
func pipe(from producer, to consumer) error {
	r, w := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := from(w)
		w.CloseWithError(err)
		written <- err
	}()
	err := to(r)
	r.CloseWithError(err)
	if werr := <-written; werr != nil && !errors.Is(werr, io.ErrClosedPipe) {
		return werr // the cause: the reader only saw it
	}
	return err
}

// keeper says whether an entry of a builder's layer belongs to the image.
type keeper func(name string, h *tar.Header) bool

// filtered is the sandbox's layer with what keep lets through. The tar is the
// guest's work as far as names and content go: nothing is unpacked here, and
// package image checks what comes out.
func filtered(ctx context.Context, sb Sandbox, keep keeper) producer {
	return func(w io.Writer) error {
		return pipe(
			func(w io.Writer) error { return sb.Layer(ctx, w) },
			func(r io.Reader) error { return filter(r, w, keep) },
		)
	}
}

func filter(r io.Reader, w io.Writer, keep keeper) error {
	in, out := tar.NewReader(r), tar.NewWriter(w)
	gone := map[string]bool{}
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read the builder's layer: %w", err)
		}
		name := path.Clean("/" + h.Name)
		// The engine writes one whiteout as a device and the others as links to
		// it, and that one may be left out.
		if h.Typeflag == tar.TypeLink && gone[path.Clean("/"+h.Linkname)] {
			h.Typeflag, h.Linkname = tar.TypeChar, ""
		}
		if isWhiteout(h) {
			gone[name] = true
		}
		if !keep(name, h) {
			continue
		}
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(out, in); err != nil {
			return err
		}
	}
	// What writes the tar may write padding after its end.
	if _, err := io.Copy(io.Discard, r); err != nil {
		return err
	}
	return out.Close()
}

// inDir reports whether a clean path lies below a folder.
func inDir(name, dir string) bool { return strings.HasPrefix(name, dir+"/") }

// baseOnly keeps what a base is to hand on: not what belongs to the sandbox
// that it was built in, above all its name, addresses and temporary files.
func baseOnly(name string, h *tar.Header) bool {
	switch name {
	case "/etc/hosts", "/etc/hostname", "/etc/resolv.conf":
		return false
	}
	for _, dir := range []string{"/run", "/tmp", "/var/tmp", "/var/lib/berth", "/proc", "/sys", "/dev", "/.berth"} {
		if inDir(name, dir) {
			return dir == "/run" && name == "/run/lock" && h.Typeflag == tar.TypeDir
		}
	}
	return name != "/.berth" && name != "/var/lib/berth"
}

// agentOnly keeps what lies in an agent's folder, and the folders it is in. A
// whiteout hides something of the image's, and there is nothing of it in there.
func agentOnly(dir string) keeper {
	return func(name string, h *tar.Header) bool {
		return !isWhiteout(h) && (name == dir || inDir(name, dir)) || h.Typeflag == tar.TypeDir && inDir(dir, name)
	}
}

// isWhiteout reports whether an entry hides a file of the layers below, as
// overlayfs has it.
func isWhiteout(h *tar.Header) bool {
	return h.Typeflag == tar.TypeChar && h.Devmajor == 0 && h.Devminor == 0
}
