package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"berth.dev/internal/engine/microvm/bootapi"
)

// Where things are mounted in the initramfs.
const (
	rootDir  = "/root"    // the template
	stateDir = "/state"   // the state disk
	shareDir = "/share"   // the host's folders, by name
	newRoot  = "/sysroot" // what becomes the guest's root
)

// Folders of the state disk.
const (
	upperDir = stateDir + "/upper"
	workDir  = stateDir + "/work"
	keptDir  = stateDir + "/kept"
)

// layout is the guest's root, put together.
type layout struct {
	below []string // mount points in the root, in the order they were made
	state *os.File // the state disk's root folder
}

// assemble mounts everything that the first process will see but its own proc.
// The template and the state disk's content may be anything that a guest left,
// so targets are resolved inside the new root, never through its links.
func assemble(b *bootapi.Boot, x *bootapi.Index) (*layout, error) {
	modules, err := disk(bootapi.DiskModules)
	if err != nil {
		return nil, err
	}
	if err := mount(modules, bootapi.ModulesDir, "erofs", unix.MS_RDONLY|unix.MS_NODEV|unix.MS_NOSUID, ""); err != nil {
		return nil, err
	}
	root, err := disk(bootapi.DiskRoot)
	if err != nil {
		return nil, err
	}
	if err := mount(root, rootDir, "erofs", unix.MS_RDONLY, ""); err != nil {
		return nil, err
	}
	l := &layout{}
	if err := l.openState(b.DiskSize); err != nil {
		return nil, err
	}
	for _, dir := range []string{upperDir, workDir, keptDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	if err := mount("overlay", newRoot, "overlay", 0, "lowerdir="+rootDir+",upperdir="+upperDir+",workdir="+workDir); err != nil {
		return nil, err
	}
	return l, l.fill(b)
}

// openState mounts the state disk and grows its file system to the disk's size.
func (l *layout) openState(size int64) error {
	dev, err := disk(bootapi.DiskState)
	if err != nil {
		return err
	}
	// discard: what the guest deletes is given back to the host's disk.
	if err := mount(dev, stateDir, "ext4", 0, "discard"); err != nil {
		return err
	}
	if l.state, err = os.Open(stateDir); err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(l.state.Fd()), &st); err != nil {
		return err
	}
	blocks := uint64(size) / uint64(st.Bsize)
	if blocks <= st.Blocks+st.Blocks/64 { // Blocks is without the file system's own
		blocks = 0
	}
	if blocks > 0 {
		if err := resizeFS(l.state, blocks); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("grow the state disk: %w", err)
		}
	}
	return nil
}

func (l *layout) fill(b *bootapi.Boot) error {
	for _, y := range b.Layers {
		dev, err := disk(y.Disk)
		if err != nil {
			return err
		}
		if err := l.place(dev, y.Target, "erofs", unix.MS_RDONLY|unix.MS_NODEV, ""); err != nil {
			return err
		}
	}
	for _, t := range b.Tmpfs {
		if !t.Keep {
			if err := l.place("tmpfs", t.Target, "tmpfs", unix.MS_NODEV, "mode=755"); err != nil {
				return err
			}
			continue
		}
		dir := filepath.Join(keptDir, hex.EncodeToString([]byte(t.Target)))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := l.place(dir, t.Target, "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	if len(b.Mounts) == 0 {
		return nil
	}
	if err := mount(bootapi.ShareTag, shareDir, "virtiofs", unix.MS_NODEV|unix.MS_NOSUID, ""); err != nil {
		return err
	}
	for _, m := range b.Mounts {
		if err := l.place(filepath.Join(shareDir, m.Name), m.Target, "", unix.MS_BIND, ""); err != nil {
			return err
		}
		if !m.ReadOnly {
			continue
		}
		// The host is what holds it; this is so that programs see it.
		if err := l.remountReadOnly(m.Target); err != nil {
			return err
		}
	}
	return nil
}

func mount(source, target, fstype string, flags uintptr, data string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(source, target, fstype, flags, data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", fstype, target, err)
	}
	return nil
}

// place mounts something at a path of the guest.
func (l *layout) place(source, target, fstype string, flags uintptr, data string) error {
	isFile := false
	if flags&unix.MS_BIND != 0 {
		info, err := os.Stat(source)
		if err != nil {
			return fmt.Errorf("mount on %s: %w", target, err)
		}
		isFile = !info.IsDir()
	}
	fd, err := at(target, isFile)
	if err != nil {
		return fmt.Errorf("make the mount point %s: %w", target, err)
	}
	defer unix.Close(fd)
	if err := unix.Mount(source, fmt.Sprintf("/proc/self/fd/%d", fd), fstype, flags, data); err != nil {
		return fmt.Errorf("mount %s%s on %s: %w", fstype, source, target, err)
	}
	l.below = append(l.below, target)
	return nil
}

func (l *layout) remountReadOnly(target string) error {
	fd, err := at(target, false)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	flags := uintptr(unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY | unix.MS_NODEV | unix.MS_NOSUID)
	if err := unix.Mount("", fmt.Sprintf("/proc/self/fd/%d", fd), "", flags, ""); err != nil {
		return fmt.Errorf("make %s read-only: %w", target, err)
	}
	return nil
}

// at opens a path of the guest, making what is missing of it; links in it mean
// what they mean to the guest.
func at(target string, file bool) (int, error) {
	root, err := unix.Open(newRoot, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(root)
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT}
	parts := strings.Split(strings.Trim(target, "/"), "/")
	parent, err := unix.Openat2(root, "/", &how)
	if err != nil {
		return -1, err
	}
	for i := range parts {
		prefix := "/" + strings.Join(parts[:i+1], "/")
		fd, err := unix.Openat2(root, prefix, &how)
		if errors.Is(err, unix.ENOENT) {
			if file && i == len(parts)-1 {
				err = unix.Mknodat(parent, parts[i], unix.S_IFREG|0o644, 0)
			} else {
				err = unix.Mkdirat(parent, parts[i], 0o755)
			}
			if err == nil {
				fd, err = unix.Openat2(root, prefix, &how)
			}
		}
		unix.Close(parent)
		if err != nil {
			return -1, err
		}
		parent = fd
	}
	return parent, nil
}

// freeze makes the state disk consistent, with all in it, and keeps it so.
func (l *layout) freeze() error { return fsIoctl(l.state, fiFreeze) }

func (l *layout) thaw() error { return fsIoctl(l.state, fiThaw) }

func (l *layout) sync() error { return unix.Syncfs(int(l.state.Fd())) }

// closeTime is how long unmounting may be tried: something of the guest's may
// still be on its way out.
const closeTime = 2 * time.Second

// close unmounts what holds the state disk, and that; when it is not to be had,
// the disk is at least synced, and its journal does the rest.
func (l *layout) close() error {
	err := l.sync()
	for i := len(l.below) - 1; i >= 0; i-- {
		if fd, aerr := at(l.below[i], false); aerr == nil {
			_ = unix.Unmount(fmt.Sprintf("/proc/self/fd/%d", fd), unix.MNT_DETACH)
			unix.Close(fd)
		}
	}
	_ = unix.Unmount(newRoot, unix.MNT_DETACH)
	l.state.Close()
	for deadline := time.Now().Add(closeTime); ; time.Sleep(5 * time.Millisecond) {
		uerr := unix.Unmount(stateDir, 0)
		if uerr == nil {
			return err
		}
		if time.Now().After(deadline) {
			_ = unix.Mount("", stateDir, "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
			return errors.Join(err, fmt.Errorf("unmount the state disk: %w", uerr))
		}
	}
}
