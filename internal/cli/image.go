package cli

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"berth.dev/internal/image"
)

func newImageCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Bring in and list images for --template",
		Args:  wants(0, 0),
		RunE:  func(cmd *cobra.Command, args []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newImageImportCommand(a), newImageLsCommand(a), newImageRmCommand(a))
	return cmd
}

func newImageImportCommand(a *app) *cobra.Command {
	o := image.ImportOptions{}
	cmd := &cobra.Command{
		Use:   "import [flags] FILE",
		Short: "Bring in the images of an archive: an OCI layout, or what docker save writes",
		Args:  wants(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := a.manager()
			if err != nil {
				return err
			}
			images, err := m.Images().Import(cmd.Context(), a.abs(args[0]), o)
			if err != nil {
				return err
			}
			for _, img := range images {
				name := img.Digest
				if len(img.Refs) > 0 {
					name = strings.Join(img.Refs, "\n")
				}
				fmt.Fprintln(a.Out, name)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&o.Ref, "name", "", "name of the image, instead of the archive's own")
	return cmd
}

// imageJSON is how --json prints an image.
type imageJSON struct {
	Refs    []string  `json:"refs"`
	Digest  string    `json:"digest"`
	Size    int64     `json:"size"`
	Created time.Time `json:"created"`
}

func newImageLsCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "List the images",
		Args:  wants(0, 0),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := a.manager()
			if err != nil {
				return err
			}
			images, err := m.Images().List()
			if err != nil {
				return err
			}
			if a.json {
				all := []imageJSON{}
				for _, img := range images {
					all = append(all, imageJSON{img.Refs, img.Digest, img.Size, img.Created})
				}
				return printJSON(a.Out, all)
			}
			w := tabwriter.NewWriter(a.Out, 0, 0, 3, ' ', 0)
			fmt.Fprintln(w, "NAME\tDIGEST\tSIZE\tCREATED")
			for _, img := range images {
				for _, ref := range img.Refs {
					fmt.Fprintf(w, "%s\t%.19s\t%s\t%s\n", ref, img.Digest, size(img.Size), ago(time.Since(img.Created)))
				}
			}
			return w.Flush()
		},
	}
}

func newImageRmCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "rm NAME...",
		Short: "Remove images; sandboxes keep what they need of them",
		Args:  wants(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := a.manager()
			if err != nil {
				return err
			}
			err = a.each(args, m.Images().Untag)
			if _, cerr := m.Collect(cmd.Context()); err == nil {
				err = cerr
			}
			return err
		},
	}
}

// size is a number of bytes for people.
func size(n int64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%d GB", n>>30)
	case n >= 10<<20:
		return fmt.Sprintf("%d MB", n>>20)
	}
	return fmt.Sprintf("%d KB", (n+1023)>>10)
}
