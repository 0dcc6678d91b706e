// Package engine is the contract between Berth and what isolates a guest. A
// driver (engine/gvisor, engine/microvm) turns a Config into a running
// Machine; nothing outside a driver's folder knows which one runs. The package
// owns the interfaces and the registry, and no mechanism.
package engine

import (
	"context"
	"net"
	"net/netip"
	"os"
	"sort"
	"strings"

	"berth.dev/internal/sandbox"
)

// Engine makes machines. Implementations are safe for concurrent use.
type Engine interface {
	// Name is the word that selects the engine: "gvisor".
	Name() string
	// Build identifies this build of the engine; a save carries it.
	Build() string
	// Features says what machines of this engine can do.
	Features() Features
	// Check reports why this host cannot run the engine, as a *sandbox.Error of
	// class ErrUnavailable whose hint mends it, or nil. It is cheap.
	Check(ctx context.Context) error
	// Create makes a machine that has not started. On error nothing is left
	// behind: no process, no mount, no socket. The caller calls Close.
	Create(ctx context.Context, cfg Config) (Machine, error)
}

// Machine is one isolated Linux. Methods are safe for concurrent use.
type Machine interface {
	// Start runs the guest's first process. It is called once.
	Start(ctx context.Context) error
	// Wait blocks until the machine has ended, for whatever reason, and returns
	// the first process's exit status (128+n for a signal). It may be called
	// many times, by many goroutines, and after Close.
	Wait(ctx context.Context) (int, error)
	// Signal sends a signal to the guest's first process.
	Signal(sig os.Signal) error
	// Save writes the state of the root file system and of the kept tmpfs
	// mounts into dir, which exists and is empty. The machine is paused for the
	// time and then goes on. What is in dir after an error means nothing.
	Save(ctx context.Context, dir string) error
	// Limits says which caps of Config.Resources are enforced, and how.
	Limits() []Limit
	// Processes returns the host process ids that make up the machine.
	Processes() []int
	// Close ends the machine at once if it still runs and frees all it holds.
	// It is idempotent.
	Close() error
}

// LayerWriter is the ability to write what a machine's root has beyond its
// image as an OCI layer: an uncompressed tar with whiteouts.
type LayerWriter interface {
	// WriteLayer pauses the machine while it writes to w, which must be a file
	// or a pipe.
	WriteLayer(ctx context.Context, w *os.File) error
}

// LayerStarter is the ability to start a machine whose writable root is filled
// from such a tar: the way back for a save that this build cannot read.
type LayerStarter interface {
	// CanStartFrom reports whether a save written by build can be restored.
	CanStartFrom(build string) bool
}

// MemoryReporter is the ability to tell how much memory the guest uses.
type MemoryReporter interface {
	// Memory returns the guest's memory in bytes.
	Memory() (uint64, error)
}

// Flusher is the ability to make durable, at once, what the guest has written
// to a state that persists (Features.Persistent).
type Flusher interface {
	Flush(ctx context.Context) error
}

// Preparer is the ability to fetch and make what all machines of an engine
// need, before the first of them: it may take minutes, and a person can watch.
// Create does the same when nobody has; prepared, it takes no time.
type Preparer interface {
	// Prepare keeps what it makes in a folder like Config.CacheDir. progress may
	// be nil; total is 0 while it is not known.
	Prepare(ctx context.Context, cacheDir string, progress func(what string, done, total int64)) error
}

// Prober is the ability to say how well an engine runs on this host, which
// Check does not: it may take seconds.
type Prober interface {
	// Probe returns what there is in a clause, and what is worse than it could be
	// as a *sandbox.Error with a hint, or nil. cacheDir is like Config.CacheDir, or
	// "": then nothing that was found before counts, or is kept.
	Probe(ctx context.Context, cacheDir string) (how string, warning error)
}

// Reexecer is the need of an engine whose machines have processes of this same
// binary: main calls Registry.Reexec before anything else.
type Reexecer interface {
	// Reexec takes over and does not return when this process is one of them.
	Reexec()
}

