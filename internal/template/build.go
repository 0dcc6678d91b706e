package template

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"berth.dev/internal/atomicfile"
	"berth.dev/internal/image"
	"berth.dev/internal/sandbox"
)

// step is one piece of work in a builder. Steps are made so that one that broke
// off may be run again on what it left.
type step struct {
	name   string
	script string
	files  func(ctx context.Context, sb Sandbox) ([]File, error) // written first; may be nil
	// salt is part of the step's digest, for what the script does not show.
	salt string
}

// digest identifies what a step does.
func (s step) digest() string { return digestOf(s.name, s.script, s.salt) }

func digestOf(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d %s\n", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// job is one layer to make.
type job struct {
	name  string
	start image.Image
	steps []step
	// finish makes the image, from the builder in which all steps are done.
	finish func(ctx context.Context, sb Sandbox, done []Step) (image.Image, error)
}

// digest identifies the recipe: the steps and what they are run on.
func (j job) digest() string {
	parts := []string{j.start.Digest}
	for _, s := range j.steps {
		parts = append(parts, s.digest())
	}
	return digestOf(parts...)
}

// Step is one step of a build that was done.
type Step struct {
	Name    string  `json:"name"`
	Digest  string  `json:"digest"`
	Seconds float64 `json:"seconds"`
}

const recordFormat = 2

// resumeFor is how long an unfinished build is worth going on with: after that
// its packages are old.
const resumeFor = 24 * time.Hour

// record is what a build that is under way keeps on disk.
type record struct {
	Format int       `json:"format"`
	Start  string    `json:"start"` // digest of the image
	Begun  time.Time `json:"begun"`
	Done   []Step    `json:"done"` // whose result the builder's last save has
}

// readRecord returns what is left of an earlier try at a job, as far as it is
// of use: the steps that it did have to be the job's first ones.
func readRecord(path string, j job) (record, bool) {
	fresh := record{Format: recordFormat, Start: j.start.Digest, Begun: time.Now().UTC()}
	data, err := os.ReadFile(path)
	if err != nil {
		return fresh, false
	}
	var r record
	if json.Unmarshal(data, &r) != nil || r.Format != recordFormat || r.Start != j.start.Digest ||
		time.Since(r.Begun) > resumeFor || len(r.Done) == 0 || len(r.Done) > len(j.steps) {
		return fresh, false
	}
	for i, d := range r.Done {
		if d.Digest != j.steps[i].digest() {
			return fresh, false
		}
	}
	return r, true
}

func (r record) write(path string) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return atomicfile.Write(path, data, 0o600)
}

func builderName(name string) string { return "berth-build-" + name }

func (b *Builder) recordPath(name string) (string, error) {
	dir, err := b.templates()
	return filepath.Join(dir, name+".json"), err
}

// run makes a layer: it runs the steps that are not done yet in the job's
// builder, saving after each, and has the image made of the result. After an
// error or an interrupt the builder is stopped, and the next run goes on from
// the last step that was done.
func (b *Builder) run(ctx context.Context, j job, p Progress) (image.Image, error) {
	path, err := b.recordPath(j.name)
	if err != nil {
		return image.Image{}, err
	}
	rec, resume := readRecord(path, j)
	var sb Sandbox
	err = p.step("start a builder", func() (err error) {
		if _, err := b.images.Root(ctx, j.start, nil); err != nil {
			return err
		}
		var resumed bool
		sb, resumed, err = b.runner.Open(ctx, builderName(j.name), j.start, resume)
		if !resumed {
			rec.Done = nil
		}
		return err
	})
	if err != nil {
		return image.Image{}, err
	}
	img, err := b.runIn(ctx, j, sb, &rec, path, p)
	if err != nil {
		// Not with ctx: that may be what ended.
		if serr := sb.Stop(context.WithoutCancel(ctx)); serr != nil {
			err = fmt.Errorf("%w (and stop the builder: %w)", err, serr)
		}
		return image.Image{}, err
	}
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return image.Image{}, err
	}
	if err := b.runner.Remove(ctx, builderName(j.name)); err != nil {
		return image.Image{}, fmt.Errorf("remove the builder: %w", err)
	}
	return img, nil
}

func (b *Builder) runIn(ctx context.Context, j job, sb Sandbox, rec *record, path string, p Progress) (img image.Image, err error) {
	for _, s := range j.steps[len(rec.Done):] {
		begun := time.Now()
		if err := p.step(s.name, func() error { return runStep(ctx, sb, s, p) }); err != nil {
			return img, err
		}
		if err := sb.Save(ctx); err != nil {
			return img, fmt.Errorf("save the builder: %w", err)
		}
		rec.Done = append(rec.Done, Step{Name: s.name, Digest: s.digest(), Seconds: seconds(time.Since(begun))})
		if err := rec.write(path); err != nil {
			return img, err
		}
	}
	err = p.step("write the layer", func() error {
		img, err = j.finish(ctx, sb, slices.Clone(rec.Done))
		return err
	})
	if err != nil {
		return img, err
	}
	return img, p.step("make the image", func() error { return b.prepare(ctx, img, p) })
}

// prepare makes the files that sandboxes of the image mount.
func (b *Builder) prepare(ctx context.Context, img image.Image, p Progress) error {
	_, err := b.images.Root(ctx, img, func(done, total int64) {
		p.send(Event{Step: "make the image", Done: done, Total: total})
	})
	return err
}

func seconds(d time.Duration) float64 { return d.Round(10 * time.Millisecond).Seconds() }

// runStep does one step; its output goes to progress, line by line.
func runStep(ctx context.Context, sb Sandbox, s step, p Progress) error {
	if s.files != nil {
		files, err := s.files(ctx, sb)
		if err != nil {
			return err
		}
		if err := sb.WriteFiles(ctx, files); err != nil {
			return err
		}
	}
	if s.script == "" {
		return nil
	}
	out := &lines{step: s.name, p: p}
	status, err := sb.Run(ctx, s.script, out)
	if err != nil {
		return err
	}
	if status == 0 {
		return nil
	}
	return sandbox.Errorf(sandbox.ErrUnavailable, "it ended with status %d; its last lines:\n  %s", status, strings.Join(out.last(), "\n  ")).
		WithHint("when the cause is mended, the same command goes on from this step")
}

// output runs a script that answers, and returns its first bytes.
func output(ctx context.Context, sb Sandbox, script string) (string, error) {
	out := &capture{}
	status, err := sb.Run(ctx, script, out)
	if err == nil && status != 0 {
		err = sandbox.Errorf(sandbox.ErrInternal, "a question to the builder ended with status %d", status)
	}
	return string(out.data), err
}

// maxAnswer bounds what is kept of an answer, in bytes.
const maxAnswer = 4 << 10

type capture struct{ data []byte }

// Write implements io.Writer; what is too much is dropped.
func (c *capture) Write(p []byte) (int, error) {
	c.data = append(c.data, p[:min(len(p), maxAnswer-len(c.data))]...)
	return len(p), nil
}

var _ io.Writer = (*capture)(nil)
