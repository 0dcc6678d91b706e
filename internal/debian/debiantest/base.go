package debiantest

import "archive/tar"

// Base is a handful of packages with the traits of a real base system: a merged
// /usr, the tables of users, configuration files, triggers, packages of which
// several architectures may be installed, every compression.
func Base() []Package {
	return []Package{
		{
			Name: "base-files", Version: "13.8", Fields: "Essential: yes\nPriority: required\nPre-Depends: awk",
			Control: map[string]string{"conffiles": "/etc/issue\n", "postinst": "#!/bin/sh\nexit 0\n"},
			Files: []File{
				{Name: "./"}, {Name: "./bin", Type: tar.TypeSymlink, Link: "usr/bin"}, {Name: "./etc/"},
				{Name: "./etc/issue", Data: "Test\n"}, {Name: "./lib", Type: tar.TypeSymlink, Link: "usr/lib"},
				{Name: "./sbin", Type: tar.TypeSymlink, Link: "usr/sbin"}, {Name: "./tmp/", Mode: 0o1777},
				{Name: "./run/"}, {Name: "./usr/"}, {Name: "./usr/bin/"}, {Name: "./usr/lib/"}, {Name: "./usr/sbin/"},
				{Name: "./var/"}, {Name: "./var/run", Type: tar.TypeSymlink, Link: "/run"},
				{Name: "./var/mail/", Mode: 0o2775, Gid: 1234, Group: "mail"},
			},
		},
		{
			Name: "base-passwd", Version: "3.6", Fields: "Essential: yes\nPriority: required\nDepends: libc6 (>= 2.34)",
			Control:     map[string]string{"preinst": "#!/bin/sh\nexit 0\n"},
			Compression: ".gz",
			Files: []File{
				{Name: "./"}, {Name: "./usr/"}, {Name: "./usr/share/"}, {Name: "./usr/share/base-passwd/"},
				{Name: "./usr/share/base-passwd/group.master", Data: "root:*:0:\nmail:*:8:\nshadow:*:42:\n"},
				{Name: "./usr/share/base-passwd/passwd.master", Data: "root:*:0:0:root:/root:/bin/bash\nman:*:6:12::/:/bin/sh\n"},
			},
		},
		{
			Name: "libc6", Version: "2.41-12", Fields: "Priority: optional\nMulti-Arch: same\nProvides: libc6-dev-of-old (= 2.0)\nReplaces: oldlib (<< 2)",
			Control: map[string]string{"triggers": "activate-noawait ldconfig\ninterest-noawait ld-cache # once\n", "shlibs": "libc 6 libc6\n"},
			Files: []File{
				{Name: "./"}, {Name: "./lib/"}, {Name: "./lib/x86_64/"}, {Name: "./lib/x86_64/libc.so.6", Data: "libc", Mode: 0o755},
				{Name: "./usr/share/doc/libc6/"}, {Name: "./usr/share/doc/libc6/copyright", Data: "free\n"},
				{Name: "./usr/share/doc/libc6/changelog.gz", Data: "changes"}, {Name: "./usr/share/man/man7/libc.7.gz", Data: "manual"},
			},
		},
		{
			Name: "mawk", Version: "1.3", Fields: "Provides: awk\nPriority: required", Compression: ".zst",
			Files: []File{{Name: "./"}, {Name: "./usr/bin/mawk", Data: "mawk", Mode: 0o755}},
		},
		{
			Name: "apt", Version: "1:3.0.3", Fields: "Depends: libc6 (>= 2.41), dpkg | cdpkg, passwd", Compression: ".tar",
			Control: map[string]string{"conffiles": "/etc/apt/apt.conf.d/01autoremove\nremove-on-upgrade /etc/apt/old\n", "triggers": "interest /usr/share/things\n"},
			Files: []File{
				{Name: "./"}, {Name: "./etc/apt/apt.conf.d/"}, {Name: "./etc/apt/apt.conf.d/01autoremove", Data: "APT {};\n"},
				{Name: "./usr/bin/apt-get", Data: "apt", Mode: 0o755},
			},
		},
		{
			Name: "dpkg", Version: "1.22", Arch: "all", Fields: "Essential: yes\nPriority: required",
			Files: []File{
				{Name: "./"}, {Name: "./bin/"}, {Name: "./bin/dpkg", Data: "dpkg", Mode: 0o755},
				{Name: "./bin/dpkg-too", Type: tar.TypeLink, Link: "./bin/dpkg"}, {Name: "./var/lib/dpkg/"}, {Name: "./var/lib/dpkg/info/"},
			},
		},
		{
			Name: "passwd", Version: "1:4.17",
			Files: []File{
				{Name: "./"}, {Name: "./usr/bin/chage", Data: "chage", Mode: 0o2755, Gid: 999, Group: "shadow"},
				{Name: "./usr/bin/passwd", Data: "passwd", Mode: 0o4755}, {Name: "./var/run/passwd/"},
				{Name: "./dev/fake", Type: tar.TypeChar, Mode: 0o666},
			},
		},
		{Name: "ca-certificates", Version: "2025", Arch: "all", Files: []File{{Name: "./etc/ssl/"}}},
		{Name: "debian-archive-keyring", Version: "2025", Arch: "all", Files: []File{{Name: "./usr/share/keyrings/"}}},
		{Name: "ubuntu-keyring", Version: "2023", Arch: "all", Files: []File{{Name: "./usr/share/keyrings/"}}},
		{Name: "unrelated", Version: "1.0", Files: []File{{Name: "./usr/bin/unrelated", Data: "no"}}},
	}
}
