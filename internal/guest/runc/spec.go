package runc

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// maxSpec bounds the files of a container's specification, in bytes.
const maxSpec = 16 << 20

// folder is where a container's folder of authorities lies in its bundle: it
// goes when Docker removes that.
const folder = "berth"

// object is a JSON object of which only some fields matter here; the others
// stay as they were written.
type object map[string]json.RawMessage

func (o object) get(name string, v any) error {
	raw, ok := o[name]
	if !ok {
		return fmt.Errorf("there is no %q", name)
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("read %q: %w", name, err)
	}
	return nil
}

func (o object) set(name string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write %q: %w", name, err)
	}
	o[name] = raw
	return nil
}

// mount is an entry of a specification's mounts.
type mount struct {
	Destination string   `json:"destination"`
	Type        string   `json:"type,omitempty"`
	Source      string   `json:"source,omitempty"`
	Options     []string `json:"options,omitempty"`
}

// prepareContainer adds the folder and the variables to a container that is
// about to be made.
func (s system) prepareContainer(bundle string, vars map[string]string) error {
	bundle, err := filepath.Abs(bundle)
	if err != nil {
		return fmt.Errorf("find the bundle: %w", err)
	}
	file := filepath.Join(bundle, "config.json")
	spec, err := readObject(file)
	if err != nil {
		return err
	}
	var mounts []json.RawMessage
	if err := spec.get("mounts", &mounts); err != nil {
		return err
	}
	if ok, err := ownDev(spec, mounts); err != nil || !ok {
		return err
	}
	var process object
	if err := spec.get("process", &process); err != nil {
		return err
	}
	env, err := extendProcess(process, vars)
	if err != nil {
		return err
	}
	var root struct {
		Path string `json:"path"`
	}
	if err := spec.get("root", &root); err != nil {
		return err
	}
	if !filepath.IsAbs(root.Path) {
		root.Path = filepath.Join(bundle, root.Path)
	}
	source := filepath.Join(bundle, folder)
	if err := s.makeFolder(source, root.Path, isJava(env)); err != nil {
		return err
	}
	raw, err := json.Marshal(mount{inside, "bind", source, []string{"bind", "ro", "nosuid", "nodev", "noexec"}})
	if err != nil {
		return err
	}
	if err := errors.Join(spec.set("mounts", append(mounts, raw)), spec.set("process", process)); err != nil {
		return err
	}
	return replace(file, spec)
}

// ownDev says whether a container's /dev is a file system of its own, to which
// a folder can be added without a trace: not with -v /dev:/dev. A container
// with user ids of its own may not reach the bundle, so it is left.
func ownDev(spec object, mounts []json.RawMessage) (bool, error) {
	own := false
	for _, raw := range mounts {
		var m mount
		if err := json.Unmarshal(raw, &m); err != nil {
			return false, fmt.Errorf("read a mount: %w", err)
		}
		switch dst := path.Clean("/" + m.Destination); {
		case dst == "/dev":
			own = m.Type == "tmpfs"
		case dst == "/" || dst == inside || strings.HasPrefix(dst, inside+"/"):
			return false, nil
		}
	}
	var linux struct {
		Namespaces []struct {
			Type string `json:"type"`
		} `json:"namespaces"`
	}
	if err := spec.get("linux", &linux); err != nil {
		return false, err
	}
	for _, ns := range linux.Namespaces {
		if ns.Type == "user" {
			return false, nil
		}
	}
	return own, nil
}

// prepareProcess adds the variables to what is about to be run in a container
// that has the folder.
func prepareProcess(c command, vars map[string]string) error {
	if c.process == "" || c.id == "" || strings.Contains(c.id, "/") {
		return nil // not how Docker does it
	}
	state, err := readObject(filepath.Join(c.root, c.id, "state.json"))
	if err != nil {
		return err
	}
	var config struct {
		Mounts []struct {
			Destination string `json:"destination"`
		} `json:"mounts"`
	}
	if err := state.get("config", &config); err != nil {
		return err
	}
	for _, m := range config.Mounts {
		if m.Destination != inside {
			continue
		}
		process, err := readObject(c.process)
		if err != nil {
			return err
		}
		if _, err := extendProcess(process, vars); err != nil {
			return err
		}
		return replace(c.process, process)
	}
	return nil
}

// extendProcess adds the variables to a process, and returns what it had.
func extendProcess(process object, vars map[string]string) ([]string, error) {
	if process == nil {
		return nil, errors.New("there is no process")
	}
	var env []string
	if _, ok := process["env"]; ok {
		if err := process.get("env", &env); err != nil {
			return nil, err
		}
	}
	return env, process.set("env", extend(env, vars))
}

func readObject(name string) (object, error) {
	data, err := readFile(name, maxSpec)
	if err != nil {
		return nil, err
	}
	var o object
	if err := json.Unmarshal(data, &o); err != nil {
		return nil, fmt.Errorf("parse %s: %w", name, err)
	}
	if o == nil {
		return nil, fmt.Errorf("parse %s: there is nothing", name)
	}
	return o, nil
}

// readFile reads a regular file of at most max bytes. A link as its last part
// is not followed.
func readFile(name string, max int64) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("read %s: no regular file", name)
	}
	data, err := io.ReadAll(io.LimitReader(f, max+1))
	if err == nil && int64(len(data)) > max {
		err = errors.New("it is too large")
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return data, nil
}

// replace writes a specification anew, at once: runc reads the old one or the
// new one.
func replace(name string, o object) error {
	data, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	fi, err := os.Stat(name)
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(name), ".berth-")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // fails harmlessly once renamed
	_, err = tmp.Write(data)
	err = errors.Join(err, tmp.Chmod(fi.Mode().Perm()), tmp.Close())
	if err != nil {
		return err
	}
	return os.Rename(tmp.Name(), name)
}
