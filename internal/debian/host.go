package debian

import (
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"berth.dev/internal/sandbox"
)

const maxHostFile = 8 << 20 // of a file below /etc/apt or a keyring

// Detect finds what the host's own apt gets its distribution from: archives,
// keyrings, proxy. root is the host's root folder ("/" but in tests) and env
// reads the environment. Third-party archives do not count.
//
// On a host that is neither Debian nor Ubuntu nor made of one of them, or
// whose apt has no usable archive, it returns a sandbox.ErrUnavailable.
func Detect(root string, env func(string) string) (Source, error) {
	h := host{root}
	d, err := h.distribution()
	if err != nil {
		return Source{}, err
	}
	entries, err := h.readSources()
	if err != nil {
		return Source{}, sandbox.Errorf(sandbox.ErrUnavailable, "read apt's sources: %w", err).
			WithHint("mend that file, or use an OCI image as the base")
	}
	conf := h.readAptConf()
	archives, err := h.archives(d, entries)
	if err != nil {
		return Source{}, err
	}
	for i := range archives {
		archives[i].IgnoreValidUntil = archives[i].IgnoreValidUntil || isNo(conf.get("Acquire::Check-Valid-Until"))
		archives[i].IgnoreDate = archives[i].IgnoreDate || isNo(conf.get("Acquire::Check-Date"))
	}
	return Source{
		Distribution: d.name, Codename: d.codename, Archives: archives,
		Proxy:  proxyOf(conf, env),
		CAInfo: conf.get("Acquire::https::CaInfo"),
	}, nil
}

// distro is what a host's sandboxes are made of.
type distro struct {
	name     string
	codename string   // of the sandboxes
	suites   []string // the host's own names for its release, without pocket
}

// ubuntuLTS are Ubuntu's long-term releases, newest first: an interim release
// has the archive of the last one before it. Later ones say LTS themselves.
var ubuntuLTS = []struct{ version, codename string }{
	{"26.04", "resolute"}, {"24.04", "noble"}, {"22.04", "jammy"}, {"20.04", "focal"},
}

// debianNames are the suites that Debian's own archive has; derivatives name
// theirs otherwise.
var debianNames = []string{
	"oldoldstable", "oldstable", "stable", "testing", "unstable", "sid",
	"buster", "bullseye", "bookworm", "trixie", "forky", "duke",
}

// distribution reads os-release(5).
func (h host) distribution() (distro, error) {
	osr, err := h.osRelease()
	if err != nil {
		return distro{}, noApt("this host has no os-release file")
	}
	like := strings.Fields(osr["ID_LIKE"])
	switch {
	case osr["ID"] == "ubuntu" || osr["UBUNTU_CODENAME"] != "" && slices.Contains(like, "ubuntu"):
		return ubuntuOf(osr)
	case osr["ID"] == "debian" || slices.Contains(like, "debian"):
		suites := debianNames
		for _, key := range []string{"VERSION_CODENAME", "DEBIAN_CODENAME"} {
			if osr[key] != "" && (osr["ID"] == "debian" || key == "DEBIAN_CODENAME") {
				suites = append(slices.Clip(suites), osr[key])
			}
		}
		return distro{name: "debian", codename: debianCodename, suites: suites}, nil
	}
	return distro{}, noApt("this host is neither Debian nor Ubuntu")
}

func ubuntuOf(osr map[string]string) (distro, error) {
	own := osr["UBUNTU_CODENAME"]
	if own == "" {
		own = osr["VERSION_CODENAME"]
	}
	d := distro{name: "ubuntu", codename: own, suites: []string{own}}
	isLTS := osr["ID"] == "ubuntu" && strings.Contains(osr["VERSION"], "LTS")
	for _, r := range ubuntuLTS {
		isLTS = isLTS || r.codename == own
	}
	if own != "" && isLTS {
		return d, nil
	}
	for _, r := range ubuntuLTS {
		if own != "" && osr["ID"] == "ubuntu" && CompareVersions(r.version, osr["VERSION_ID"]) < 0 {
			d.codename = r.codename
			return d, nil
		}
	}
	return distro{}, noApt("which Ubuntu release this host is made of cannot be told")
}

func noApt(why string) error {
	return sandbox.Errorf(sandbox.ErrUnavailable, "no apt configuration to take a base system from: %s", why).
		WithHint("use an OCI image as the base")
}

// host reads the host's files below root.
type host struct{ root string }

// read returns a file's content. It follows symbolic links as they are: root
// is something else than "/" only in tests.
func (h host) read(name string) ([]byte, error) {
	f, err := os.Open(filepath.Join(h.root, name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxHostFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxHostFile {
		return nil, sandbox.Errorf(sandbox.ErrInvalid, "%s is larger than %d bytes", name, maxHostFile)
	}
	return data, nil
}

// list returns the names in a folder that apt would look at, sorted: letters,
// digits, '-', '_' and '.' only (apt.conf(5)), so no editor's backups.
func (h host) list(dir string) []string {
	entries, err := os.ReadDir(filepath.Join(h.root, dir))
	if err != nil {
		return nil // no folder, no entries; a file that cannot be read is reported
	}
	var names []string
	for _, e := range entries {
		n := e.Name()
		if strings.HasPrefix(n, ".") || strings.ContainsFunc(n, func(r rune) bool {
			return r > '~' || !isDigit(byte(r)) && !isLetter(byte(r)) && !strings.ContainsRune("-_.", r)
		}) {
			continue
		}
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

func (h host) osRelease() (map[string]string, error) {
	data, err := h.read("/etc/os-release")
	if err != nil {
		if data, err = h.read("/usr/lib/os-release"); err != nil {
			return nil, err
		}
	}
	all := map[string]string{}
	for line := range strings.SplitSeq(string(data), "\n") {
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if ok && !strings.HasPrefix(key, "#") {
			all[key] = strings.Trim(value, `"'`)
		}
	}
	return all, nil
}

// readKeyrings reads files and returns their certificates in binary form, one
// after the other; files that do not exist or hold no key are passed over.
func (h host) readKeyrings(files []string) ([]byte, error) {
	var all []byte
	for _, f := range files {
		data, err := h.read(f)
		if err != nil {
			if os.IsNotExist(err) {
				continue
			}
			return nil, err
		}
		key, err := dearmor(data)
		if err != nil {
			return nil, sandbox.Errorf(sandbox.ErrInvalid, "read keyring %s: %w", f, err)
		}
		all = append(all, key...)
	}
	return all, nil
}

// trustedKeyrings are the files that apt believes for a source without
// Signed-By.
func (h host) trustedKeyrings() []string {
	files := []string{"/etc/apt/trusted.gpg"}
	for _, n := range h.list("/etc/apt/trusted.gpg.d") {
		if e := path.Ext(n); e == ".gpg" || e == ".asc" {
			files = append(files, path.Join("/etc/apt/trusted.gpg.d", n))
		}
	}
	return files
}
