package bundle

import (
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/crypto/ssh"

	"berth.dev/internal/atomicfile"
)

// Keys are a sandbox's two SSH keys, each made for it alone. Client is what
// the supervisor proves itself with to the guest; Host is what the guest
// proves itself with, and the only one of the two that may be sent there.
type Keys struct {
	Client, Host ed25519.PrivateKey
}

// Keys reads the bundle's keys, and makes those that are missing or cannot be
// read. On disk they are OpenSSH private keys, keys/client and keys/host, 0600.
func (h *Held) Keys() (Keys, error) {
	client, err := h.key("client")
	if err != nil {
		return Keys{}, err
	}
	host, err := h.key("host")
	return Keys{Client: client, Host: host}, err
}

func (h *Held) key(name string) (ed25519.PrivateKey, error) {
	path := filepath.Join(h.dir, keysDir, name)
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read key: %w", err)
	}
	if raw, err := ssh.ParseRawPrivateKey(data); err == nil {
		if key, ok := raw.(*ed25519.PrivateKey); ok {
			return *key, nil
		}
	}
	// Absent, or torn by a power cut. The guest is handed its keys anew at
	// every start, so a new pair breaks nothing.
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(key, "berth "+h.Name()+" "+name)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, diskError("make key", err)
	}
	if err := atomicfile.Write(path, pem.EncodeToMemory(block), 0o600); err != nil {
		return nil, diskError("write key", err)
	}
	return key, nil
}
