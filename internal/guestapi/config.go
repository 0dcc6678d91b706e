package guestapi

import (
	"encoding/json"
	"encoding/pem"
	"io"
	"net/netip"
	"path"
	"strings"
)

// Config is all that the guest is told at its start. The supervisor writes it
// as JSON to the guest's standard input and closes that; it is never on a
// disk, because it holds the SSH host key.
type Config struct {
	Version  int    `json:"version"`  // must be Version
	Hostname string `json:"hostname"` // "" leaves the kernel's

	// HostKey is the SSH host key (ed25519) in OpenSSH's PEM form;
	// AuthorizedKey is the one key that may log in, as a line of
	// authorized_keys(5).
	HostKey       string `json:"host_key"`
	AuthorizedKey string `json:"authorized_key"`
	// Listen is the IP address and port of the SSH server; Peer the only IP
	// address that may connect (the gateway, which is the supervisor).
	Listen string `json:"listen"`
	Peer   string `json:"peer"`

	User User              `json:"user"` // whom sessions run as unless they say otherwise
	Env  map[string]string `json:"env"`  // default environment of every session
	Dir  string            `json:"dir"`  // default working directory; "" the user's home

	Mounts []MountPoint `json:"mounts"` // made in this order
	Files  []File       `json:"files"`  // written in this order
	// Creation names the creation of this sandbox; files of policy Once are
	// written once per value of it. Needed when there are such files.
	Creation string `json:"creation,omitempty"`
	// StateDir keeps what has to survive a restart of the guest; "" means
	// DefaultStateDir.
	StateDir string `json:"state_dir,omitempty"`

	Hosts      string `json:"hosts,omitempty"`       // content of /etc/hosts; "" leaves it
	ResolvConf string `json:"resolv_conf,omitempty"` // content of /etc/resolv.conf; "" leaves it

	// TrustCA is a certificate in PEM that every program of the guest has to
	// trust: that of the sandbox's own authority, of which intercepted
	// connections are. Its key is not known here.
	TrustCA []byte `json:"trust_ca,omitempty"`

	Docker Docker `json:"docker"`
	// Ring is the scrollback kept per session and stream, in bytes; 0 means
	// DefaultRing.
	Ring int `json:"ring,omitempty"`
	// GraceMS is how long a SIGTERM waits for sessions to end before they are
	// killed, in milliseconds; 0 means DefaultGraceMS.
	GraceMS int `json:"grace_ms,omitempty"`
}

// Defaults of Config.
const (
	DefaultStateDir = "/var/lib/berth"
	DefaultRing     = 256 << 10
	DefaultGraceMS  = 3000
)

// User is an identity in the guest.
type User struct {
	Name  string `json:"name"`
	UID   uint32 `json:"uid"`
	GID   uint32 `json:"gid"`
	Home  string `json:"home"`
	Shell string `json:"shell,omitempty"` // "" means /etc/passwd's, else /bin/sh
}

// MountPoint is a file system that the guest mounts at its start; the target
// is made when it is missing. What is mounted there already (EBUSY) stays.
type MountPoint struct {
	Type   string `json:"type"`             // tmpfs, proc, sysfs, devpts, cgroup, cgroup2 or devtmpfs
	Target string `json:"target"`           // absolute and clean
	Data   string `json:"data,omitempty"`   // options of the file system, such as "mode=1777,size=1g"
	NoExec bool   `json:"noexec,omitempty"` // nosuid and nodev always hold but for devpts and devtmpfs
}

// Policy says when a file of the configuration is written.
type Policy string

// The policies of a File.
const (
	Always   Policy = "always"    // at every start, replacing what is there
	IfAbsent Policy = "if-absent" // when nothing is there
	Once     Policy = "once"      // at the first start of a creation, so that later edits and deletions stay
)

// File is a file that the guest writes at its start. Missing parent folders
// are made, mode 0755, with the file's owner.
type File struct {
	Path    string `json:"path"` // absolute and clean
	Mode    uint32 `json:"mode"` // permission bits, at most 0777
	UID     uint32 `json:"uid"`
	GID     uint32 `json:"gid"`
	Content []byte `json:"content"`
	Policy  Policy `json:"policy"`
}

// Docker is what the guest does for a Docker daemon of its own.
type Docker struct {
	// Enabled makes the guest listen on /var/run/docker.sock and start
	// dockerd at the first connection, where the template has one.
	Enabled bool `json:"enabled"`
	// DNS are the resolvers that containers are given, IP addresses.
	DNS []string `json:"dns,omitempty"`
	// Args are dockerd's flags, each --NAME=VALUE; none means
	// DefaultDockerArgs. A setting that the guest's /etc/docker/daemon.json
	// has too is left to that.
	Args []string `json:"args,omitempty"`
}

// DefaultDockerArgs fit a kernel without netfilter whose root is an overlay.
var DefaultDockerArgs = []string{"--iptables=false", "--ip6tables=false", "--storage-driver=overlay2"}

