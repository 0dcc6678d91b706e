package microvm

import (
	"context"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"berth.dev/internal/sandbox"
)

// tools are the programs of the host that machines are made of.
type tools struct {
	qemu, qemuVersion string
	virtiofsd         string
	// oldVirtiofsd: it is QEMU's own, in C, with other options than the one in
	// Rust that came after it.
	oldVirtiofsd bool
}

// oldestQEMU is the first with a datagram netdev that takes a descriptor.
var oldestQEMU = [2]int{7, 2}

// virtiofsdPlaces are where distributions put it: it is not on the PATH.
var virtiofsdPlaces = []string{"/usr/libexec/virtiofsd", "/usr/lib/virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/bin/virtiofsd", "/usr/local/libexec/virtiofsd"}

var foundTools struct {
	sync.Mutex // guards tools
	tools      *tools
}

// findTools looks for the programs, once in a process when they are there.
func findTools(ctx context.Context) (tools, error) {
	foundTools.Lock()
	defer foundTools.Unlock()
	if foundTools.tools != nil {
		return *foundTools.tools, nil
	}
	t, err := lookForTools(ctx, runtime.GOARCH, virtiofsdPlaces)
	if err == nil {
		foundTools.tools = &t
	}
	return t, err
}

func lookForTools(ctx context.Context, arch string, places []string) (tools, error) {
	var t tools
	if arch != "amd64" {
		return t, sandbox.Errorf(sandbox.ErrUnavailable, "the engine microvm is made for amd64 only; this is %s", arch).
			WithHint("use the engine gvisor")
	}
	var err error
	if t.qemu, err = exec.LookPath("qemu-system-x86_64"); err != nil {
		return t, sandbox.Errorf(sandbox.ErrUnavailable, "qemu-system-x86_64 is not installed").WithHint("%s", installHint("qemu-system-x86"))
	}
	text, err := version(ctx, t.qemu)
	if err != nil {
		return t, err
	}
	if t.qemuVersion, err = checkQEMU(text); err != nil {
		return t, err
	}
	for _, p := range places {
		if info, err := os.Stat(p); err == nil && info.Mode().IsRegular() {
			t.virtiofsd = p
			break
		}
	}
	if t.virtiofsd == "" {
		return t, sandbox.Errorf(sandbox.ErrUnavailable, "virtiofsd is not installed").WithHint("%s", installHint("virtiofsd"))
	}
	if text, err = version(ctx, t.virtiofsd); err != nil {
		return t, err
	}
	t.oldVirtiofsd = strings.Contains(text, "QEMU Project")
	return t, nil
}

// version asks a program for its version.
func version(ctx context.Context, program string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "--version")
	cmd.Env = []string{}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", sandbox.Errorf(sandbox.ErrUnavailable, "%s does not run: %w", program, err)
	}
	return string(out), nil
}

var versionRE = regexp.MustCompile(`version (\d+)\.(\d+)(\.\d+)*`)

// checkQEMU takes the version out of what QEMU says and compares it.
func checkQEMU(text string) (string, error) {
	m := versionRE.FindStringSubmatch(text)
	if m == nil {
		return "", sandbox.Errorf(sandbox.ErrUnavailable, "QEMU does not say its version")
	}
	major, _ := strconv.Atoi(m[1])
	minor, _ := strconv.Atoi(m[2])
	v := strings.TrimPrefix(m[0], "version ")
	if major < oldestQEMU[0] || major == oldestQEMU[0] && minor < oldestQEMU[1] {
		return v, sandbox.Errorf(sandbox.ErrUnavailable, "QEMU is version %s; %d.%d or newer is needed", v, oldestQEMU[0], oldestQEMU[1]).
			WithHint("a newer release of the distribution has it (Debian 12, Ubuntu 24.04); until then use the engine gvisor")
	}
	return v, nil
}

// installHint is the command that installs a package, under Debian's name for
// it, by what the host installs packages with.
func installHint(pkg string) string {
	names := map[string]map[string]string{
		"apt-get": {"qemu-system-x86": "qemu-system-x86", "virtiofsd": "virtiofsd"},
		"dnf":     {"qemu-system-x86": "qemu-system-x86-core", "virtiofsd": "virtiofsd"},
		"pacman":  {"qemu-system-x86": "qemu-system-x86", "virtiofsd": "virtiofsd"},
		"zypper":  {"qemu-system-x86": "qemu-x86", "virtiofsd": "virtiofsd"},
	}
	for _, m := range []struct{ manager, verb string }{
		{"apt-get", "install"}, {"dnf", "install"}, {"pacman", "-S"}, {"zypper", "install"},
	} {
		if _, err := exec.LookPath(m.manager); err == nil {
			name := names[m.manager][pkg]
			if m.manager == "apt-get" && pkg == "virtiofsd" && oldDebian("/etc/os-release") {
				name = "qemu-system-common" // QEMU 7.2 brings its own
			}
			return "run: sudo " + m.manager + " " + m.verb + " " + name
		}
	}
	return "install " + pkg + " with the host's package manager"
}

// oldDebian: Debian 12, in which virtiofsd is part of QEMU's packages.
func oldDebian(file string) bool {
	data, err := os.ReadFile(file)
	return err == nil && strings.Contains(string(data), "VERSION_CODENAME=bookworm")
}
