// Package sandbox is the vocabulary that every other package of Berth shares:
// what a sandbox is called, what it was asked to be, what state it is in, and
// the classes of what can go wrong. It holds values and their rules and does
// nothing; it imports only the standard library, and everything may import it.
package sandbox

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// Identity of the guest's user. Every template has it.
const (
	UserName = "agent"
	UserUID  = 1000
	UserGID  = 1000
	UserHome = "/home/agent"
)

// HostName is the guest's name for the loopback of the host.
const HostName = "host.berth.internal"

// GuestDir is where Berth's own things are mounted in the guest, read-only.
const GuestDir = "/.berth"

// AgentDir is where the layer of an agent is mounted in the guest, read-only:
// AgentDir/NAME, its commands in AgentDir/NAME/bin.
const AgentDir = "/opt/berth/agent"

// nameRE is what a host name label may look like, because a sandbox's name is
// its guest's host name and a folder on the host.
var nameRE = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// CheckName reports why s cannot be a sandbox's name: 1 to 63 of a-z, 0-9 and
// '-', neither first nor last a '-' (RFC 1123 labels, lower case).
func CheckName(s string) error {
	if !nameRE.MatchString(s) {
		return Errorf(ErrInvalid, "%q cannot be a sandbox's name", s).
			WithHint("use 1 to 63 lower-case letters, digits and dashes, with no dash at either end")
	}
	return nil
}

// NameFrom makes a valid name of an agent's name and a workspace folder:
// agent-folder, everything that a name cannot hold turned into dashes.
func NameFrom(agent, folder string) string {
	raw := strings.ToLower(agent + "-" + filepath.Base(folder))
	var b strings.Builder
	for _, r := range raw {
		if (r >= 'a' && r <= 'z') || (r >= '0' && r <= '9') {
			b.WriteRune(r)
		} else if s := b.String(); s != "" && !strings.HasSuffix(s, "-") {
			b.WriteByte('-')
		}
	}
	// 57 leaves room for the "-12345" of a name that was taken.
	s := b.String()
	if len(s) > 57 {
		s = s[:57]
	}
	s = strings.Trim(s, "-")
	if s == "" {
		return "sandbox"
	}
	return s
}

// NewID returns a fresh random identifier, 12 hex digits.
func NewID() string {
	var b [6]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand.Read since Go 1.24
	return hex.EncodeToString(b[:])
}

// Mount makes a host file or folder visible in the guest.
type Mount struct {
	Host     string `json:"host"`  // absolute, clean, symlinks resolved
	Guest    string `json:"guest"` // absolute, clean
	ReadOnly bool   `json:"read_only,omitempty"`
}

// Check reports what is wrong with a mount's form; it does not look at the host.
func (m Mount) Check() error {
	switch {
	case !filepath.IsAbs(m.Host) || filepath.Clean(m.Host) != m.Host:
		return Errorf(ErrInvalid, "mount source %q is not a clean absolute path", m.Host)
	case !path.IsAbs(m.Guest) || path.Clean(m.Guest) != m.Guest:
		return Errorf(ErrInvalid, "mount target %q is not a clean absolute path", m.Guest)
	case m.Guest == "/":
		return Errorf(ErrInvalid, "a mount cannot replace the sandbox's root folder")
	}
	for _, own := range []string{"/proc", "/sys", "/dev", GuestDir, AgentDir} {
		if m.Guest == own || strings.HasPrefix(m.Guest, own+"/") {
			return Errorf(ErrInvalid, "mount target %s lies in %s, which belongs to the sandbox itself", m.Guest, own)
		}
	}
	return nil
}

// Link is a symlink in the guest, both paths absolute: the way by which the
// user came to a workspace.
type Link struct {
	Path   string `json:"path"`
	Target string `json:"target"`
}

// Resources are the caps that were asked for; zero means none was.
type Resources struct {
	CPUs   int   `json:"cpus,omitempty"`
	Memory int64 `json:"memory,omitempty"` // bytes
	Disk   int64 `json:"disk,omitempty"`   // bytes of the writable root
	PIDs   int   `json:"pids,omitempty"`
}

// Spec is what a sandbox was asked to be when it was created. It is fixed: a
// different wish means another sandbox. Its JSON form is on disk (bundle).
type Spec struct {
	Name      string            `json:"name"`
	Agent     string            `json:"agent"`
	Engine    string            `json:"engine"`
	Template  string            `json:"template"`  // reference as the user or the agent's table said it
	Image     string            `json:"image"`     // digest that the reference meant at creation
	Workspace string            `json:"workspace"` // the primary folder; the agent's working directory
	Mounts    []Mount           `json:"mounts"`    // workspaces first, then -v
	Links     []Link            `json:"links,omitempty"`
	Env       map[string]string `json:"env"`              // passed as it is
	HostPorts []int             `json:"host_ports"`       // loopback ports of the host that the guest may reach
	Preset    string            `json:"preset,omitempty"` // of the network policy; "" the user's
	Ask       bool              `json:"ask,omitempty"`    // let the user decide about what no rule does
	// Credentials says what the guest can use of the user's secrets; "" is
	// CredentialsSandbox.
	Credentials string        `json:"credentials,omitempty"`
	Resources   Resources     `json:"resources"`
	Remove      bool          `json:"remove,omitempty"` // --rm
	IdleAfter   time.Duration `json:"idle_after"`       // stop after this long without a session; 0 never
}

// What a guest can use of the user's secrets.
const (
	CredentialsSandbox = "sandbox" // those of the store and of the shell, as placeholders
	CredentialsHost    = "host"    // as those, but logins are those that the agents have on the host
	CredentialsNone    = "none"    // none: what it signs in with is its own
)

// Status is where a sandbox stands, as `berth ls` prints it.
type Status string

// The states. A sandbox is made Creating, comes to be Running, and is Stopped
// from then on until it runs again; Broken is what gc could not mend.
const (
	Creating Status = "creating"
	Running  Status = "running"
	Stopped  Status = "stopped"
	Broken   Status = "broken"
)

// ParseSize reads a size in bytes as users write it: 512m, 4g, 4GiB, 1024.
// Units are powers of 1024, as Docker's are.
func ParseSize(s string) (int64, error) {
	t := strings.ToLower(strings.TrimSpace(s))
	t = strings.TrimSuffix(strings.TrimSuffix(t, "b"), "i")
	shift := 0
	for unit, n := range map[string]int{"k": 10, "m": 20, "g": 30, "t": 40} {
		if strings.HasSuffix(t, unit) {
			t, shift = strings.TrimSuffix(t, unit), n
			break
		}
	}
	var v float64
	if _, err := fmt.Sscanf(t+"\n", "%f\n", &v); err != nil || !(v > 0) || v*float64(int64(1)<<shift) > 1<<62 {
		return 0, Errorf(ErrInvalid, "%q is not a size", s).WithHint("write a number and a unit, such as 512m or 4g")
	}
	return int64(v * float64(int64(1)<<shift)), nil
}
