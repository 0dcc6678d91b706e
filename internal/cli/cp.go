package cli

import (
	"context"
	"errors"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/pkg/sftp"
	"github.com/spf13/cobra"

	"berth.dev/internal/cli/filecopy"
	"berth.dev/internal/sandbox"
)

type cpOptions struct {
	User  string
	Quiet bool
}

func newCpCommand(a *app) *cobra.Command {
	o := &cpOptions{}
	cmd := &cobra.Command{
		Use:   "cp [flags] SRC DST",
		Short: "Copy files and folders between this machine and a sandbox",
		Long: `Copy a file or folder. One of SRC and DST is SANDBOX:PATH, the other a path here,
or - for a tar archive on standard input or output. A relative PATH starts at
the sandbox's home folder. Where a copy goes follows the rules of docker cp.`,
		Example: `  berth cp ./data claude-app:/tmp
  berth cp claude-app:/var/log/dockerd.log .
  berth cp claude-app:/etc - | tar t`,
		Args: wants(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runCp(cmd.Context(), o, args[0], args[1])
		},
	}
	cmd.Flags().StringVarP(&o.User, "user", "u", "", "whose files they are in the sandbox (default its user)")
	cmd.Flags().BoolVarP(&o.Quiet, "quiet", "q", false, "no notes")
	return cmd
}

// guestPath splits SANDBOX:PATH. A word that begins as a path does is none.
func guestPath(word string) (name, p string, ok bool) {
	if strings.HasPrefix(word, "/") || strings.HasPrefix(word, ".") || word == "-" {
		return "", "", false
	}
	name, p, ok = strings.Cut(word, ":")
	return name, p, ok && sandbox.CheckName(name) == nil
}

// inGuest is a path in the guest, absolute, with the trailing "/." that means
// a folder's content kept.
func inGuest(p string) string {
	full := p
	if !path.IsAbs(p) {
		full = sandbox.UserHome + "/" + p
	}
	clean := path.Clean(full)
	if strings.HasSuffix(full, "/.") && clean != "/" {
		clean += "/."
	}
	return clean
}

func (a *app) runCp(ctx context.Context, o *cpOptions, src, dst string) error {
	from, fromPath, out := guestPath(src)
	to, toPath, in := guestPath(dst)
	if out == in {
		return sandbox.Errorf(sandbox.ErrInvalid, "one of %q and %q has to be SANDBOX:PATH", src, dst).
			WithHint("berth cp FILE SANDBOX:PATH, or berth cp SANDBOX:PATH FILE")
	}
	m, err := a.manager()
	if err != nil {
		return err
	}
	b, err := m.Find(from + to)
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
	defer files.Close()
	skipped := func(p string) { a.note("%s is no file, folder or link and was left out", p) }
	if out {
		return a.copyOut(ctx, files, inGuest(fromPath), dst, skipped)
	}
	return a.copyIn(ctx, files, src, inGuest(toPath), skipped)
}

func (a *app) copyOut(ctx context.Context, files *sftp.Client, src, dst string, skipped func(string)) error {
	root := strings.TrimSuffix(src, "/.")
	kind, err := filecopy.GuestKind(files, root, false)
	if err != nil {
		return err
	}
	if kind == filecopy.Missing {
		return sandbox.Errorf(sandbox.ErrNotFound, "there is no %s in the sandbox", root)
	}
	if dst == "-" {
		name := path.Base(root)
		if src != root {
			name = ""
		}
		return filecopy.Copy(ctx, filecopy.FromGuest(files, root), filecopy.ToTar(a.Out, name), skipped)
	}
	where, err := filecopy.Place(src, kind == filecopy.Dir, a.hostPath(dst), hostKind(a.abs(dst)))
	if err != nil {
		return err
	}
	target, err := filecopy.ToHost(where)
	if err != nil {
		return err
	}
	return filecopy.Copy(ctx, filecopy.FromGuest(files, root), target, skipped)
}

func (a *app) copyIn(ctx context.Context, files *sftp.Client, src, dst string, skipped func(string)) error {
	kind, err := filecopy.GuestKind(files, dst, true)
	if err != nil {
		return err
	}
	if src == "-" {
		if kind != filecopy.Dir {
			return sandbox.Errorf(sandbox.ErrNotFound, "there is no folder %s in the sandbox to unpack an archive into", dst)
		}
		return filecopy.Copy(ctx, filecopy.FromTar(a.In), filecopy.ToGuest(files, dst), skipped)
	}
	host := a.hostPath(src)
	root := filepath.Clean(host)
	info, err := os.Lstat(root)
	if err != nil {
		return sandbox.Errorf(sandbox.ErrNotFound, "there is no %s: %w", root, errors.Unwrap(err))
	}
	where, err := filecopy.Place(host, info.IsDir(), dst, kind)
	if err != nil {
		return err
	}
	return filecopy.Copy(ctx, filecopy.FromHost(root), filecopy.ToGuest(files, where), skipped)
}

// hostPath is a path here, absolute, with what docker cp looks at kept: a
// trailing slash, or "/." for a folder's content.
func (a *app) hostPath(p string) string {
	clean := a.abs(p)
	for _, end := range []string{"/.", "/"} {
		if (strings.HasSuffix(p, end) || p == ".") && clean != "/" && !(p == "." && end == "/") {
			return clean + end
		}
	}
	return clean
}

func hostKind(p string) filecopy.Kind {
	info, err := os.Stat(p)
	if err != nil {
		return filecopy.Missing
	}
	return filecopy.KindOf(info.Mode())
}
