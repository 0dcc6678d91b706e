// Package runc stands before the real runc on the PATH of the guest's Docker
// daemon, and makes containers trust the sandbox's authority: those that are
// run, those of a build's steps, and what is run in them later.
//
// Docker and BuildKit write down what a container is to be (the OCI runtime
// specification's config.json) and have runc make it so. In between this adds a
// read-only folder on the container's /dev, which is a tmpfs of its own and so
// in no image, and variables that lead there. Nothing that Docker knows of the
// container or the image changes: not what it inspects, commits or builds.
//
// A container must never fail by it. What cannot be read, is not as Docker
// writes it, or goes wrong is left, and the real runc is executed in any case.
package runc

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"berth.dev/internal/guestapi"
)

// Name is the program's, by which it is found on a PATH.
const Name = "runc"

// Exec does what is to be done before a command of runc and becomes the real
// one; args are without the program's name. It returns only when there is none.
func Exec(args []string) error {
	real, err := find(os.Getenv("PATH"))
	if err != nil {
		return err
	}
	if err := running().prepare(args, os.Environ()); err != nil {
		fmt.Fprintln(os.Stderr, "berth: the container does not trust the sandbox's authority:", err)
	}
	return fmt.Errorf("exec %s: %w", real, syscall.Exec(real, append([]string{Name}, args...), os.Environ()))
}

// find is the first runc on a PATH that is not this very program.
func find(path string) (string, error) {
	self, err := os.Stat("/proc/self/exe")
	if err != nil {
		return "", fmt.Errorf("find this program: %w", err)
	}
	for _, dir := range filepath.SplitList(path) {
		p := filepath.Join(dir, Name)
		fi, err := os.Stat(p)
		if err == nil && filepath.IsAbs(p) && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 && !os.SameFile(fi, self) {
			return p, nil
		}
	}
	return "", errors.New("there is no other runc on the PATH")
}

// system is the sandbox's own files; tests have others.
type system struct {
	authority string // the sandbox's, in PEM
	bundle    string // with all that the sandbox trusts
}

func running() system { return system{guestapi.TrustFile, guestapi.TrustBundle} }

// prepare changes what the command is about to read.
func (s system) prepare(args, environ []string) (err error) {
	// What is read here was written by others; their slips end nothing.
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	vars := trustVariables(environ)
	if len(vars) == 0 {
		return nil
	}
	c := parse(args)
	switch c.name {
	case "create", "run":
		return s.prepareContainer(c.bundle, vars)
	case "exec":
		return prepareProcess(c, vars)
	}
	return nil
}

// command is what of a command line matters here.
type command struct {
	name    string
	root    string // where runc keeps its containers
	bundle  string // the folder with config.json
	process string // exec: the file with what is to be run
	id      string
}

// The flags that take a value, by runc's manual; the others are switches.
var (
	globalValues = map[string]bool{"log": true, "log-format": true, "root": true, "criu": true, "rootless": true}
	values       = map[string]map[string]bool{
		"create": {"bundle": true, "b": true, "console-socket": true, "pidfd-socket": true, "pid-file": true, "preserve-fds": true},
		"run":    {"bundle": true, "b": true, "console-socket": true, "pidfd-socket": true, "pid-file": true, "preserve-fds": true},
		"exec": {
			"process": true, "p": true, "console-socket": true, "pidfd-socket": true, "pid-file": true, "preserve-fds": true,
			"cwd": true, "env": true, "e": true, "user": true, "u": true, "additional-gids": true, "g": true,
			"process-label": true, "apparmor": true, "cap": true, "c": true, "cgroup": true,
		},
	}
)

// parse reads a command line as runc does.
func parse(args []string) command {
	c := command{root: "/run/runc", bundle: "."}
	flags, rest := split(args, globalValues)
	if v, ok := flags["root"]; ok {
		c.root = v
	}
	if len(rest) == 0 {
		return c
	}
	c.name = rest[0]
	flags, rest = split(rest[1:], values[c.name])
	for name, v := range flags {
		switch name {
		case "bundle", "b":
			c.bundle = v
		case "process", "p":
			c.process = v
		}
	}
	if len(rest) > 0 {
		c.id = rest[0]
	}
	return c
}

// split takes the flags off the front of a command line.
func split(args []string, values map[string]bool) (flags map[string]string, rest []string) {
	flags = map[string]string{}
	for len(args) > 0 && strings.HasPrefix(args[0], "-") && args[0] != "-" {
		name, value, has := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(args[0], "-"), "-"), "=")
		args = args[1:]
		if name == "" { // "--" ends them
			break
		}
		if !has && values[name] && len(args) > 0 {
			value, args = args[0], args[1:]
		}
		flags[name] = value
	}
	return flags, args
}
