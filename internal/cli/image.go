package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"berth.dev/internal/image"
	"berth.dev/internal/sandbox"
)

func newImageCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Bring in images and look after them",
		Long: `Images are what sandboxes can start from: templates, and what was brought in.
Any of them can be named with run --template.`,
		Args: cobra.ArbitraryArgs,
		RunE: groupOnly,
	}
	cmd.AddCommand(newImageImportCommand(a), newImageLsCommand(a), newImageRmCommand(a))
	return cmd
}

type imageImportOptions struct {
	Name  string
	Quiet bool
}

func newImageImportCommand(a *app) *cobra.Command {
	o := &imageImportOptions{}
	cmd := &cobra.Command{
		Use:   "import [flags] FILE",
		Short: "Bring in images from an OCI or docker save archive",
		Example: `  docker save my-image | gzip > my-image.tar.gz
  berth image import my-image.tar.gz
  berth run --template my-image claude`,
		Args: wants(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runImageImport(cmd.Context(), args[0], o)
		},
	}
	cmd.Flags().StringVar(&o.Name, "name", "", "name for the image, instead of what the archive says")
	cmd.Flags().BoolVarP(&o.Quiet, "quiet", "q", false, "no progress")
	return cmd
}

func (a *app) runImageImport(ctx context.Context, file string, o *imageImportOptions) error {
	m, err := a.manager()
	if err != nil {
		return err
	}
	d := a.progress(o.Quiet)
	defer d.end()
	images, err := m.Images().Import(ctx, a.abs(file), image.ImportOptions{Ref: o.Name, Progress: d.bytes("check the layers")})
	if err != nil {
		return err
	}
	for _, img := range images {
		if err := a.unpack(ctx, m, img, d); err != nil {
			return err
		}
	}
	d.end()
	for _, img := range images {
		fmt.Fprintln(a.Out, imageName(img))
	}
	return nil
}

// bytes is the progress of one step that is counted in bytes.
func (d *display) bytes(step string) image.Progress {
	return func(done, total int64) {
		if d != nil {
			d.step(step)
			d.advance(done, total, "")
		}
	}
}

func imageName(img image.Image) string {
	if len(img.Refs) > 0 {
		return img.Refs[0]
	}
	return img.Digest
}

// listedImage is one image as `berth image ls --json` prints it.
type listedImage struct {
	Digest  string    `json:"digest"`
	Names   []string  `json:"names"`
	Size    int64     `json:"size"` // bytes of its layers, shared ones included
	Created time.Time `json:"created,omitzero"`
}

func newImageLsCommand(a *app) *cobra.Command {
	var quiet bool
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the images",
		Args:    wants(0, 0),
		RunE:    func(*cobra.Command, []string) error { return a.runImageLs(quiet) },
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "only names")
	return cmd
}

func (a *app) runImageLs(quiet bool) error {
	m, err := a.manager()
	if err != nil {
		return err
	}
	images, err := m.Images().List()
	if err != nil {
		return err
	}
	all := []listedImage{}
	rows := [][]string{{"NAME", "DIGEST", "SIZE", "CREATED"}}
	for _, img := range images {
		if quiet {
			fmt.Fprintln(a.Out, imageName(img))
		}
		all = append(all, listedImage{img.Digest, img.Refs, img.Size, img.Created})
		rows = append(rows, []string{strings.Join(img.Refs, ", "), shortDigest(img.Digest), size(img.Size), ago(img.Created, time.Now())})
	}
	switch {
	case quiet:
		return nil
	case a.json:
		return printJSON(a.Out, all)
	}
	return table(a.Out, rows)
}

func newImageRmCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "rm IMAGE...",
		Aliases:           []string{"remove"},
		Short:             "Remove the names of images, and what nothing needs any more",
		Args:              wants(1, -1),
		ValidArgsFunction: a.completeImages,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runImageRm(cmd.Context(), args)
		},
	}
}

func (a *app) runImageRm(ctx context.Context, names []string) error {
	m, err := a.manager()
	if err != nil {
		return err
	}
	err = a.each(names, func(name string) error {
		err := m.Images().Untag(name)
		if !errors.Is(err, sandbox.ErrNotFound) {
			return err
		}
		img, lerr := m.Images().Lookup(name) // by its digest
		if lerr != nil {
			return lerr
		}
		if len(img.Refs) == 0 {
			return err
		}
		for _, ref := range img.Refs {
			if err := m.Images().Untag(ref); err != nil {
				return err
			}
		}
		return nil
	})
	if _, cerr := m.Collect(ctx); err == nil {
		err = cerr
	}
	return err
}
