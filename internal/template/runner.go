package template

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"sync"
	"time"

	"github.com/pkg/sftp"

	"berth.dev/internal/bundle"
	"berth.dev/internal/control"
	"berth.dev/internal/guestapi"
	"berth.dev/internal/guestapi/client"
	"berth.dev/internal/image"
	"berth.dev/internal/manager"
	"berth.dev/internal/policy"
	"berth.dev/internal/sandbox"
)

// Runner provides the sandboxes that steps run in. Whoever calls it holds the
// build lock, so one name is used by one caller at a time.
type Runner interface {
	// Open starts the sandbox of that name, made of img, which is in the store
	// and kept there by the caller. With resume it goes on
	// from what an earlier one of that name saved, if there is one and it was
	// made of the same image; resumed says so. Otherwise an earlier one is
	// deleted. The caller ends what it got with Stop or Remove.
	Open(ctx context.Context, name string, img image.Image, resume bool) (sb Sandbox, resumed bool, err error)
	// Remove deletes the sandbox of that name, running or not. None is no error.
	Remove(ctx context.Context, name string) error
}

// Sandbox is a running builder. Its methods are called one at a time. What it
// returns is the guest's word: bounded, but not to be believed.
type Sandbox interface {
	// Run runs a script with sh -eu as root and returns its exit status; what it
	// prints goes to out, one Write at a time.
	Run(ctx context.Context, script string, out io.Writer) (status int, err error)
	// ReadFile returns a file's content, nil when there is none.
	ReadFile(ctx context.Context, name string) ([]byte, error)
	// WriteFiles writes files as root (0644), folders included.
	WriteFiles(ctx context.Context, files []File) error
	// Save makes the present state what a later Open resumes from.
	Save(ctx context.Context) error
	// Layer writes what differs from the image to w, as a tar.
	Layer(ctx context.Context, w io.Writer) error
	// Stop ends the sandbox and keeps what was saved.
	Stop(ctx context.Context) error
}

// File is a file to write in a guest.
type File struct {
	Path string // absolute
	Data []byte
}

// maxRead bounds a file that is read from a guest, in bytes.
const maxRead = 16 << 20

// idleBuilder ends a builder whose process was killed. The longest time that
// nothing is connected to one in use is that of writing its layer.
const idleBuilder = 15 * time.Minute

// managed runs builders as ordinary sandboxes of the manager.
type managed struct{ m *manager.Manager }

// NewRunner returns the runner whose builders are sandboxes of a manager.
func NewRunner(m *manager.Manager) Runner { return managed{m} }

// Open implements Runner.
func (r managed) Open(ctx context.Context, name string, img image.Image, resume bool) (Sandbox, bool, error) {
	old, err := r.m.Find(name)
	resumed := err == nil && resume && old.Spec().Image == img.Digest
	if resumed {
		// One that still runs lost its builder, with a step half done that may
		// still go on: only what was saved counts.
		err = r.m.Stop(ctx, old, true)
	} else {
		err = r.Remove(ctx, name)
	}
	if err != nil {
		return nil, false, fmt.Errorf("clear away an earlier builder: %w", err)
	}
	// The default engine, whatever the user's settings say: what is resumed has to
	// be the last save, and some engines keep more than that.
	eng, err := r.m.Engines().Lookup("")
	if err != nil {
		return nil, false, err
	}
	// A builder has nothing that could be sent away, and takes packages from
	// wherever the host's own settings say.
	asked := sandbox.Spec{
		Name: name, Agent: BuilderAgent, Engine: eng.Name(), Image: img.Digest, Template: img.Digest, IdleAfter: idleBuilder, Preset: policy.PresetOpen,
	}
	b, _, err := r.m.Obtain(ctx, asked, func(s sandbox.Spec) (sandbox.Spec, error) { return s, nil })
	if err != nil {
		return nil, false, err
	}
	s := &managedSandbox{m: r.m, b: b}
	if s.control, err = r.m.Start(ctx, b); err == nil {
		s.guest, err = r.m.Guest(ctx, b)
	}
	if err != nil {
		return nil, false, errors.Join(err, s.Stop(context.WithoutCancel(ctx)))
	}
	return s, resumed, nil
}

// Remove implements Runner.
func (r managed) Remove(ctx context.Context, name string) error {
	if err := r.m.Remove(ctx, name, true); err != nil && !errors.Is(err, sandbox.ErrNotFound) {
		return err
	}
	return nil
}

type managedSandbox struct {
	m       *manager.Manager
	b       *bundle.Bundle
	control *control.Client
	guest   *client.Client
}

// Run implements Sandbox.
func (s *managedSandbox) Run(ctx context.Context, script string, out io.Writer) (int, error) {
	both := &oneAtATime{w: out}
	res, err := s.guest.Start(ctx, guestapi.SessionSpec{
		Args: []string{"/bin/sh", "-eu", "-c", script}, User: "0", Dir: "/", Env: stepEnv,
	}, client.Attach{Stdout: both, Stderr: both})
	return res.ExitCode, err
}

// oneAtATime joins two streams, each of which has a goroutine of its own.
type oneAtATime struct {
	mu sync.Mutex
	w  io.Writer
}

// Write implements io.Writer.
func (o *oneAtATime) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.w.Write(p)
}

// ReadFile implements Sandbox.
func (s *managedSandbox) ReadFile(ctx context.Context, name string) ([]byte, error) {
	files, err := s.guest.SFTP(ctx, "0")
	if err != nil {
		return nil, err
	}
	defer files.Close()
	f, err := files.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxRead+1))
	if err == nil && len(data) > maxRead {
		err = sandbox.Errorf(sandbox.ErrInvalid, "%s is larger than %d bytes", name, maxRead)
	}
	return data, err
}

// WriteFiles implements Sandbox.
func (s *managedSandbox) WriteFiles(ctx context.Context, list []File) error {
	files, err := s.guest.SFTP(ctx, "0")
	if err != nil {
		return err
	}
	defer files.Close()
	for _, f := range list {
		if err := writeGuest(files, f); err != nil {
			return fmt.Errorf("write %s: %w", f.Path, err)
		}
	}
	return nil
}

func writeGuest(files *sftp.Client, f File) error {
	if err := files.MkdirAll(path.Dir(f.Path)); err != nil {
		return err
	}
	w, err := files.Create(f.Path)
	if err != nil {
		return err
	}
	_, err = w.Write(f.Data)
	return errors.Join(err, w.Chmod(0o644), w.Close())
}

// Save implements Sandbox.
func (s *managedSandbox) Save(ctx context.Context) error { return s.control.Save(ctx) }

// Layer implements Sandbox.
func (s *managedSandbox) Layer(ctx context.Context, w io.Writer) error {
	return s.control.Layer(ctx, w)
}

// Stop implements Sandbox.
func (s *managedSandbox) Stop(ctx context.Context) error {
	if s.guest != nil {
		s.guest.Close()
	}
	return s.m.Stop(ctx, s.b, false)
}