// ParseConfig reads a configuration until the end of r. Unknown fields, other
// versions and more than MaxConfig bytes are errors.
func ParseConfig(r io.Reader) (*Config, error) {
	b, err := io.ReadAll(io.LimitReader(r, MaxConfig+1))
	if err != nil {
		return nil, Errorf(Invalid, "read configuration: %v", err)
	}
	// The version is looked at first, so that a mismatch is not reported as
	// an unknown field.
	var v struct {
		Version int `json:"version"`
	}
	if len(b) <= MaxConfig && json.Unmarshal(b, &v) == nil && v.Version != Version {
		return nil, Errorf(Invalid, "configuration has version %d, this guest speaks %d", v.Version, Version)
	}
	c, err := Parse[Config](b, MaxConfig)
	if err != nil {
		return nil, err
	}
	c.defaults()
	return &c, nil
}

func (c *Config) defaults() {
	if c.StateDir == "" {
		c.StateDir = DefaultStateDir
	}
	if c.Ring == 0 {
		c.Ring = DefaultRing
	}
	if c.GraceMS == 0 {
		c.GraceMS = DefaultGraceMS
	}
	if c.Dir == "" {
		c.Dir = c.User.Home
	}
}

// Check reports the first thing that makes no sense. The keys are parsed by
// the SSH server, not here.
func (c *Config) Check() error {
	listen, err := netip.ParseAddrPort(c.Listen)
	if err != nil {
		return Errorf(Invalid, "listen address %q: %v", c.Listen, err)
	}
	peer, err := netip.ParseAddr(c.Peer)
	if err != nil || peer.Is4() != listen.Addr().Is4() {
		return Errorf(Invalid, "peer address %q does not fit %q", c.Peer, c.Listen)
	}
	switch {
	case c.Version != Version:
		return Errorf(Invalid, "configuration has version %d, this guest speaks %d", c.Version, Version)
	case len(c.Hostname) > 64 || strings.ContainsAny(c.Hostname, "\n\x00/ "):
		return Errorf(Invalid, "hostname %q", c.Hostname)
	case c.User.Name == "" || !clean(c.User.Home):
		return Errorf(Invalid, "user %q with home %q", c.User.Name, c.User.Home)
	case c.Dir != "" && !clean(c.Dir):
		return Errorf(Invalid, "working directory %q is not a clean absolute path", c.Dir)
	case c.StateDir != "" && !clean(c.StateDir):
		return Errorf(Invalid, "state directory %q is not a clean absolute path", c.StateDir)
	case c.Ring < 0 || c.Ring > MaxRing:
		return Errorf(Invalid, "scrollback of %d bytes is outside 0 to %d", c.Ring, MaxRing)
	case c.GraceMS < 0 || c.GraceMS > 600_000:
		return Errorf(Invalid, "grace of %d ms is outside 0 to 600000", c.GraceMS)
	case !plainName(c.Creation):
		return Errorf(Invalid, "creation %q", c.Creation)
	}
	if block, rest := pem.Decode(c.TrustCA); len(c.TrustCA) > 0 && (block == nil || block.Type != "CERTIFICATE" || len(rest) > 0) {
		return Errorf(Invalid, "the authority to trust is not one certificate")
	}
	if err := checkEnv(c.Env); err != nil {
		return err
	}
	return c.checkLists()
}

func (c *Config) checkLists() error {
	for _, m := range c.Mounts {
		switch m.Type {
		case "tmpfs", "proc", "sysfs", "devpts", "cgroup", "cgroup2", "devtmpfs":
		default:
			return Errorf(Invalid, "mount of type %q", m.Type)
		}
		if !clean(m.Target) || m.Target == "/" || strings.ContainsRune(m.Data, 0) {
			return Errorf(Invalid, "mount target %q", m.Target)
		}
	}
	for _, f := range c.Files {
		switch {
		case !clean(f.Path) || f.Path == "/":
			return Errorf(Invalid, "file %q is not a clean absolute path", f.Path)
		case f.Mode > 0o777:
			return Errorf(Invalid, "file %s has mode %o", f.Path, f.Mode)
		case f.Policy != Always && f.Policy != IfAbsent && f.Policy != Once:
			return Errorf(Invalid, "file %s has policy %q", f.Path, f.Policy)
		case f.Policy == Once && c.Creation == "":
			return Errorf(Invalid, "file %s is to be written once, but the creation has no name", f.Path)
		}
	}
	for _, d := range c.Docker.DNS {
		if _, err := netip.ParseAddr(d); err != nil {
			return Errorf(Invalid, "docker resolver %q: %v", d, err)
		}
	}
	return nil
}

// clean reports whether p is an absolute path in its shortest form.
func clean(p string) bool {
	return path.IsAbs(p) && path.Clean(p) == p && !strings.ContainsRune(p, 0)
}

// plainName reports whether s is empty or can be part of a file's name.
func plainName(s string) bool {
	if len(s) > 64 {
		return false
	}
	for _, r := range s {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' {
			return false
		}
	}
	return true
}

// Where the sandbox's authority (Config.TrustCA) is in the guest: alone, and
// together with all that the system trusts.
const (
	TrustFile   = "/usr/local/share/ca-certificates/berth-sandbox.crt"
	TrustBundle = "/etc/ssl/certs/ca-certificates.crt"
)

// IsTrustVariable says whether a variable of Config.Env leads a program to the
// sandbox's authority. Such ones go where an environment is made anew: over
// sudo, and into containers.
func IsTrustVariable(name, value string) bool {
	for _, r := range name {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' {
			return false // it will stand in files where others mean something
		}
	}
	return name != "" && (value == TrustFile || value == TrustBundle)
}
