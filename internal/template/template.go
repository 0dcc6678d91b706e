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
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"berth.dev/internal/agent"
	"berth.dev/internal/guestapi"
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
	labelFacts  = "dev.berth.template.facts" // Facts as JSON
)

// Builder makes templates. It is safe for concurrent use, and several
// processes may build at once: one does, the others wait for it.
type Builder struct {
	images    *image.Store
	open      func() (*image.Store, error) // the same store once more
	runner    Runner
	collect   func(context.Context) (int64, error) // deletes what no image needs
	registry  func(context.Context) string         // the npm registry that the host names
	templates func() (string, error)               // folder of records
	cache     func() (string, error)               // folder of downloads
	root      string                               // of the host: "/"
	getenv    func(string) string
}

// New returns a builder that works with the manager's images and sandboxes.
func New(m *manager.Manager, dirs hostdir.Dirs, getenv func(string) string) *Builder {
	return &Builder{
		images: m.Images(), open: func() (*image.Store, error) { return openStore(dirs) }, runner: NewRunner(m), collect: m.Collect, registry: hostRegistry,
		templates: dirs.Templates, cache: dirs.Cache, root: "/", getenv: getenv,
	}
}

func openStore(dirs hostdir.Dirs) (*image.Store, error) {
	dir, err := dirs.Images()
	if err != nil {
		return nil, err
	}
	return image.Open(dir)
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

// Names are the templates that can be built by name.
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
// none. When there is one it does nothing else: every `berth run` is here.
func (b *Builder) Ensure(ctx context.Context, name string, p Progress) (image.Image, error) {
	img, err := b.images.Lookup(Ref(name))
	if err == nil || !errors.Is(err, sandbox.ErrNotFound) {
		return img, err
	}
	return b.Build(ctx, name, Options{}, p)
}

// Build makes a template and the base that it stands on, as far as they are not
// there. A new base goes below all agents that are there; sandboxes keep the
// image that they were made of. What a build that failed or was interrupted had
// done is not done again.
func (b *Builder) Build(ctx context.Context, name string, o Options, p Progress) (image.Image, error) {
	var none image.Image
	ref := Ref(name)
	name = strings.TrimPrefix(ref, "berth/")
	a, err := agent.Find(name)
	if err != nil && name != Base && name != nodeName {
		return none, sandbox.Errorf(sandbox.ErrNotFound, "there is no template %q", name).
			WithHint("the templates are %s", strings.Join(Names(), ", "))
	}
	unlock, err := b.lock(ctx, p)
	if err != nil {
		return none, err
	}
	defer unlock()
	base, err := b.images.Lookup(Ref(Base))
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
	if img, err := b.images.Lookup(ref); err == nil && !o.Again {
		return img, nil // there already, or somebody else built it while we waited
	}
	if name == nodeName {
		return b.buildNode(ctx, base, p)
	}
	return b.buildAgent(ctx, a, base, p)
}

// lockPoll is how often a process that waits for another's build looks.
const lockPoll = 100 * time.Millisecond

// lock makes this process the one that builds.
func (b *Builder) lock(ctx context.Context, p Progress) (unlock func(), err error) {
	dir, err := b.templates()
	if err != nil {
		return nil, err
	}
	fl := flock.New(filepath.Join(dir, "build.lock"), flock.SetPermissions(0o600))
	ok, err := fl.TryLock()
	if err == nil && !ok {
		err = p.step("wait for another build", func() error {
			_, err := fl.TryLockContext(ctx, lockPoll)
			return err
		})
	}
	if err != nil {
		return nil, fmt.Errorf("lock the templates: %w", err)
	}
	return func() { _ = fl.Close() }, nil
}

// Facts are what a build found out about its result.
type Facts struct {
	Version  string `json:"version,omitempty"`  // of the agent
	System   string `json:"system,omitempty"`   // of the base, such as "Debian GNU/Linux 13 (trixie)"
	Packages int    `json:"packages,omitempty"` // of the base's distribution
	Node     string `json:"node,omitempty"`     // version of the base's Node.js
	Steps    []Step `json:"steps,omitempty"`    // that made the topmost layer
}

func labels(name, recipe string, f Facts) map[string]string {
	text, _ := json.Marshal(f) // strings and numbers always can be
	return map[string]string{labelName: name, labelRecipe: recipe, labelFacts: string(text)}
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
	Facts
}

// List returns the templates that are there, by name.
func (b *Builder) List() ([]Info, error) {
	images, err := b.images.List()
	if err != nil {
		return nil, err
	}
	var all []Info
	for _, img := range images {
		if name := img.Config.Labels[labelName]; slices.Contains(img.Refs, "berth/"+name) {
			all = append(all, describe(name, img))
		}
	}
	slices.SortFunc(all, func(a, b Info) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

func describe(name string, img image.Image) Info {
	in := Info{Name: name, Ref: Ref(name), Digest: img.Digest, Created: img.Created, Size: img.Size, Recipe: img.Config.Labels[labelRecipe]}
	if n := len(img.Layers); n > 0 {
		in.Own = img.Layers[n-1].Size
	}
	// A label that says nothing is no reason not to show the rest.
	_ = json.Unmarshal([]byte(img.Config.Labels[labelFacts]), &in.Facts)
	return in
}

// Inspect describes one template; the shell's is the base.
func (b *Builder) Inspect(name string) (Info, error) {
	img, err := b.images.Lookup(Ref(name))
	if err != nil {
		return Info{}, err
	}
	return describe(strings.TrimPrefix(Ref(name), "berth/"), img), nil
}

// Remove takes a template away, and what an unfinished build of it left.
// Sandboxes made from it keep what they need. The packages that a base was
// made of go with it.
func (b *Builder) Remove(ctx context.Context, name string) error {
	name = strings.TrimPrefix(Ref(name), "berth/")
	unlock, err := b.lock(ctx, nil)
	if err != nil {
		return err
	}
	defer unlock()
	err = b.images.Untag(Ref(name))
	left, lerr := b.forget(ctx, name)
	if lerr != nil {
		return lerr
	}
	if err != nil && !(left && errors.Is(err, sandbox.ErrNotFound)) {
		return err
	}
	if name == Base {
		if err := b.images.Untag(bootstrapRef); err != nil && !errors.Is(err, sandbox.ErrNotFound) {
			return err
		}
	}
	_, err = b.collect(ctx)
	return err
}

// forget clears away an unfinished build, and reports whether there was one.
func (b *Builder) forget(ctx context.Context, name string) (bool, error) {
	if !slices.Contains(Names(), name) && name != nodeName {
		return false, nil
	}
	path, err := b.recordPath(name)
	if err != nil {
		return false, err
	}
	if err := b.runner.Remove(ctx, builderName(name)); err != nil {
		return false, err
	}
	err = os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// printable is a short text of the guest's, fit for a terminal.
func printable(s string) string { return guestapi.Printable(strings.TrimSpace(s), maxVersion) }
