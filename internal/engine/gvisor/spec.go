package gvisor

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"berth.dev/internal/engine"
	"berth.dev/internal/sandbox"
)

// allCaps is what the guest's root has. They are capabilities over the
// sentry's own kernel: none reaches the host.
var allCaps = []string{
	"CAP_AUDIT_CONTROL", "CAP_AUDIT_READ", "CAP_AUDIT_WRITE", "CAP_BLOCK_SUSPEND", "CAP_BPF",
	"CAP_CHECKPOINT_RESTORE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER",
	"CAP_FSETID", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_KILL", "CAP_LEASE", "CAP_LINUX_IMMUTABLE",
	"CAP_MAC_ADMIN", "CAP_MAC_OVERRIDE", "CAP_MKNOD", "CAP_NET_ADMIN", "CAP_NET_BIND_SERVICE",
	"CAP_NET_BROADCAST", "CAP_NET_RAW", "CAP_PERFMON", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP",
	"CAP_SETUID", "CAP_SYSLOG", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_CHROOT", "CAP_SYS_MODULE",
	"CAP_SYS_NICE", "CAP_SYS_PACCT", "CAP_SYS_PTRACE", "CAP_SYS_RAWIO", "CAP_SYS_RESOURCE",
	"CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_WAKE_ALARM",
}

// newSpec describes the machine in the OCI's terms and gVisor's annotations.
func newSpec(cfg engine.Config, filestore string) (*specs.Spec, error) {
	uid, gid := os.Geteuid(), os.Getegid()
	if uid == 0 {
		return nil, sandbox.Errorf(sandbox.ErrInternal, "gvisor machines are made by a process that is not root in its user namespace")
	}
	spec := &specs.Spec{
		Version:  "1.2.1",
		Hostname: cfg.Hostname,
		Root:     &specs.Root{Path: emptyDir(cfg)},
		Process: &specs.Process{
			Args: cfg.Args, Env: cfg.Env, Cwd: "/",
			// The first process starts as the one id that the user namespace maps
			// (gVisor gives its own host processes this id) and, holding every
			// capability of the guest's kernel, makes itself root.
			User:         specs.User{UID: sandbox.UserUID, GID: sandbox.UserGID},
			Capabilities: &specs.LinuxCapabilities{Bounding: allCaps, Effective: allCaps, Inheritable: allCaps, Permitted: allCaps, Ambient: allCaps},
			Rlimits:      []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1 << 16, Hard: 1 << 20}},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.UserNamespace}, {Type: specs.PIDNamespace}, {Type: specs.MountNamespace},
				{Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.NetworkNamespace},
			},
			UIDMappings: []specs.LinuxIDMapping{{ContainerID: sandbox.UserUID, HostID: uint32(uid), Size: 1}},
			GIDMappings: []specs.LinuxIDMapping{{ContainerID: sandbox.UserGID, HostID: uint32(gid), Size: 1}},
		},
		Annotations: map[string]string{
			"dev.gvisor.spec.rootfs.source":  cfg.Root,
			"dev.gvisor.spec.rootfs.type":    "erofs",
			"dev.gvisor.spec.rootfs.overlay": "dir=" + filestore,
		},
	}
	if cfg.Resources.Disk > 0 {
		spec.Annotations["dev.gvisor.spec.rootfs.options"] = "size=" + strconv.FormatInt(cfg.Resources.Disk, 10)
	}
	if err := os.MkdirAll(spec.Root.Path, 0o700); err != nil {
		return nil, err
	}
	return spec, addMounts(spec, cfg)
}

func emptyDir(cfg engine.Config) string { return filepath.Join(bundleDir(cfg), "empty") }

func addMounts(spec *specs.Spec, cfg engine.Config) error {
	add := func(m specs.Mount) { spec.Mounts = append(spec.Mounts, m) }
	add(specs.Mount{Type: "proc", Source: "proc", Destination: "/proc"})
	add(specs.Mount{Type: "sysfs", Source: "sysfs", Destination: "/sys"})
	add(specs.Mount{Type: "tmpfs", Source: "dev", Destination: "/dev"})
	add(specs.Mount{Type: "devpts", Source: "devpts", Destination: "/dev/pts"})
	add(specs.Mount{Type: "tmpfs", Source: "shm", Destination: "/dev/shm", Options: []string{"mode=1777"}})
	add(specs.Mount{Type: "cgroup", Source: "cgroup", Destination: "/sys/fs/cgroup"})
	for _, l := range cfg.Layers {
		add(specs.Mount{Type: "erofs", Source: l.File, Destination: l.Guest, Options: []string{"ro"}})
	}
	for i, t := range cfg.Tmpfs {
		m, err := tmpfsMount(spec, cfg, i, t)
		if err != nil {
			return err
		}
		add(m)
	}
	for _, m := range cfg.Mounts {
		options := []string{"rbind", "rw"}
		if m.ReadOnly {
			options[1] = "ro"
		}
		add(specs.Mount{Type: "bind", Source: m.Host, Destination: m.Guest, Options: options})
	}
	if len(cfg.Mounts) == 0 {
		// Without any bind gVisor starts no gofer, and then cannot keep the root's
		// overlay in a file.
		add(specs.Mount{Type: "bind", Source: emptyDir(cfg), Destination: sandbox.GuestDir, Options: []string{"rbind", "ro"}})
	}
	return nil
}

// tmpfsMount makes a file system in memory, or, when it is kept, one on a file
// of its own: gVisor can save only those. The mount's source then is a folder
// that exists to hold that file.
func tmpfsMount(spec *specs.Spec, cfg engine.Config, i int, t engine.Tmpfs) (specs.Mount, error) {
	if !t.Keep {
		return specs.Mount{Type: "tmpfs", Source: "tmpfs", Destination: t.Guest, Options: []string{"mode=755"}}, nil
	}
	dir := filepath.Join(cfg.StateDir, fmt.Sprintf("tmpfs%d", i))
	// A file left by a machine that was killed would be in the way.
	if err := os.RemoveAll(dir); err != nil {
		return specs.Mount{}, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return specs.Mount{}, err
	}
	hint := fmt.Sprintf("dev.gvisor.spec.mount.keep%d.", i)
	spec.Annotations[hint+"source"] = dir
	spec.Annotations[hint+"type"] = "tmpfs"
	spec.Annotations[hint+"share"] = "container"
	return specs.Mount{Type: "bind", Source: dir, Destination: t.Guest, Options: []string{"rw"}}, nil
}
