package supervisor

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"

	"berth.dev/internal/bundle"
	"berth.dev/internal/control"
	"berth.dev/internal/engine"
	"berth.dev/internal/guestapi/client"
	"berth.dev/internal/guestbin"
	"berth.dev/internal/netstack"
	"berth.dev/internal/sandbox"
	"berth.dev/internal/workspace"
)

// guestPort is the TCP port of the guest's SSH server; only the gateway's
// address may connect to it.
const guestPort = 2

// Times of a start.
const (
	bootTime = 60 * time.Second // for the guest to answer, on a machine under load
	dialWait = time.Millisecond // between two tries to reach the guest's SSH server
	logSize  = 8 << 20          // of each log, bytes
	// guestSays is how much of what the guest's first process prints is kept of
	// each run, in bytes.
	guestSays = 256 << 10
)

// boot makes the wire, its two ends and the machine between, and starts it.
func (s *Supervisor) boot(ctx context.Context) error {
	spec := s.cfg.Bundle.Spec()
	eng, err := s.cfg.Engines.Lookup(spec.Engine)
	if err != nil {
		return err
	}
	s.engine = eng
	if s.image, err = s.cfg.Images.Lookup(spec.Image); err != nil {
		return err
	}
	// The placeholders of secrets follow from the keys, as the wire's do.
	if s.keys, err = s.held.Keys(); err != nil {
		return err
	}
	link := netstack.DefaultLink()
	link.Checksums = eng.Features().Checksums
	ours, theirs, err := netstack.Pair()
	if err != nil {
		return err
	}
	defer theirs.Close()
	if err := s.startNetwork(ours, link, spec); err != nil {
		ours.Close()
		return err
	}
	stdin, config, err := os.Pipe()
	if err != nil {
		return err
	}
	defer stdin.Close()
	defer config.Close()
	out, err := s.guestOutput()
	if err != nil {
		return err
	}
	defer out.Close()
	// The guest reads its configuration as the first thing it does; it is made
	// while the machine is, because it has to ask git things.
	made := make(chan result, 1)
	go func() { made <- s.encodeGuestConfig(ctx, link) }()
	ec, err := s.machineConfig(ctx, spec)
	if err != nil {
		return err
	}
	ec.Stdin, ec.Log = stdin, out
	ec.Network = networkConfig(link, theirs)
	if err := s.startMachine(ctx, ec); err != nil {
		return err
	}
	s.keepTrack(spec)
	gc := <-made
	if gc.err != nil {
		return gc.err
	}
	if _, err := config.Write(gc.data); err != nil {
		return fmt.Errorf("configure the guest: %w", err)
	}
	return nil
}

// keepTrack makes what follows the machine's life.
func (s *Supervisor) keepTrack(spec sandbox.Spec) {
	s.sessions = newSessions(spec.IdleAfter, spec.Remove)
	s.saver = newSaver(s.held, s.machine, s.engine, s.cfg.KeepBuild)
	s.memory = memoryCap{log: s.log, reclaim: s.reclaim}
	if mr, ok := s.machine.(engine.MemoryReporter); ok {
		s.memory.cap, s.memory.machine = uint64(spec.Resources.Memory), mr
	}
}

type result struct {
	data []byte
	err  error
}

func (s *Supervisor) encodeGuestConfig(ctx context.Context, link netstack.Link) result {
	gc, err := s.guestConfig(ctx, link)
	if err != nil {
		return result{nil, err}
	}
	data, err := json.Marshal(gc)
	return result{data, err}
}

func networkConfig(l netstack.Link, wire *os.File) engine.Network {
	return engine.Network{
		Wire: wire, MTU: l.MTU, MAC: l.GuestMAC, GatewayMAC: l.GatewayMAC,
		Addrs:    []netip.Prefix{l.Guest4, l.Guest6},
		Gateways: []netip.Addr{l.Gateway4, l.Gateway6},
	}
}

// machineConfig is the part of the machine that the bundle decides.
func (s *Supervisor) machineConfig(ctx context.Context, spec sandbox.Spec) (engine.Config, error) {
	ec := engine.Config{
		ID: s.cfg.Bundle.ID(), Hostname: spec.Name, Resources: spec.Resources,
		StateDir: s.cfg.Bundle.RootDir(), RunDir: s.cfg.RunDir, CacheDir: s.cfg.CacheDir,
		Args:  []string{filepath.Join(sandbox.GuestDir, guestbin.Name)},
		Env:   []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		Tmpfs: []engine.Tmpfs{{Guest: dockerDir, Keep: true}},
	}
	root, err := s.cfg.Images.Root(ctx, s.image, nil)
	if err != nil {
		return ec, err
	}
	ec.Root = root.Root
	for _, m := range root.Mounts {
		ec.Layers = append(ec.Layers, engine.Layer{File: m.File, Guest: m.Dir})
	}
	guest, err := guestbin.Extract(s.cfg.GuestDir)
	if err != nil {
		return ec, err
	}
	// What a mount names may have been swapped since, by a guest that could
	// write the folder it is in.
	if err := workspace.Verify(spec.Mounts); err != nil {
		return ec, err
	}
	ec.Mounts = append([]sandbox.Mount{{Host: guest, Guest: sandbox.GuestDir, ReadOnly: true}}, workspace.Order(spec.Mounts)...)
	ec.Restore, err = s.restoreFrom()
	return ec, err
}

// dockerDir holds what the guest's Docker daemon stores. Its overlay driver
// cannot work on top of the root's overlay, so it is a file system of its own.
const dockerDir = "/var/lib/docker"

