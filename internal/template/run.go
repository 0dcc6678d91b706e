package template

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"berth.dev/internal/atomicfile"
	"berth.dev/internal/bundle"
	"berth.dev/internal/control"
	"berth.dev/internal/guestapi"
	"berth.dev/internal/guestapi/client"
	"berth.dev/internal/image"
	"berth.dev/internal/sandbox"
)

// step is one script, run as root in the builder's sandbox.
type step struct {
	name   string
	script string
	// certificates: instead of a script, the host's certificates are added.
	certificates bool
}

// job is one layer to make.
type job struct {
	name  string
	start image.Image
	steps []step
	fresh bool // do not take up an earlier try
}

// record is what a build keeps on disk to be taken up again.
type record struct {
	Format int    `json:"format"`
	Job    string `json:"job"`  // digest
	Done   int    `json:"done"` // steps whose result the builder's last save has
}

// finisher makes an image of a builder's layer; the function it is given hands
// over the layer as a tar.
type finisher func(layer func(func(io.Reader) error) error) (image.Image, error)

// run makes a layer: it runs the steps that are not done yet in the job's
// sandbox, saving after each, and hands the result to finish. After an error
// or an interrupt the sandbox is stopped and the next run goes on from there.
func (b *Builder) run(ctx context.Context, j job, p Progress, finish finisher) (img image.Image, err error) {
	rec, path, err := b.resume(ctx, j)
	if err != nil {
		return img, err
	}
	sb, _, err := b.m.Obtain(ctx, sandbox.Spec{Name: builderName(j.name), Agent: BuilderAgent, Image: j.start.Digest, Template: j.start.Digest}, keepSpec)
	if err != nil {
		return img, err
	}
	defer func() {
		// Not with ctx, which may be what ended.
		if err != nil {
			_ = b.m.Stop(context.WithoutCancel(ctx), sb, false)
		}
	}()
	if err = b.m.Root(ctx, j.start); err != nil {
		return img, err
	}
	c, err := b.m.Start(ctx, sb)
	if err != nil {
		return img, err
	}
	if err = b.steps(ctx, j, sb, c, &rec, path, p); err != nil {
		return img, err
	}
	err = p.step("write the layer", func() error {
		img, err = finish(func(read func(io.Reader) error) error { return readLayer(ctx, c, read) })
		return err
	})
	if err != nil {
		return img, err
	}
	err = p.step("make the image", func() error { return b.m.Root(ctx, img) })
	if err != nil {
		return img, err
	}
	_ = os.Remove(path)
	if err := b.m.Remove(ctx, sb.Name(), true); err != nil {
		return img, fmt.Errorf("remove the builder: %w", err)
	}
	return img, nil
}

func keepSpec(s sandbox.Spec) (sandbox.Spec, error) { return s, nil }

func builderName(name string) string { return "berth-build-" + name }

// resume decides whether an earlier try can be taken up, and clears it away
// when not.
func (b *Builder) resume(ctx context.Context, j job) (record, string, error) {
	fresh := record{Format: 1, Job: j.digest()}
	dir, err := b.dirs.Templates()
	if err != nil {
		return fresh, "", err
	}
	path := filepath.Join(dir, j.name+".json")
	var rec record
	data, err := os.ReadFile(path)
	if err == nil && json.Unmarshal(data, &rec) == nil && rec == (record{1, fresh.Job, rec.Done}) && !j.fresh {
		if old, err := b.m.Find(builderName(j.name)); err == nil && old.Spec().Image == j.start.Digest {
			return rec, path, nil
		}
	}
	if err := b.m.Remove(ctx, builderName(j.name), true); err != nil && !errors.Is(err, sandbox.ErrNotFound) {
		return fresh, path, fmt.Errorf("remove an earlier builder: %w", err)
	}
	return fresh, path, nil
}

