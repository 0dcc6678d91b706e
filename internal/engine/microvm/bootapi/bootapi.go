// Package bootapi is what the microvm driver and the init of its guests say to
// each other over the machine's serial ports. It holds the forms and nothing
// that acts on them. The host never believes what comes back more than it has
// to: events are bounded in size, and carry statuses and words for a log.
package bootapi

import (
	"net/netip"
)

// Version of the messages; both sides are of one build, so that a difference
// means a stale initramfs.
const Version = 1

// Names of the serial ports, as in /sys/class/virtio-ports/*/name.
const (
	PortControl = "berth.control" // JSON, one message a line, both ways
	PortStdin   = "berth.stdin"   // bytes to the first process
	PortOutput  = "berth.output"  // bytes from it
	PortLayer   = "berth.layer"   // a tar of the root's changes, when asked for
)

// Serial numbers of the block devices, by which init finds them.
const (
	DiskRoot    = "root"    // the template, EROFS
	DiskState   = "state"   // ext4: what the guest writes
	DiskModules = "modules" // the kernel's modules, EROFS
	DiskLayer   = "layer"   // and a number: EROFS
)

// ShareTag is the tag of the virtiofs device.
const ShareTag = "berth"

// Where init keeps its own things in the initramfs.
const (
	ModulesIndex = "/modules.json" // a kernel.Index
	ModulesDir   = "/modules"      // mount point of DiskModules
	BaseDir      = "/base"         // modules that have to be there before any disk
)

// MaxMessage bounds a line on PortControl, in bytes.
const MaxMessage = 1 << 20

// Request is a message to init.
type Request struct {
	Op     Op     `json:"op"`
	ID     int    `json:"id,omitempty"` // the answer carries it
	Boot   *Boot  `json:"boot,omitempty"`
	Signal int    `json:"signal,omitempty"`
	Count  int64  `json:"count,omitempty"`  // StdinEnd: bytes that were sent in all
	UnixNS int64  `json:"unixns,omitempty"` // SetTime
	Reason string `json:"reason,omitempty"`
}

// Op is what init is asked to do.
type Op string

// The requests.
const (
	OpBoot     Op = "boot"      // once, and first
	OpSignal   Op = "signal"    // to the first process
	OpStdinEnd Op = "stdin-end" // the first process's standard input ends after Count bytes
	OpFreeze   Op = "freeze"    // make the state disk consistent and keep it so
	OpThaw     Op = "thaw"
	OpSync     Op = "sync" // write all that is in memory to the state disk
	OpLayer    Op = "layer"
	OpTime     Op = "time"
)

// Event is a message from init.
type Event struct {
	Event  Kind   `json:"event"`
	ID     int    `json:"id,omitempty"`
	Status int    `json:"status,omitempty"` // Exited: as a shell has it
	Error  string `json:"error,omitempty"`
	// Version and Kernel are part of Hello.
	Version int    `json:"version,omitempty"`
	Kernel  string `json:"kernel,omitempty"`
}

// Kind is what an Event reports.
type Kind string

// The events.
const (
	Hello   Kind = "hello"   // init listens
	Started Kind = "started" // the first process runs
	Failed  Kind = "failed"  // it cannot be started; Error says why
	Done    Kind = "done"    // answer to the request with that ID
	Exited  Kind = "exited"  // the first process ended and the state disk is clean
)

// Boot is everything that init has to know.
type Boot struct {
	Hostname string   `json:"hostname"`
	Args     []string `json:"args"`
	Env      []string `json:"env"`
	UnixNS   int64    `json:"unixns"`
	// DiskSize is what the state disk's file system is grown to, in bytes.
	DiskSize int64   `json:"disk_size"`
	Layers   []Layer `json:"layers"`
	Tmpfs    []Tmpfs `json:"tmpfs"`
	Mounts   []Mount `json:"mounts"`
	Network  Network `json:"network"`
}

// Layer is an EROFS disk mounted at Target.
type Layer struct {
	Disk   string `json:"disk"`
	Target string `json:"target"`
}

// Tmpfs is a file system in memory, or, when it is kept, a folder of the state
// disk beside the root's.
type Tmpfs struct {
	Target string `json:"target"`
	Keep   bool   `json:"keep,omitempty"`
}

// Mount shows what the share has under Name at Target.
type Mount struct {
	Name     string `json:"name"`
	Target   string `json:"target"`
	ReadOnly bool   `json:"read_only,omitempty"`
}

// Network is the guest's one interface.
type Network struct {
	MTU        int            `json:"mtu"`
	Addrs      []netip.Prefix `json:"addrs"`
	Gateways   []netip.Addr   `json:"gateways"`
	GatewayMAC string         `json:"gateway_mac,omitempty"`
}

// Module is one module of the kernel's: its file below ModulesDir, and the
// modules it needs, by name.
type Module struct {
	File  string   `json:"file"`
	Needs []string `json:"needs,omitempty"`
}

// Index lets init do what modprobe does.
type Index struct {
	Release string            `json:"release"`
	Modules map[string]Module `json:"modules"`
	// Aliases are what the kernel asks for, to a module's name; those with a
	// pattern in them are of hardware, which a microVM has none of.
	Aliases map[string]string `json:"aliases"`
	// Base are files below BaseDir, in the order they are loaded in.
	Base []string `json:"base"`
}
