package debian

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Documentation, manual pages and translations take a third of a base system's
// files, and agents read neither; the licences ask that copyright files stay.
// The same rules are told to the guest's dpkg.
var (
	excludedDirs = []string{
		"/usr/share/doc/", "/usr/share/doc-base/", "/usr/share/groff/", "/usr/share/info/", "/usr/share/linda/",
		"/usr/share/lintian/", "/usr/share/locale/", "/usr/share/man/",
	}
	keptNames = []string{"/usr/share/doc/*/copyright", "/usr/share/locale/locale.alias"}
)

// emptyDirs are there although nothing is left in them: some maintainers'
// scripts make links to manual pages and stop when the folder is missing.
var emptyDirs = []string{
	"/usr/share/man/man1", "/usr/share/man/man2", "/usr/share/man/man3", "/usr/share/man/man4", "/usr/share/man/man5",
	"/usr/share/man/man6", "/usr/share/man/man7", "/usr/share/man/man8", "/usr/share/man/man9",
}

// excluded reports whether a package's path is left out.
func excluded(p string) bool {
	for _, dir := range excludedDirs {
		rest, inside := strings.CutPrefix(p, dir)
		if !inside {
			continue
		}
		switch {
		case p == "/usr/share/locale/locale.alias":
			return false
		case dir == "/usr/share/doc/":
			// The package's own folder stays for the copyright file, which may
			// also be a link, or the folder itself a link to another's.
			_, file, deeper := strings.Cut(rest, "/")
			return deeper && file != "copyright"
		}
		return true
	}
	return false
}

// guestFiles are the files that the layer has beside those of the packages:
// the settings of dpkg and apt.
func (p Plan) guestFiles() []guestFile {
	var dpkg bytes.Buffer
	dpkg.WriteString("# Written by Berth. A sandbox's file system is saved as a whole: syncing every\n# file costs time and protects nothing.\nforce-unsafe-io\n")
	for _, d := range excludedDirs {
		fmt.Fprintf(&dpkg, "path-exclude=%s*\n", d)
	}
	for _, n := range keptNames {
		fmt.Fprintf(&dpkg, "path-include=%s\n", n)
	}
	apt := bytes.NewBufferString("// Written by Berth.\nAcquire::Languages \"none\";\n")
	proxies := p.source.Proxy.guestProxies()
	for _, name := range slices.Sorted(maps.Keys(proxies)) {
		fmt.Fprintf(apt, "%s \"%s\";\n", name, strings.ReplaceAll(proxies[name], `"`, "%22"))
	}
	files := []guestFile{
		{"/etc/hosts", 0o644, []byte("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")},
		{"/etc/apt/apt.conf.d/00berth", 0o644, apt.Bytes()},
		{"/etc/dpkg/dpkg.cfg.d/berth", 0o644, dpkg.Bytes()},
		// Nothing starts services behind the user's back: there is no init
		// system to look after them (policy-rc.d: Debian's invoke-rc.d).
		{"/usr/sbin/policy-rc.d", 0o755, []byte("#!/bin/sh\n# Written by Berth: installing a package starts no service.\nexit 101\n")},
	}
	return append(files, p.sourceFiles()...)
}

// sourceFiles are the guest's apt sources and the keyrings that they name: the
// host's archives as far as they made this system, with the host's keys.
func (p Plan) sourceFiles() []guestFile {
	var files []guestFile
	var list bytes.Buffer
	list.WriteString("# Written by Berth: the archives that the host's own apt uses.\n")
	for i, keyring := range p.source.keyrings() {
		name := fmt.Sprintf("/etc/apt/keyrings/berth-host-%d.gpg", i+1)
		files = append(files, guestFile{name, 0o644, keyring})
		for _, a := range p.source.Archives {
			if !bytes.Equal(a.Keyring, keyring) {
				continue
			}
			fmt.Fprintf(&list, "\nTypes: deb\nURIs: %s\nSuites: %s\nComponents: %s\nSigned-By: %s\n",
				a.GuestURI(), a.Suite, strings.Join(a.Components, " "), name)
			if a.IgnoreValidUntil {
				list.WriteString("Check-Valid-Until: no\n")
			}
			if a.IgnoreDate {
				list.WriteString("Check-Date: no\n")
			}
		}
	}
	return append(files, guestFile{"/etc/apt/sources.list.d/" + p.Distribution + ".sources", 0o644, list.Bytes()})
}

// ConfigureScript returns the shell script (POSIX sh) that completes the
// layer: run it as root in a sandbox whose root file system the layer is, with
// /dev, /proc and a writable /tmp. It leaves every package configured and a
// working apt, needs no network, and may be run again whatever became of an
// earlier run. It prints what dpkg prints: "Setting up PACKAGE (VERSION) ..."
// once for each package.
func (p Plan) ConfigureScript() string {
	names := make([]string, 0, len(p.Packages))
	for _, k := range p.Packages {
		names = append(names, k.Name)
	}
	return strings.NewReplacer("@PACKAGES@", strings.Join(preinstOrder(names), " "), "@ARCH@", p.Arch).Replace(configureScript)
}

// preinstOrder puts those first whose preinst makes what others' need.
func preinstOrder(names []string) []string {
	names = slices.Clone(names)
	first := func(n string) int {
		return slices.Index([]string{"base-files", "base-passwd"}, n)
	}
	slices.SortStableFunc(names, func(a, b string) int { return first(b) - first(a) })
	return names
}

// configureScript: the packages were unpacked without their preinst scripts,
// for want of a system to run them in; so these come first, each once. awk has
// no file of its own until an alternative is configured, and scripts of the
// packages before that need it; base-passwd makes the users that all others
// may refer to. The rest is dpkg's order.
const configureScript = `set -eu
umask 022
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true
unset TMPDIR || true
cd /

[ -e /usr/bin/awk ] || ln -s mawk /usr/bin/awk

admin=/var/lib/dpkg
done=$admin/berth-preinst
mkdir -p "$done"
state() { dpkg-query -W -f='${db:Status-Status}' "$1"; }
for package in @PACKAGES@; do
	[ ! -e "$done/$package" ] || continue
	script=$admin/info/$package.preinst
	[ -e "$script" ] || script=$admin/info/$package:@ARCH@.preinst
	if [ -e "$script" ] && [ "$(state "$package")" = unpacked ]; then
		DPKG_MAINTSCRIPT_NAME=preinst DPKG_MAINTSCRIPT_PACKAGE=$package DPKG_MAINTSCRIPT_ARCH=@ARCH@ \
			DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT=1 DPKG_ADMINDIR=$admin DPKG_ROOT= "$script" install
	fi
	: >"$done/$package"
done

[ "$(state base-passwd)" = installed ] || dpkg --force-depends --configure base-passwd
dpkg --configure -a
audit=$(dpkg --audit)
if [ -n "$audit" ]; then
	echo "$audit" >&2
	exit 1
fi
apt-get check -qq
rm -rf "$done"
`