// restoreFrom returns the folder of the engine's save to start from, or "".
func (s *Supervisor) restoreFrom() (string, error) {
	if s.engine.Features().Persistent {
		return "", nil // what the last machine left is newer than any save
	}
	dir, meta, err := s.held.CurrentSave()
	if errors.Is(err, sandbox.ErrNotFound) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	if meta.Engine != s.engine.Name() || meta.EngineBuild != s.engine.Build() {
		return "", sandbox.Errorf(sandbox.ErrPrecondition, "sandbox %s was saved by %s, this is %s", s.held.Name(), meta.EngineBuild, s.engine.Build()).
			WithHint("use the berth that saved it")
	}
	return dir, nil
}

// startMachine makes and starts the machine, recording its processes as soon
// as there are any.
func (s *Supervisor) startMachine(ctx context.Context, ec engine.Config) error {
	m, err := s.engine.Create(ctx, ec)
	if err != nil {
		return err
	}
	s.machine = m
	s.undo.Push(func() error {
		return errors.Join(m.Close(), s.held.Update(func(st *bundle.State) {
			st.Resources = slices.DeleteFunc(st.Resources, func(r bundle.Resource) bool { return r.Kind == kindProcess })
		}))
	})
	var made []bundle.Resource
	for _, pid := range m.Processes() {
		p, err := bundle.ProcessOf(pid)
		if err != nil {
			return fmt.Errorf("the machine ended while it started: %w", err)
		}
		made = append(made, bundle.Resource{Kind: kindProcess, Name: fmt.Sprint(pid), Process: p})
	}
	err = s.held.Update(func(st *bundle.State) { st.Resources = append(st.Resources, made...) })
	if err != nil {
		return err
	}
	return m.Start(ctx)
}

// guestOutput returns a pipe whose other end goes, line by line, to this
// process's log, marked and bounded: it is the guest that writes it.
func (s *Supervisor) guestOutput() (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	go func() {
		defer r.Close()
		sc := bufio.NewReaderSize(r, 4096)
		left := guestSays
		for {
			line, err := sc.ReadSlice('\n')
			// The guest's root can write here for ever; it is read on, so that
			// nothing in the guest blocks, and no longer kept.
			if left > 0 && len(line) > 0 {
				left -= len(line)
				s.log.Info("guest", "says", string(line))
				if left <= 0 {
					s.log.Warn("the guest has said enough; the rest is dropped")
				}
			}
			if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
				return
			}
		}
	}()
	return w, nil
}

// connect reaches the guest's SSH server and subscribes to its events.
func (s *Supervisor) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, bootTime)
	defer cancel()
	conn, err := s.dialGuest(ctx)
	if err != nil {
		return fmt.Errorf("the guest does not answer: %w", err)
	}
	signer, err := ssh.NewSignerFromKey(s.keys.Client)
	if err != nil {
		return err
	}
	hostKey, err := ssh.NewPublicKey(s.keys.Host.Public())
	if err != nil {
		return err
	}
	if s.guest, err = client.Dial(ctx, conn, signer, hostKey); err != nil {
		return fmt.Errorf("speak with the guest: %w", err)
	}
	s.undo.Push(s.guest.Close)
	if err := s.watch(ctx); err != nil {
		return err
	}
	if err := s.makeLinks(ctx, s.cfg.Bundle.Spec().Links); err != nil {
		s.log.Warn("make the workspace's links", "error", err) // its real path works
	}
	return nil
}

// dialGuest tries until the server listens, which it does within milliseconds
// of its start.
func (s *Supervisor) dialGuest(ctx context.Context) (net.Conn, error) {
	for {
		conn, err := s.net.stack.DialGuest(ctx, guestPort)
		if err == nil {
			return conn, nil
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(err, ctx.Err())
		case <-time.After(dialWait):
		}
	}
}

// listen opens the control socket. Connections wait in it until Run serves them.
func (s *Supervisor) listen(context.Context) error {
	if err := removeFile(s.cfg.Socket); err != nil {
		return err
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.cfg.Socket, Net: "unix"})
	if err != nil {
		return fmt.Errorf("open the control socket: %w", err)
	}
	// The folder is 0700; the mode is the second lock.
	if err := os.Chmod(s.cfg.Socket, 0o600); err != nil {
		ln.Close()
		return err
	}
	s.ln = ln
	s.undo.Push(func() error {
		if err := ln.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	return nil
}

// tunnel joins a client's connection with the guest's SSH server.
func (s *Supervisor) tunnel(ctx context.Context, c *control.Conn) error {
	dialing, cancel := context.WithTimeout(ctx, bootTime)
	defer cancel()
	conn, err := s.dialGuest(dialing)
	if err != nil {
		return c.Reply(nil, fmt.Errorf("the guest does not answer: %w", err))
	}
	defer conn.Close()
	keys := control.GuestKeys{Client: s.keys.Client, Host: s.keys.Host.Public().(ed25519.PublicKey)}
	if err := c.Reply(keys, nil); err != nil {
		return err
	}
	done := make(chan struct{}, 2)
	pump := func(dst, src net.Conn) {
		_, _ = io.Copy(dst, src)
		if cw, ok := dst.(interface{ CloseWrite() error }); ok {
			_ = cw.CloseWrite()
		}
		done <- struct{}{}
	}
	go pump(conn, c)
	go pump(c, conn)
	for range 2 {
		select {
		case <-done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
