package cli

import (
	"bufio"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/pkg/sftp"
	"github.com/spf13/cobra"

	"berth.dev/internal/cli/filecopy"
	"berth.dev/internal/guestapi"
	"berth.dev/internal/sandbox"
	"berth.dev/internal/terminal"
)

type cpOptions struct {
	Follow bool
	User   string
	Quiet  bool
}

func newCpCommand(a *app) *cobra.Command {
	o := &cpOptions{}
	cmd := &cobra.Command{
		Use:   "cp [flags] SRC DST",
		Short: "Copy files between this machine and a sandbox",
		Long: `Copy a file or a folder. One of SRC and DST is SANDBOX:PATH, a path in a sandbox,
relative ones from its home folder; the other is a path here, or - for a tar
archive on standard input or output.

A file goes into a folder that exists, or becomes DST. A folder goes into a
folder that exists, or becomes DST; with /. at the end of SRC it is its content
that goes. Modes and times are kept, links are copied as links.`,
		Example: `  berth cp notes.md claude-app:docs/
  berth cp claude-app:/etc/apt ./apt
  berth cp claude-app:/var/log/. - | tar t`,
		Args: wants(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runCp(cmd.Context(), o, args[0], args[1])
		},
	}
	cmd.Flags().BoolVarP(&o.Follow, "follow-link", "L", false, "when SRC is a link, copy what it leads to")
	cmd.Flags().StringVarP(&o.User, "user", "u", "", "read or write as this `USER` of the sandbox (default agent)")
	cmd.Flags().BoolVarP(&o.Quiet, "quiet", "q", false, "no notes")
	return cmd
}

// place is SRC or DST.
type place struct {
	Sandbox string // "" for this machine
	Path    string
}

// parsePlace reads [SANDBOX:]PATH. What has a slash before its first colon, or
// is no name, is a path of this machine's.
func parsePlace(arg string) place {
	name, p, found := strings.Cut(arg, ":")
	if !found || sandbox.CheckName(name) != nil {
		return place{Path: arg}
	}
	return place{Sandbox: name, Path: p}
}

