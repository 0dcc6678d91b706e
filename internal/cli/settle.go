package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"

	"github.com/pkg/sftp"

	"berth.dev/internal/agent"
	"berth.dev/internal/control"
	"berth.dev/internal/guestapi/client"
	"berth.dev/internal/sandbox"
	"berth.dev/internal/service"
)

// maxSettings bounds a settings file that is read from a guest, in bytes.
const maxSettings = 4 << 20

// settle writes what an agent's home must hold so that it asks nothing on its
// first run. It belongs to the session, not to the creation, because the key
// that the agent has to have approved is the shell's of today.
func settle(ctx context.Context, g *client.Client, ag agent.Agent, facts agent.Facts, more []control.GuestFile) error {
	if len(ag.Files)+len(more) == 0 {
		return nil
	}
	files, err := g.SFTP(ctx, "")
	if err != nil {
		return err
	}
	defer files.Close()
	for _, f := range ag.Files {
		if err := settleFile(files, f, facts); err != nil {
			return err
		}
	}
	for _, f := range more {
		as := agent.File{Path: f.Path, Mode: 0o600, Content: func(_ agent.Facts, old []byte) []byte {
			switch {
			case f.Merge && old != nil && f.Mark != "" && bytes.Contains(old, []byte(f.Mark)):
				return old
			case f.Merge:
				return agent.Override(old, f.Content)
			case service.Joins(f.Path):
				return agent.AddJSON(old, f.Content)
			}
			return f.Content
		}}
		if err := settleFile(files, as, facts); err != nil {
			return fmt.Errorf("write %s: %w", f.Path, err)
		}
	}
	return nil
}

func settleFile(files *sftp.Client, f agent.File, facts agent.Facts) error {
	name := path.Join(sandbox.UserHome, f.Path)
	old, err := readSettings(files, name)
	if err != nil {
		return err
	}
	want := f.Content(facts, old)
	if bytes.Equal(want, old) && old != nil {
		return nil
	}
	if err := makeParents(files, f.Path); err != nil {
		return err
	}
	return replaceFile(files, name, f.Mode, want)
}

// replaceFile writes a new file, then renames it: a program that starts at this
// moment reads either the old one or the new one.
func replaceFile(files *sftp.Client, name string, mode fs.FileMode, want []byte) error {
	tmp := name + ".berth-new"
	w, err := files.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return err
	}
	_, err = w.Write(want)
	if err == nil {
		err = w.Chmod(mode)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		return err
	}
	return files.PosixRename(tmp, name)
}

// readSettings returns nil for a file that does not exist.
func readSettings(files *sftp.Client, name string) ([]byte, error) {
	r, err := files.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, maxSettings+1))
	if err == nil && len(data) > maxSettings {
		err = sandbox.Errorf(sandbox.ErrInvalid, "%s is larger than %d bytes", name, maxSettings)
	}
	if data == nil {
		data = []byte{}
	}
	return data, err
}

// makeParents makes the folders that a file in the home is in, 0700.
func makeParents(files *sftp.Client, name string) error {
	dir := path.Dir(name)
	if dir == "." {
		return nil
	}
	if err := makeParents(files, dir); err != nil {
		return err
	}
	full := path.Join(sandbox.UserHome, dir)
	if _, err := files.Stat(full); err == nil {
		return nil
	}
	if err := files.Mkdir(full); err != nil {
		return err
	}
	return files.Chmod(full, 0o700)
}
