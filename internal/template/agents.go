package template

import (
	"context"
	"encoding/json"
	"maps"
	"path"
	"strings"

	"berth.dev/internal/agent"
	"berth.dev/internal/image"
	"berth.dev/internal/sandbox"
)

// nodeName is the template of the Node.js that is mounted beside an agent in
// images from elsewhere. It lies where an agent's folder would.
const nodeName = "node"

const nodeDir = sandbox.AgentDir + "/" + nodeName

// installScript installs an agent in its own folder.
func installScript(a agent.Agent) string {
	var s strings.Builder
	s.WriteString("export PREFIX=" + a.Dir() + "\nrm -rf \"$PREFIX\"\nmkdir -p \"$PREFIX\"\n")
	s.WriteString("npm install -g --no-fund --no-audit --no-update-notifier --prefix \"$PREFIX\" '" + a.Recipe.Spec() + "'\n")
	for _, extra := range a.Recipe.Steps {
		s.WriteString(extra + "\n")
	}
	s.WriteString("chmod -R a+rX \"$PREFIX\"\n")
	return s.String()
}

// buildAgent makes an agent's template: its own folder, mounted by itself over
// the base, so that a second agent costs only itself.
func (b *Builder) buildAgent(ctx context.Context, a agent.Agent, base image.Image, p Progress) (image.Image, error) {
	return b.buildFolder(ctx, a.Name, a.Recipe.Package, base, step{name: "install " + a.Title, script: installScript(a)}, p)
}

// buildNode makes the template of nodeName.
func (b *Builder) buildNode(ctx context.Context, base image.Image, p Progress) (image.Image, error) {
	return b.buildFolder(ctx, nodeName, "", base, step{name: "install Node.js", script: nodeScript(nodeDir)}, p)
}

// buildFolder makes a template of what a step puts into the folder of name.
func (b *Builder) buildFolder(ctx context.Context, name, pkg string, base image.Image, s step, p Progress) (image.Image, error) {
	dir := sandbox.AgentDir + "/" + name
	j := job{name: name, start: base, steps: []step{s}}
	j.finish = func(ctx context.Context, sb Sandbox, done []Step) (image.Image, error) {
		facts := Facts{Steps: done}
		if pkg != "" {
			about, err := sb.ReadFile(ctx, path.Join(dir, "lib/node_modules", pkg, "package.json"))
			if err != nil {
				return image.Image{}, err
			}
			facts.Version = packageVersion(about)
		}
		l, err := b.addLayer(ctx, filtered(ctx, sb, agentOnly(dir)), image.LayerOptions{Mount: dir, CreatedBy: "berth template " + name})
		if err != nil {
			return image.Image{}, err
		}
		return b.compose(ctx, name, base, l, j.digest(), facts)
	}
	return b.run(ctx, j, p)
}

// compose makes the image of an agent: its layer on a base.
func (b *Builder) compose(ctx context.Context, name string, base image.Image, l image.Layer, recipe string, facts Facts) (image.Image, error) {
	cfg := base.Config
	cfg.Labels = maps.Clone(cfg.Labels)
	if cfg.Labels == nil {
		cfg.Labels = map[string]string{}
	}
	maps.Copy(cfg.Labels, labels(name, recipe, facts))
	return b.images.Commit(ctx, Ref(name), &base, []image.Layer{l}, cfg)
}

// rebase puts the agents that are there on a new base. Their own folders do not
// depend on it.
func (b *Builder) rebase(ctx context.Context, base image.Image) error {
	all, err := b.List()
	if err != nil {
		return err
	}
	for _, in := range all {
		if in.Name == Base {
			continue
		}
		img, err := b.images.Lookup(in.Ref)
		if err != nil {
			return err
		}
		l, ok := ownLayer(img, in.Name)
		if !ok {
			continue
		}
		if _, err := b.compose(ctx, in.Name, base, l, in.Recipe, in.Facts); err != nil {
			return err
		}
	}
	return nil
}

// ownLayer returns the layer of an agent's folder in an image.
func ownLayer(img image.Image, name string) (image.Layer, bool) {
	for _, l := range img.Layers {
		if l.Mount == sandbox.AgentDir+"/"+name {
			return l, true
		}
	}
	return image.Layer{}, false
}

// WithAgent returns an image to start an agent from: the image called ref, and
// on it the agent's own layer, which is built when there is none. Node.js comes
// along for agents that need it, for images that were not made here and may
// have none: PATH has it last. Any image with glibc will do; one that has no
// user called agent runs it as uid 1000 all the same.
//
// The result may have no name; it is kept until the store is closed, and by the
// sandbox that is made of it.
func (b *Builder) WithAgent(ctx context.Context, ref, name string, p Progress) (image.Image, error) {
	img, err := b.images.Lookup(ref)
	if err != nil {
		return img, err
	}
	a, err := agent.Find(name)
	if err != nil || a.Recipe == nil {
		return img, err
	}
	var layers []image.Layer
	add := func(name string) error {
		if _, there := ownLayer(img, name); there {
			return nil
		}
		own, err := b.Ensure(ctx, name, p)
		if err != nil {
			return err
		}
		l, ok := ownLayer(own, name)
		if !ok {
			return sandbox.Errorf(sandbox.ErrPrecondition, "image %s is not the template of %s", Ref(name), name).
				WithHint("build it anew: berth template build --again %s", name)
		}
		layers = append(layers, l)
		return nil
	}
	if err := add(a.Name); err != nil {
		return image.Image{}, err
	}
	if a.Recipe.Node > 0 && img.Config.Labels[labelName] == "" {
		if err := add(nodeName); err != nil {
			return image.Image{}, err
		}
	}
	if len(layers) == 0 {
		return img, nil
	}
	made, err := b.images.Commit(ctx, "", &img, layers, img.Config)
	if err != nil {
		return image.Image{}, err
	}
	return made, b.prepare(ctx, made, p)
}

// maxVersion bounds what is shown of a version.
const maxVersion = 64

// packageVersion reads a package.json that a guest has; what it cannot read is
// "".
func packageVersion(data []byte) string {
	var about struct {
		Version string `json:"version"`
	}
	if json.Unmarshal(data, &about) != nil {
		return ""
	}
	return printable(about.Version)
}
