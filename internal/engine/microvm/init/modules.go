package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"berth.dev/internal/engine/microvm/bootapi"
)

func readIndex() (*bootapi.Index, error) {
	data, err := os.ReadFile(bootapi.ModulesIndex)
	if err != nil {
		return nil, err
	}
	var x bootapi.Index
	if err := json.Unmarshal(data, &x); err != nil {
		return nil, fmt.Errorf("read the index of modules: %w", err)
	}
	return &x, nil
}

// loadBase loads what stands between the kernel and its disks.
func loadBase(x *bootapi.Index) error {
	for _, file := range x.Base {
		if err := load(filepath.Join(bootapi.BaseDir, file)); err != nil {
			return err
		}
	}
	return nil
}

func load(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	err = unix.FinitModule(int(f.Fd()), "", 0)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load %s: %w", filepath.Base(file), err)
	}
	return nil
}

// later are the modules that programs of the guest load by calling modprobe,
// which there is none of: the kernel's own wishes need no program. They are what
// iptables-legacy and dockerd want.
var later = []string{
	"ip_tables", "iptable_filter", "iptable_nat", "ip6_tables", "ip6table_filter", "ip6table_nat", "bridge", "br_netfilter",
}

// loadLater loads them while the first process is at its own start.
func loadLater(x *bootapi.Index) {
	seen := map[string]bool{}
	for _, name := range later {
		if err := loadNamed(x, name, seen); err != nil {
			note("%v", err)
		}
	}
	note("modules of the network are loaded")
}

// modprobe is the kernel's helper: -q -- NAME. It runs in the initramfs.
func modprobe(args []string) int {
	if len(args) == 0 {
		return 1
	}
	x, err := readIndex()
	if err != nil {
		return 1
	}
	if err := loadNamed(x, args[len(args)-1], map[string]bool{}); err != nil {
		return 1
	}
	return 0
}

// loadNamed loads a module, by its name or an alias, after what it needs.
func loadNamed(x *bootapi.Index, name string, seen map[string]bool) error {
	key := strings.ReplaceAll(name, "-", "_")
	m, ok := x.Modules[key]
	if !ok {
		alias, aliased := x.Aliases[name]
		if m, ok = x.Modules[alias]; !aliased || !ok {
			return fmt.Errorf("there is no module %q", name)
		}
		key = alias
	}
	if seen[key] {
		return nil
	}
	seen[key] = true
	for _, n := range m.Needs {
		if err := loadNamed(x, n, seen); err != nil {
			return err
		}
	}
	return load(filepath.Join(bootapi.ModulesDir, m.File))
}
