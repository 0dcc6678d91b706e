// Package template makes the images that sandboxes start from, on this machine
// and from recipes: a base system out of the host's own archive, and one layer
// on top of it for each agent. Everything that is not unpacked in Go runs as
// steps inside a sandbox, so nothing here needs root or mounts on the host.
//
// It owns the recipes, the order of their steps, and what resumes where. It
// does not own images (package image), packages (package debian) or sandboxes
// (package manager), which it uses.
package template

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"berth.dev/internal/agent"
	"berth.dev/internal/debian"
	"berth.dev/internal/hostdir"
	"berth.dev/internal/image"
	"berth.dev/internal/manager"
	"berth.dev/internal/sandbox"
)

// Base is the template that all others stand on; it is also that of the shell.
const Base = "base"

// BuilderAgent marks the sandboxes that templates are built in; `berth ls`
// leaves them out.
const BuilderAgent = "template-builder"

// Labels of the images made here.
const (
	labelRecipe = "dev.berth.template.recipe" // digest of what made it
	labelName   = "dev.berth.template.name"
)

// Builder makes templates. It is safe for concurrent use, and several
// processes may build at once: one does, the others wait for it.
type Builder struct {
	m      *manager.Manager
	dirs   hostdir.Dirs
	getenv func(string) string
}

// New returns a builder that works with the manager's images and sandboxes.
func New(m *manager.Manager, dirs hostdir.Dirs, getenv func(string) string) *Builder {
	return &Builder{m: m, dirs: dirs, getenv: getenv}
}

// Event is progress. Of a step with a known size, Done and Total are bytes;
// Line is output; the last event of a step has Finished set.
type Event struct {
	Step        string
	Done, Total int64
	Line        string
	Finished    bool
	Elapsed     time.Duration
}

// Progress receives events, one call at a time. It may be nil.
type Progress func(Event)

func (p Progress) send(e Event) {
	if p != nil {
		p(e)
	}
}

// step runs f as a step that progress is told of.
func (p Progress) step(name string, f func() error) error {
	begun := time.Now()
	p.send(Event{Step: name})
	err := f()
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	p.send(Event{Step: name, Finished: true, Elapsed: time.Since(begun)})
	return nil
}

// Options say how to build.
type Options struct {
	// Again builds even what is there, with the newest packages.
	Again bool
	// From is an image in the store to build the base on, instead of the host's
	// archive; it has to have apt.
	From string
}

// Names are the templates that can be built.
func Names() []string {
	names := []string{Base}
	for _, a := range agent.All() {
		if a.Recipe != nil {
			names = append(names, a.Name)
		}
	}
	return names
}

// Ref is the image's name of a template; the shell's is the base.
func Ref(name string) string {
	if a, err := agent.Find(name); err == nil && a.Recipe == nil {
		name = Base
	}
	return "berth/" + name
}

// Ensure returns the image of an agent's template, building it when there is
// none. When there is one it does nothing else.
func (b *Builder) Ensure(ctx context.Context, name string, p Progress) (image.Image, error) {
	img, err := b.m.Images().Lookup(Ref(name))
	if err == nil || !errors.Is(err, sandbox.ErrNotFound) {
		return img, err
	}
	return b.Build(ctx, name, Options{}, p)
}

// Build makes a template and those that it stands on.
func (b *Builder) Build(ctx context.Context, name string, o Options, p Progress) (image.Image, error) {
	var none image.Image
	ref := Ref(name)
	name = strings.TrimPrefix(ref, "berth/")
	a, err := agent.Find(name)
	if name != Base && err != nil {
		return none, sandbox.Errorf(sandbox.ErrNotFound, "there is no template %q", name).
			WithHint("the templates are %s", strings.Join(Names(), ", "))
	}
	unlock, err := b.lock(ctx, p)
	if err != nil {
		return none, err
	}
	defer unlock()
	base, err := b.m.Images().Lookup(Ref(Base))
	switch {
	case err != nil && !errors.Is(err, sandbox.ErrNotFound):
		return none, err
	case err != nil, name == Base && o.Again, o.From != "":
		if base, err = b.buildBase(ctx, o, p); err != nil {
			return none, err
		}
	}
	if name == Base {
		return base, nil
	}
	if img, err := b.m.Images().Lookup(ref); err == nil && !o.Again {
		return img, nil // somebody else built it while we waited
	}
	return b.buildAgent(ctx, a, base, p)
}

