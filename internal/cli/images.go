package cli

import (
	"context"

	"berth.dev/internal/image"
	"berth.dev/internal/manager"
	"berth.dev/internal/sandbox"
	"berth.dev/internal/template"
)

func (a *app) templates(m *manager.Manager) *template.Builder {
	return template.New(m, a.dirs, a.getenv)
}

// withImage finds the image that a new sandbox starts from: the one that the
// user named, or the agent's template, which is built when there is none.
func (a *app) withImage(ctx context.Context, m *manager.Manager, spec sandbox.Spec, quiet bool) (sandbox.Spec, error) {
	d := a.progress(quiet)
	defer d.end()
	var img image.Image
	var err error
	if spec.Template != "" {
		img, err = a.templates(m).WithAgent(ctx, spec.Template, spec.Agent, d.template())
	} else {
		spec.Template = template.Ref(spec.Agent)
		img, err = a.templates(m).Ensure(ctx, spec.Agent, d.template())
	}
	if err != nil {
		return spec, err
	}
	spec.Image = img.Digest
	return spec, a.unpack(ctx, m, img, d)
}

// unpack makes the file that machines mount of an image, when there is none
// yet, and keeps the image from being collected until this command ends.
func (a *app) unpack(ctx context.Context, m *manager.Manager, img image.Image, d *display) error {
	_, err := m.Images().Root(ctx, img, d.bytes("prepare the image"))
	return err
}
