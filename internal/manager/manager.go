// Package manager is what every client of Berth stands on: it finds and makes
// sandboxes, starts and stops their supervisors, connects to their guests, and
// collects what was left behind. It keeps no state of its own: the bundles on
// disk and the locks on them are the truth, so any number of managers in any
// number of processes may work at once.
package manager

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/crypto/ssh"

	"berth.dev/internal/audit"
	"berth.dev/internal/bundle"
	"berth.dev/internal/config"
	"berth.dev/internal/control"
	"berth.dev/internal/engine"
	"berth.dev/internal/guestapi/client"
	"berth.dev/internal/hostdir"
	"berth.dev/internal/image"
	"berth.dev/internal/sandbox"
	"berth.dev/internal/supervisor"
)

// Config is what a manager is made of.
type Config struct {
	Dirs    hostdir.Dirs
	Engines *engine.Registry
	// Executable is run as a supervisor, "/proc/self/exe" in berth itself.
	Executable string
	// Notify is told, in a sentence, of what makes a person wait; may be nil.
	Notify func(string)
	// Logger receives what an operator has to know; nil discards.
	Logger *slog.Logger
}

// Manager manages the sandboxes of one user. It is safe for concurrent use.
type Manager struct {
	cfg     Config
	log     *slog.Logger
	bundles *bundle.Store
	images  *image.Store
}

// New opens the stores that lie in the given folders.
func New(cfg Config) (*Manager, error) {
	m := &Manager{cfg: cfg, log: cfg.Logger}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	var err error
	if m.bundles, m.images, err = openStores(cfg.Dirs); err != nil {
		return nil, err
	}
	return m, nil
}

func openStores(dirs hostdir.Dirs) (*bundle.Store, *image.Store, error) {
	bdir, err := dirs.Bundles()
	if err != nil {
		return nil, nil, err
	}
	idir, err := dirs.Images()
	if err != nil {
		return nil, nil, err
	}
	bundles, err := bundle.Open(bdir)
	if err != nil {
		return nil, nil, err
	}
	images, err := image.Open(idir)
	return bundles, images, err
}

// Bundles is the store of sandboxes.
func (m *Manager) Bundles() *bundle.Store { return m.bundles }

// Images is the store of images.
func (m *Manager) Images() *image.Store { return m.images }

// Engines are the engines of this build.
func (m *Manager) Engines() *engine.Registry { return m.cfg.Engines }

// Obtain finds the sandbox that a wish means or makes it; see
// bundle.Store.Obtain. It is not started.
func (m *Manager) Obtain(ctx context.Context, asked sandbox.Spec, prepare func(sandbox.Spec) (sandbox.Spec, error)) (*bundle.Bundle, bool, error) {
	return m.bundles.Obtain(asked, func(spec sandbox.Spec) (sandbox.Spec, error) {
		if spec.Engine == "" {
			var err error
			if spec.Engine, err = m.defaultEngine(); err != nil {
				return spec, err
			}
		}
		return prepare(spec)
	})
}

// defaultEngine is the engine that the user's settings name for new sandboxes;
// "" is the registry's.
func (m *Manager) defaultEngine() (string, error) {
	dir, err := m.cfg.Dirs.Config()
	if err != nil {
		return "", err
	}
	settings, err := config.Load(dir)
	if err != nil || settings.Engine == "" {
		return "", err
	}
	if _, err := m.cfg.Engines.Lookup(settings.Engine); err != nil {
		return "", fmt.Errorf("%s in %s: %w", config.Name, dir, err)
	}
	return settings.Engine, nil
}

// Find returns the sandbox of that name or ID; see bundle.Store.Find.
func (m *Manager) Find(nameOrID string) (*bundle.Bundle, error) { return m.bundles.Find(nameOrID) }

// List returns all sandboxes, running or not.
func (m *Manager) List() ([]bundle.Entry, error) { return m.bundles.List() }

// Guest starts the sandbox when it does not run and connects to its guest. The
// caller closes the client.
func (m *Manager) Guest(ctx context.Context, b *bundle.Bundle) (*client.Client, error) {
	c, err := m.Start(ctx, b)
	if err != nil {
		return nil, err
	}
	return connect(ctx, c)
}

// connect speaks SSH with the guest through its supervisor.
func connect(ctx context.Context, c *control.Client) (*client.Client, error) {
	conn, keys, err := c.Guest(ctx)
	if err != nil {
		return nil, err
	}
	signer, err := ssh.NewSignerFromKey(ed25519.PrivateKey(keys.Client))
	if err == nil {
		var host ssh.PublicKey
		if host, err = ssh.NewPublicKey(ed25519.PublicKey(keys.Host)); err == nil {
			var g *client.Client
			if g, err = client.Dial(ctx, conn, signer, host); err == nil {
				return g, nil
			}
		}
	}
	conn.Close()
	return nil, fmt.Errorf("connect to the guest: %w", err)
}

// Stop ends a sandbox; with discard nothing is saved. One that does not run is
// no error, and what a killed supervisor left is cleaned up.
func (m *Manager) Stop(ctx context.Context, b *bundle.Bundle, discard bool) error {
	info := b.Info()
	if info.Leftover {
		return m.reap(b)
	}
	if info.Status != sandbox.Running {
		return nil
	}
	err := control.NewClient(info.State.Socket).Stop(ctx, discard)
	switch sandbox.ClassOf(err) {
	case sandbox.ErrPrecondition, sandbox.ErrUnavailable:
		// Nobody answers: it is ending by itself at this moment, or was killed.
		if m.ends(ctx, b) {
			return nil
		}
	}
	return err
}