// Features says what an engine can do; what it cannot is said to the user.
type Features struct {
	Save  bool // Machine.Save and Config.Restore
	Layer bool // machines are LayerWriters
	// Persistent: StateDir is the guest's state. A machine without a Restore goes
	// on from what the last one in that folder left, also when that was killed,
	// and Save makes copies. Otherwise each machine begins anew, and what is not
	// in a Save is lost.
	Persistent bool
	// Checksums: the guest's end of the wire computes and verifies checksums.
	Checksums bool
	// Netfilter: the guest's kernel filters and translates, as Docker wants it.
	Netfilter bool
	// NeedsKVM: the engine is of use only with hardware virtualisation.
	NeedsKVM bool
}

// Config is everything a machine is made of. Paths are absolute and clean.
type Config struct {
	// ID is unique among machines that run at one time; 12 hex digits.
	ID string
	// Hostname of the guest.
	Hostname string
	// StateDir is a folder of the machine's own that exists, mode 0700, and is
	// kept from one start to the next: the engine's writable files.
	StateDir string
	// RunDir is another, on a short path, emptied between starts: sockets.
	RunDir string
	// CacheDir is a folder that all machines share and that may be deleted at any
	// time when none runs; what an engine fetches for all of them is there.
	CacheDir string
	// Root is the EROFS file of the root file system.
	Root string
	// Layers are EROFS files mounted read-only below the root.
	Layers []Layer
	// Mounts are host files and folders, parents before children.
	Mounts []sandbox.Mount
	// Tmpfs are memory file systems.
	Tmpfs []Tmpfs
	// Args and Env are of the first process, which runs as the guest's root.
	Args []string
	Env  []string
	// Stdin is a pipe for the first process to read; Log receives its standard
	// output and error. Neither is a regular file. The driver does not close them.
	Stdin, Log *os.File
	// Network is the guest's only wire.
	Network Network
	// Resources are the caps that were asked for.
	Resources sandbox.Resources
	// Restore is the folder of a Save to start from, or "".
	Restore string
}

// Layer is an EROFS file mounted read-only at Guest.
type Layer struct{ File, Guest string }

// Tmpfs is a file system of the guest's own.
type Tmpfs struct {
	Guest string
	// Keep: its content is part of a Save.
	Keep bool
}

// Network configures the guest's single interface. Wire is one end of a pair
// of connected AF_UNIX datagram sockets, each message one ethernet frame. The
// driver duplicates it; the caller closes its own.
type Network struct {
	Wire       *os.File
	MTU        int
	MAC        net.HardwareAddr
	Addrs      []netip.Prefix
	Gateways   []netip.Addr
	GatewayMAC net.HardwareAddr // static neighbour entry for the gateways; nil asks by ARP and NDP
}

// Limit is one cap and whether it holds.
type Limit struct {
	Resource string `json:"resource"` // "cpus", "memory", "disk", "pids"
	Asked    int64  `json:"asked"`    // 0: none asked
	Enforced bool   `json:"enforced"`
	// How says by what it is enforced, or why it is not, in a plain clause.
	How string `json:"how"`
}

// Registry holds the drivers of this build, in order of preference.
type Registry struct{ engines []Engine }

// NewRegistry returns a registry of the given engines; the first is the default.
func NewRegistry(engines ...Engine) *Registry { return &Registry{engines: engines} }

// Engines are the engines, in order.
func (r *Registry) Engines() []Engine { return r.engines }

// Reexec hands this process over when it is one of an engine's own, and then
// does not return. It is the first thing that main calls.
func (r *Registry) Reexec() {
	for _, e := range r.engines {
		if x, ok := e.(Reexecer); ok {
			x.Reexec()
		}
	}
}

// Lookup returns the engine of that name; "" means the default.
func (r *Registry) Lookup(name string) (Engine, error) {
	var names []string
	for _, e := range r.engines {
		if name == "" || e.Name() == name {
			return e, nil
		}
		names = append(names, e.Name())
	}
	sort.Strings(names)
	return nil, sandbox.Errorf(sandbox.ErrNotFound, "there is no engine %q", name).
		WithHint("this build has: %s", strings.Join(names, ", "))
}