func (b *Builder) steps(ctx context.Context, j job, sb *bundle.Bundle, c *control.Client, rec *record, path string, p Progress) error {
	g, err := b.m.Guest(ctx, sb)
	if err != nil {
		return err
	}
	defer g.Close()
	for i, s := range j.steps {
		if i < rec.Done {
			continue
		}
		err := p.step(s.name, func() error {
			if s.certificates {
				return addCertificates(ctx, g, b.getenv)
			}
			return runScript(ctx, g, s, p)
		})
		if err != nil {
			return err
		}
		if err := c.Save(ctx); err != nil {
			return err
		}
		rec.Done = i + 1
		data, err := json.Marshal(rec)
		if err != nil {
			return err
		}
		if err := atomicfile.Write(path, data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// tailLines of a step that failed are part of its error.
const tailLines = 15

// runScript runs a step in the guest, as root, line by line to progress.
func runScript(ctx context.Context, g *client.Client, s step, p Progress) error {
	out := &lines{step: s.name, p: p}
	res, err := g.Start(ctx, guestapi.SessionSpec{
		Args: []string{"/bin/sh", "-eu", "-c", s.script}, User: "0", Dir: "/",
		Env: map[string]string{"HOME": "/root", "DEBIAN_FRONTEND": "noninteractive", "NODE_EXTRA_CA_CERTS": caBundle, "PATH": strings.TrimPrefix(guestPath, "PATH=")},
	}, client.Attach{Stdout: out, Stderr: out})
	if err != nil {
		return err
	}
	if res.ExitCode != 0 {
		return sandbox.Errorf(sandbox.ErrUnavailable, "it ended with status %d; its last lines:\n  %s", res.ExitCode, strings.Join(out.tail, "\n  ")).
			WithHint("when the cause is mended, the same command goes on from this step")
	}
	return nil
}

// lines cuts output into lines, made fit for a terminal.
type lines struct {
	step string
	p    Progress
	buf  []byte
	tail []string
}

// Write implements io.Writer.
func (l *lines) Write(p []byte) (int, error) {
	l.buf = append(l.buf, p...)
	for {
		i := bytes.IndexAny(l.buf, "\r\n")
		if i < 0 && len(l.buf) < 4096 {
			return len(p), nil
		}
		if i < 0 {
			i = len(l.buf) - 1
		}
		if line := strings.TrimSpace(guestapi.Printable(string(l.buf[:i]), 200)); line != "" {
			l.tail = append(l.tail, line)
			l.tail = l.tail[max(0, len(l.tail)-tailLines):]
			l.p.send(Event{Step: l.step, Line: line})
		}
		l.buf = l.buf[i+1:]
	}
}

// readLayer hands the sandbox's changes to read, as a tar.
func readLayer(ctx context.Context, c *control.Client, read func(io.Reader) error) error {
	r, w := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := c.Layer(ctx, w)
		w.CloseWithError(err)
		written <- err
	}()
	err := read(r)
	r.CloseWithError(err)
	if werr := <-written; werr != nil && !errors.Is(werr, io.ErrClosedPipe) {
		return werr
	}
	return err
}

// below hands on only what of a tar lies in dir, and the folders it is in.
func below(dir string, r io.Reader, read func(io.Reader) error) error {
	out, w := io.Pipe()
	filtered := make(chan error, 1)
	go func() {
		err := filter(dir, r, w)
		w.CloseWithError(err)
		filtered <- err
	}()
	err := read(out)
	out.CloseWithError(err)
	if ferr := <-filtered; ferr != nil && !errors.Is(ferr, io.ErrClosedPipe) {
		return ferr
	}
	return err
}

func filter(dir string, r io.Reader, w io.Writer) error {
	in, out := tar.NewReader(r), tar.NewWriter(w)
	gone := map[string]bool{}
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		name := path.Clean("/" + h.Name)
		// A whiteout hides something of the image's, and below an agent's folder
		// there is nothing of it. The engine writes one of them as a device and the
		// others as links to it.
		if h.Typeflag == tar.TypeChar && h.Devmajor == 0 && h.Devminor == 0 || h.Typeflag == tar.TypeLink && gone[path.Clean("/"+h.Linkname)] {
			gone[name] = true
			continue
		}
		if name != dir && !strings.HasPrefix(name, dir+"/") && !(h.Typeflag == tar.TypeDir && strings.HasPrefix(dir, name+"/")) {
			continue
		}
		if h.Typeflag == tar.TypeLink {
			if to := path.Clean("/" + h.Linkname); !strings.HasPrefix(to, dir+"/") {
				return fmt.Errorf("%s is a link to %s, outside of the agent's folder", name, to)
			}
		}
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(out, in); err != nil {
			return err
		}
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		return err
	}
	return out.Close()
}