// endTime bounds the wait for a supervisor that no longer answers.
const endTime = 15 * time.Second

// ends waits for the end of a sandbox whose supervisor does not answer, and
// cleans up after it.
func (m *Manager) ends(ctx context.Context, b *bundle.Bundle) bool {
	ctx, cancel := context.WithTimeout(ctx, endTime)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		info := b.Info()
		if info.Leftover {
			return m.reap(b) == nil
		}
		if info.Status != sandbox.Running {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
}

// Remove deletes a sandbox and all that it holds. A running one is an error
// unless force is set.
func (m *Manager) Remove(ctx context.Context, nameOrID string, force bool) error {
	b, err := m.bundles.Find(nameOrID)
	if err != nil {
		// Delete knows how to remove what no longer loads as a sandbox.
		if force && !errors.Is(err, sandbox.ErrNotFound) {
			return m.bundles.Delete(nameOrID)
		}
		return err
	}
	info := b.Info()
	if info.Status == sandbox.Running && !force {
		return sandbox.Errorf(sandbox.ErrPrecondition, "sandbox %s is running", b.Name()).
			WithHint("stop it first with: berth stop %s; or remove it as it is with: berth rm -f %s", b.Name(), b.Name())
	}
	if err := m.Stop(ctx, b, true); err != nil {
		return err
	}
	if err := m.bundles.Delete(b.Name()); err != nil && !errors.Is(err, sandbox.ErrNotFound) {
		return err
	}
	return errors.Join(m.forget(ctx, b.Name()), m.closeAudit(b.ID()))
}

// goneTime bounds the wait for a sandbox that goes by itself: it does once nobody
// is connected, and others may be.
const goneTime = 2 * time.Second

// AwaitGone waits until a sandbox that its supervisor removes has gone; not for
// long, since what holds it up is said elsewhere.
func (m *Manager) AwaitGone(ctx context.Context, b *bundle.Bundle) {
	ctx, cancel := context.WithTimeout(ctx, goneTime)
	defer cancel()
	for ctx.Err() == nil {
		if _, err := os.Stat(b.Dir()); err != nil {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// forget removes the secrets of a sandbox, which another of its name must not
// inherit.
func (m *Manager) forget(ctx context.Context, name string) error {
	data, err := m.cfg.Dirs.Data()
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(data, SecretsDir)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	store, err := OpenSecrets(m.cfg.Dirs)
	if err == nil {
		err = store.RemoveSandbox(ctx, name)
	}
	if err != nil {
		return fmt.Errorf("remove the secrets of %s: %w", name, err)
	}
	return nil
}

// closeAudit says in the log of a sandbox that it was removed, and drops logs of
// others that were removed long ago.
func (m *Manager) closeAudit(id string) error {
	root, err := m.cfg.Dirs.Audit()
	if err != nil {
		return err
	}
	return errors.Join(audit.MarkRemoved(filepath.Join(root, id), time.Now()), audit.Prune(root, time.Now()))
}

// reap cleans up after a killed supervisor.
func (m *Manager) reap(b *bundle.Bundle) error {
	h, err := b.Lock()
	if err != nil {
		return err
	}
	return errors.Join(supervisor.Reap(h), h.Unlock())
}

// Collect cleans up after killed supervisors, and deletes what no sandbox and
// no reference needs: half-made and half-deleted bundles, images. It returns
// the bytes of images that it freed.
func (m *Manager) Collect(ctx context.Context) (int64, error) {
	entries, err := m.bundles.List()
	if err != nil {
		return 0, err
	}
	var errs []error
	var inUse []string
	builds := map[string]bool{}
	for _, e := range entries {
		if e.Bundle == nil {
			continue
		}
		inUse = append(inUse, e.Bundle.Spec().Image)
		info := e.Bundle.Info()
		if info.Save != nil {
			builds[info.Save.EngineBuild] = true
		}
		if info.Leftover {
			errs = append(errs, m.reap(e.Bundle))
		}
	}
	if _, err := m.bundles.Sweep(); err != nil {
		errs = append(errs, err)
	}
	errs = append(errs, m.dropBuilds(builds), m.closeAudits(entries))
	freed, err := m.images.GC(ctx, inUse)
	return freed, errors.Join(append(errs, err)...)
}

// closeAudits does that for sandboxes that went away in another way.
func (m *Manager) closeAudits(entries []bundle.Entry) error {
	root, err := m.cfg.Dirs.Audit()
	if err != nil {
		return err
	}
	logs, err := audit.List(root)
	if err != nil {
		return err
	}
	there := map[string]bool{}
	for _, e := range entries {
		if e.Bundle != nil {
			there[e.Bundle.ID()] = true
		}
	}
	var errs []error
	for _, l := range logs {
		if l.ID != "" && !there[l.ID] && l.Removed.IsZero() {
			errs = append(errs, audit.MarkRemoved(l.Dir, time.Now()))
		}
	}
	return errors.Join(append(errs, audit.Prune(root, time.Now()))...)
}

// runDir is the folder of a sandbox's own sockets, on a short path.
func runDir(dirs hostdir.Dirs, id string) (string, error) {
	run, err := dirs.Run()
	if err != nil {
		return "", err
	}
	return filepath.Join(run, id+".d"), nil
}

// Root makes sure that an image's files for engines exist.
func (m *Manager) Root(ctx context.Context, img image.Image) error {
	_, err := m.images.Root(ctx, img, nil)
	return err
}