// lock makes this process the one that builds.
func (b *Builder) lock(ctx context.Context, p Progress) (unlock func(), err error) {
	dir, err := b.dirs.Templates()
	if err != nil {
		return nil, err
	}
	fl := flock.New(filepath.Join(dir, "build.lock"), flock.SetPermissions(0o600))
	ok, err := fl.TryLock()
	if err == nil && !ok {
		err = p.step("wait for another build", func() error {
			_, err := fl.TryLockContext(ctx, 100*time.Millisecond)
			return err
		})
	}
	if err != nil {
		return nil, fmt.Errorf("lock the templates: %w", err)
	}
	return func() { _ = fl.Close() }, nil
}

// Info describes a template that is there.
type Info struct {
	Name    string    `json:"name"`
	Ref     string    `json:"ref"`
	Digest  string    `json:"digest"`
	Created time.Time `json:"created"`
	Size    int64     `json:"size"` // bytes of its layers, shared ones included
	Own     int64     `json:"own"`  // bytes of its topmost layer
	Recipe  string    `json:"recipe"`
}

// List returns the templates that are there, by name.
func (b *Builder) List() ([]Info, error) {
	images, err := b.m.Images().List()
	if err != nil {
		return nil, err
	}
	var all []Info
	for _, img := range images {
		if name := img.Config.Labels[labelName]; name != "" {
			all = append(all, describe(name, img))
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Name < all[j].Name })
	return all, nil
}

func describe(name string, img image.Image) Info {
	in := Info{Name: name, Ref: Ref(name), Digest: img.Digest, Created: img.Created, Size: img.Size, Recipe: img.Config.Labels[labelRecipe]}
	if n := len(img.Layers); n > 0 {
		in.Own = img.Layers[n-1].Size
	}
	return in
}

// Inspect describes one template.
func (b *Builder) Inspect(name string) (Info, error) {
	img, err := b.m.Images().Lookup(Ref(name))
	if err != nil {
		return Info{}, err
	}
	return describe(name, img), nil
}

// Remove takes a template away. Sandboxes made from it keep what they need.
func (b *Builder) Remove(ctx context.Context, name string) error {
	if err := b.m.Images().Untag(Ref(name)); err != nil {
		return err
	}
	_, err := b.m.Collect(ctx)
	return err
}

// source is where the base system comes from.
func (b *Builder) source() (debian.Source, error) { return debian.Detect("/", b.getenv) }

// WithAgent returns an image to start an agent from: the image called ref with
// the agent's own layer on it, when it has not got the agent and the layer is
// built. Any image with the C library that the agent was built for will do.
func (b *Builder) WithAgent(ctx context.Context, ref, name string) (image.Image, error) {
	img, err := b.m.Images().Lookup(ref)
	if err != nil {
		return img, err
	}
	a, err := agent.Find(name)
	if err != nil || a.Recipe == nil {
		return img, err
	}
	for _, l := range img.Layers {
		if l.Mount == a.Dir() {
			return img, nil
		}
	}
	own, err := b.m.Images().Lookup(Ref(name))
	if errors.Is(err, sandbox.ErrNotFound) {
		return img, nil // then the image has to bring the agent itself
	}
	if err != nil {
		return img, err
	}
	top := own.Layers[len(own.Layers)-1]
	return b.m.Images().Commit(ctx, "", &img, []image.Layer{top}, img.Config)
}