func (a *app) runCp(ctx context.Context, o *cpOptions, from, to string) error {
	src, dst := parsePlace(from), parsePlace(to)
	if (src.Sandbox == "") == (dst.Sandbox == "") {
		return sandbox.Errorf(sandbox.ErrInvalid, "one of %q and %q must be in a sandbox, and the other here", from, to).
			WithHint("berth cp notes.md NAME:docs/, or berth cp NAME:docs ./docs; a file here whose name holds a colon is ./NAME")
	}
	if src.Path == "" && src.Sandbox == "" || dst.Path == "" && dst.Sandbox == "" {
		return sandbox.Errorf(sandbox.ErrInvalid, "a path is missing").WithHint("the folder that you are in is .")
	}
	m, err := a.manager()
	if err != nil {
		return err
	}
	b, err := m.Find(src.Sandbox + dst.Sandbox)
	if err != nil {
		return err
	}
	g, err := a.guest(ctx, m, b, o.Quiet)
	if err != nil {
		return err
	}
	defer g.Close()
	files, err := g.SFTP(ctx, o.User)
	if err != nil {
		return err
	}
	// SFTP has no contexts: a connection that is gone ends whatever waits.
	defer context.AfterFunc(ctx, func() { g.Close() })()
	defer files.Close()
	c := copying{app: a, o: o, files: files}
	if src.Sandbox != "" {
		err = c.out(ctx, guestPath(src.Path), dst.Path)
	} else {
		err = c.in(ctx, src.Path, guestPath(dst.Path))
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// guestPath makes a path of a sandbox absolute. A slash or /. at its end is
// kept: it has a meaning.
func guestPath(p string) string {
	full := p
	switch {
	case p == "":
		return sandbox.UserHome
	case p == "~" || strings.HasPrefix(p, "~/"):
		full = sandbox.UserHome + p[1:]
	case !path.IsAbs(p):
		full = sandbox.UserHome + "/" + p
	}
	clean := path.Clean(full)
	if clean != "/" && (strings.HasSuffix(full, "/.") || p == ".") {
		return clean + "/."
	}
	if clean != "/" && strings.HasSuffix(full, "/") {
		return clean + "/"
	}
	return clean
}

// copying is one berth cp.
type copying struct {
	*app
	o     *cpOptions
	files *sftp.Client
}

// out copies from the sandbox.
func (c copying) out(ctx context.Context, src, dst string) error {
	follow := c.o.Follow || strings.HasSuffix(src, "/") || strings.HasSuffix(src, "/.")
	kind, err := filecopy.GuestKind(c.files, path.Clean(src), follow)
	if err != nil {
		return err
	}
	switch kind {
	case filecopy.Missing:
		return sandbox.Errorf(sandbox.ErrNotFound, "there is no %s in the sandbox", guestapi.Printable(src, 256))
	case filecopy.Other:
		// A link is of that kind, too, and is copied as it is.
		if info, err := c.files.Lstat(path.Clean(src)); err != nil || info.Mode().Type() != fs.ModeSymlink {
			return sandbox.Errorf(sandbox.ErrInvalid, "%s in the sandbox is neither a file nor a folder", guestapi.Printable(src, 256))
		}
	}
	root := path.Clean(src)
	if follow {
		if root, err = c.files.RealPath(root); err != nil {
			return sandbox.Errorf(sandbox.ErrInternal, "resolve %s in the sandbox: %s", src, guestapi.Printable(err.Error(), 256))
		}
	}
	source := filecopy.FromGuest(c.files, root)
	if dst == "-" {
		if terminal.Is(c.Out) {
			return sandbox.Errorf(sandbox.ErrPrecondition, "an archive is not for a terminal").WithHint("redirect it into a file, or pipe it to tar")
		}
		return c.toTar(ctx, source, src)
	}
	if dst == "/dev/stdout" && kind == filecopy.File {
		return c.write(root, c.Out) // not the file behind it, beside this process
	}
	full := c.host(dst)
	at, err := filecopy.Place(src, kind == filecopy.Dir, full, hostKind(full))
	if err != nil {
		return err
	}
	if kind == filecopy.File && hostKind(at) == filecopy.Other {
		return c.toDevice(root, at)
	}
	target, err := filecopy.ToHost(filepath.Clean(at))
	if err != nil {
		return err
	}
	return filecopy.Copy(ctx, source, target, c.skipped)
}

func (c copying) toTar(ctx context.Context, source filecopy.Source, src string) error {
	name := path.Base(path.Clean(src))
	if strings.HasSuffix(src, "/.") || name == "/" {
		name = ""
	}
	w := bufio.NewWriterSize(c.Out, 64<<10)
	err := filecopy.Copy(ctx, source, filecopy.ToTar(w, name), c.skipped)
	return errors.Join(err, w.Flush())
}

// toDevice writes into what is no file and no folder, such as a pipe.
func (c copying) toDevice(src, dst string) error {
	w, err := os.OpenFile(dst, os.O_WRONLY, 0)
	if err != nil {
		return sandbox.Errorf(sandbox.ErrInvalid, "write: %w", err)
	}
	return errors.Join(c.write(src, w), w.Close())
}

// write copies one file of the sandbox's to w.
func (c copying) write(src string, w io.Writer) error {
	r, err := c.files.Open(src)
	if err == nil {
		_, err = r.WriteTo(w)
		err = errors.Join(err, r.Close())
	}
	if err != nil {
		return sandbox.Errorf(sandbox.ErrInvalid, "copy %s out of the sandbox: %s", guestapi.Printable(src, 256), guestapi.Printable(err.Error(), 256))
	}
	return nil
}

// in copies into the sandbox.
func (c copying) in(ctx context.Context, src, dst string) error {
	kind, err := filecopy.GuestKind(c.files, path.Clean(dst), true)
	if err != nil {
		return err
	}
	if src == "-" {
		if kind != filecopy.Dir {
			return sandbox.Errorf(sandbox.ErrInvalid, "an archive is unpacked into a folder, and %s in the sandbox is none", guestapi.Printable(dst, 256))
		}
		return filecopy.Copy(ctx, filecopy.FromTar(c.In), filecopy.ToGuest(c.files, path.Clean(dst)), c.skipped)
	}
	full := c.host(src)
	if c.o.Follow || strings.HasSuffix(full, "/") || strings.HasSuffix(full, "/.") {
		real, err := filepath.EvalSymlinks(full)
		if err != nil {
			return noSuch(src, err)
		}
		// Under the name that the user wrote.
		return c.send(ctx, real, full, dst, kind)
	}
	return c.send(ctx, filepath.Clean(full), full, dst, kind)
}

// send copies root, which the user knows as named.
func (c copying) send(ctx context.Context, root, named, dst string, kind filecopy.Kind) error {
	info, err := os.Lstat(root)
	if err != nil {
		return noSuch(named, err)
	}
	at, err := filecopy.Place(named, info.IsDir(), dst, kind)
	if err != nil {
		return err
	}
	return filecopy.Copy(ctx, filecopy.FromHost(root), filecopy.ToGuest(c.files, path.Clean(at)), c.skipped)
}

func noSuch(name string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return sandbox.Errorf(sandbox.ErrNotFound, "there is no %s here", name)
	}
	return sandbox.Errorf(sandbox.ErrInvalid, "copy: %w", err)
}

// host makes a path of this machine absolute, its meaningful end kept.
func (c copying) host(p string) string {
	full := c.abs(p)
	switch {
	case full == "/":
	case p == "." || p == ".." || strings.HasSuffix(p, "/.") || strings.HasSuffix(p, "/.."):
		full += "/."
	case strings.HasSuffix(p, "/"):
		full += "/"
	}
	return full
}

func hostKind(p string) filecopy.Kind {
	info, err := os.Stat(p)
	if err != nil {
		return filecopy.Missing
	}
	return filecopy.KindOf(info.Mode())
}

func (c copying) skipped(name string) {
	if !c.o.Quiet {
		c.note("left out, neither file nor folder nor link: %s", name)
	}
}
