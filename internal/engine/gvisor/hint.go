package gvisor

import (
	"os"
	"path/filepath"
	"strings"
)

// userNamespaceHint is the one command that lets ordinary users make user
// namespaces, by which of the known locks is closed on the host at root.
func userNamespaceHint(root string) string {
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(root, "proc/sys", name))
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(data))
	}
	switch {
	case read("kernel/apparmor_restrict_unprivileged_userns") == "1":
		return "run: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu 23.10 and later; to keep it, write the setting to /etc/sysctl.d/60-berth.conf)"
	case read("kernel/unprivileged_userns_clone") == "0":
		return "run: sudo sysctl -w kernel.unprivileged_userns_clone=1 (Debian; to keep it, write the setting to /etc/sysctl.d/60-berth.conf)"
	case read("user/max_user_namespaces") == "0":
		return "run: sudo sysctl -w user.max_user_namespaces=15000 (to keep it, write the setting to /etc/sysctl.d/60-berth.conf)"
	}
	return "inside a container, start it with a seccomp profile that allows unshare and clone of user namespaces (with Docker: --security-opt seccomp=unconfined --security-opt apparmor=unconfined)"
}
