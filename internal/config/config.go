// Package config is the user's settings: config.toml in Berth's configuration
// folder, written by hand. It reads and checks them; what they mean is for those
// who use them. Rules of the network are not here but in policy.toml.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/pelletier/go-toml/v2"

	"berth.dev/internal/sandbox"
)

// Name of the file in the configuration folder.
const Name = "config.toml"

// maxSize bounds the file, in bytes.
const maxSize = 1 << 20

// AskTime is how long the user is waited for when the file does not say.
const AskTime = time.Minute

// Config is what the file says. The zero value is that of a missing file.
type Config struct {
	// Engine is what new sandboxes are made with; "" is the default.
	Engine string `toml:"engine"`
	// Network is about every sandbox's way out.
	Network Network `toml:"network"`
	// Secrets is about where the user's secrets are kept.
	Secrets Secrets `toml:"secrets"`
	// Upstreams are places that are somewhere else than their names say.
	Upstreams []Upstream `toml:"upstream"`
}

// Network is the table [network].
type Network struct {
	// Ask lets the user decide, in another terminal, about the first connection
	// to a place that no rule decides.
	Ask bool `toml:"ask"`
	// AskTimeout is how long such a connection waits: "45s". At most an hour.
	AskTimeout Duration `toml:"ask_timeout"`
	// Notify sends a desktop notification about it; true when it is not said.
	Notify *bool `toml:"notify"`
}

// Wait is AskTimeout, or its default.
func (n Network) Wait() time.Duration {
	if n.AskTimeout == 0 {
		return AskTime
	}
	return time.Duration(n.AskTimeout)
}

// Notifies says whether the desktop is told.
func (n Network) Notifies() bool { return n.Notify == nil || *n.Notify }

// Secrets is the table [secrets].
type Secrets struct {
	// Keyring keeps values in the desktop's keyring where there is one; true when
	// it is not said. With false they are in encrypted files, and what is in the
	// keyring from before is not read.
	Keyring *bool `toml:"keyring"`
}

// UsesKeyring says whether the desktop's keyring is asked at all.
func (s Secrets) UsesKeyring() bool { return s.Keyring == nil || *s.Keyring }

// Upstream is a table [[upstream]]: connections to Host and Port go to Address.
type Upstream struct {
	Host    string `toml:"host"`
	Port    uint16 `toml:"port"`    // 0: every port
	Address string `toml:"address"` // address:port
	// CA is a PEM file with the authority of the certificate that is served
	// there. Connections are then intercepted, since nothing inside the sandbox
	// would trust it.
	CA string `toml:"ca"`
}

// Duration is a time.Duration as text: "45s".
type Duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("%q is not a duration: write 45s or 2m", b)
	}
	*d = Duration(v)
	return nil
}

// Load reads the file in a configuration folder. One that does not exist is
// the zero Config.
func Load(dir string) (Config, error) {
	name := filepath.Join(dir, Name)
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return Config{}, nil
	}
	if err != nil {
		return Config{}, fmt.Errorf("read the settings: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return Config{}, fmt.Errorf("read the settings: %w", err)
	}
	c, err := Parse(data)
	if err != nil {
		return Config{}, sandbox.Errorf(sandbox.ErrInvalid, "the settings in %s: %w", name, err).
			WithHint("mend the file; docs/network.md and docs/secrets.md say what it may hold")
	}
	return c, nil
}

// Parse reads settings. What it does not know is an error, so that a slip of
// the pen does not silently leave something open or shut.
func Parse(data []byte) (Config, error) {
	var c Config
	if len(data) > maxSize {
		return c, fmt.Errorf("more than %d bytes", maxSize)
	}
	d := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		var strict *toml.StrictMissingError
		if errors.As(err, &strict) && len(strict.Errors) > 0 {
			row, _ := strict.Errors[0].Position()
			return Config{}, fmt.Errorf("line %d: %v is no setting", row, strict.Errors[0].Key())
		}
		var de *toml.DecodeError
		if errors.As(err, &de) {
			row, _ := de.Position()
			return Config{}, fmt.Errorf("line %d: %w", row, err)
		}
		return Config{}, err
	}
	return c, c.check()
}

func (c Config) check() error {
	if w := time.Duration(c.Network.AskTimeout); w < 0 || w > time.Hour {
		return fmt.Errorf("ask_timeout %s is not between 0 and an hour", w)
	}
	for _, u := range c.Upstreams {
		if u.Host == "" {
			return errors.New("an upstream has no host")
		}
		host, port, err := net.SplitHostPort(u.Address)
		if n, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || n == 0 || host == "" {
			return fmt.Errorf("the upstream of %s has the address %q; write ADDRESS:PORT", u.Host, u.Address)
		}
		if u.CA != "" && !filepath.IsAbs(u.CA) {
			return fmt.Errorf("the upstream of %s names the CA file %q; write its absolute path", u.Host, u.CA)
		}
	}
	return nil
}
