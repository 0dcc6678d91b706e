package secret

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"

	"berth.dev/internal/atomicfile"
	"berth.dev/internal/failpoint"
	"berth.dev/internal/sandbox"
)

// errGone: the value is not where it should be. It may have been replaced.
var errGone = errors.New("it is no longer there")

// fileSuffix ends the names of encrypted values.
const fileSuffix = ".age"

// maxSealed bounds an encrypted value: age's header and its tags come to less
// than this above the value.
const maxSealed = maxValue + 4<<10

// ageFiles keeps each value in a file of its own, encrypted for one X25519 key
// that lies beside them. It keeps the bytes out of backups of single files,
// searches, and sight; whoever can read the user's files reads them.
type ageFiles struct {
	dir     string // the store's
	note    func(format string, args ...any)
	values  string // folder of the values
	keyFile string
}

func newAgeFiles(dir string, note func(string, ...any)) *ageFiles {
	return &ageFiles{dir: dir, note: note, values: filepath.Join(dir, "values"), keyFile: filepath.Join(dir, "key.txt")}
}

func (a *ageFiles) path(id string) string { return filepath.Join(a.values, id+fileSuffix) }

// put writes a value. The store's lock has to be held.
func (a *ageFiles) put(_ context.Context, id, _ string, v Value) error {
	key, err := a.key()
	if errors.Is(err, fs.ErrNotExist) {
		key, err = a.makeKey()
	}
	if err != nil {
		return err
	}
	var sealed bytes.Buffer
	w, err := age.Encrypt(&sealed, key.Recipient())
	if err == nil {
		_, err = io.WriteString(w, v.Reveal())
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return fmt.Errorf("encrypt a secret: %w", err)
	}
	if err := atomicfile.Write(a.path(id), sealed.Bytes(), 0o600); err != nil {
		return fmt.Errorf("write a secret: %w", err)
	}
	return failpoint.Hit("secret.put")
}

// get reads a value, or says errGone.
func (a *ageFiles) get(_ context.Context, id string) (Value, error) {
	sealed, mended, err := readPrivate(a.path(id), maxSealed)
	if errors.Is(err, fs.ErrNotExist) {
		return Value{}, errGone
	}
	if err != nil {
		return Value{}, err
	}
	if mended {
		a.note("others could read %s; it is closed now", a.path(id))
	}
	key, err := a.key()
	if errors.Is(err, fs.ErrNotExist) {
		return Value{}, sandbox.Errorf(sandbox.ErrPrecondition, "the key %s is gone, and what was encrypted with it cannot be read", a.keyFile).
			WithHint("put it back from a backup, or set the secret again")
	}
	if err != nil {
		return Value{}, err
	}
	r, err := age.Decrypt(bytes.NewReader(sealed), key)
	if err == nil {
		var text []byte
		if text, err = io.ReadAll(io.LimitReader(r, maxValue+1)); err == nil {
			return NewValue(string(text)), nil
		}
	}
	return Value{}, sandbox.Errorf(sandbox.ErrInvalid, "%s is damaged, or another key encrypted it: %w", a.path(id), err).
		WithHint("set the secret again")
}

func (a *ageFiles) key() (*age.X25519Identity, error) {
	text, mended, err := readPrivate(a.keyFile, 4<<10)
	if err != nil {
		return nil, err
	}
	if mended {
		a.note("others could read the key %s; it is closed now, and whoever may have read it can read your secrets: set new ones", a.keyFile)
	}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		if key, err := age.ParseX25519Identity(line); err == nil {
			return key, nil
		}
		break // age's error would quote the key
	}
	return nil, sandbox.Errorf(sandbox.ErrInvalid, "%s holds no key of age", a.keyFile).
		WithHint("put it back from a backup; or remove %s and set the secrets again", a.dir)
}

// makeKey makes the key, which must not be there, when nothing needs another.
func (a *ageFiles) makeKey() (*age.X25519Identity, error) {
	names, err := a.list()
	if err != nil {
		return nil, err
	}
	if len(names) > 0 {
		return nil, sandbox.Errorf(sandbox.ErrPrecondition, "the key %s is gone, and %d values that were encrypted with it cannot be read", a.keyFile, len(names)).
			WithHint("put it back from a backup; or remove %s and set the secrets again", a.dir)
	}
	key, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	text := "# Berth's secrets in this folder are encrypted with this key. Keep it to yourself.\n" + key.String() + "\n"
	if err := atomicfile.Write(a.keyFile, []byte(text), 0o600); err != nil {
		return nil, fmt.Errorf("write the key: %w", err)
	}
	return key, nil
}

// list names the files of the values, half-written ones among them.
func (a *ageFiles) list() ([]string, error) {
	entries, err := os.ReadDir(a.values)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

// sweep deletes every file that is not among the values in use, and what a
// killed process left of writing the index. The lock has to be held.
func (a *ageFiles) sweep(used map[ref]bool) error {
	if err := failpoint.Hit("secret.sweep"); err != nil {
		return err
	}
	names, err := a.list()
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		id, ok := strings.CutSuffix(name, fileSuffix)
		if !ok || !used[ref{BackendFile, id}] {
			errs = append(errs, os.Remove(filepath.Join(a.values, name)))
		}
	}
	beside, err := os.ReadDir(a.dir)
	for _, e := range beside {
		if strings.HasPrefix(e.Name(), ".") && strings.Contains(e.Name(), ".tmp-") {
			errs = append(errs, os.Remove(filepath.Join(a.dir, e.Name())))
		}
	}
	return errors.Join(append(errs, err)...)
}
