package debian

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"
)

// dpkgDir is dpkg's database (dpkg(1), deb-conffiles(5), deb-triggers(5); the
// forms of its files are those of dpkg's own lib/dpkg).
const dpkgDir = "/var/lib/dpkg/"

// writeDatabase writes what dpkg would have written had it unpacked the
// packages itself: every one of them "install ok unpacked".
func writeDatabase(u *unpacker, arch string, debs []*deb) error {
	t, when := u.tree, newestTime(debs)
	var status bytes.Buffer
	for _, d := range debs {
		writeStatus(&status, d)
		if err := writeInfo(t, d, u.lists[d.Name]); err != nil {
			return fmt.Errorf("package %s: %w", d.Name, err)
		}
	}
	files := []guestFile{
		{dpkgDir + "arch", 0o644, []byte(arch + "\n")},
		{dpkgDir + "available", 0o644, nil},
		{dpkgDir + "diversions", 0o644, nil},
		{dpkgDir + "info/format", 0o644, []byte("1\n")},
		{dpkgDir + "statoverride", 0o644, nil},
		{dpkgDir + "status", 0o644, status.Bytes()},
	}
	files = append(files, triggerFiles(debs)...)
	for _, f := range files {
		if err := t.file(f.name, f.mode, when, f.data); err != nil {
			return err
		}
	}
	for _, dir := range []string{"alternatives", "info", "parts", "triggers", "updates"} {
		if err := t.dir(dpkgDir+dir, 0o755, when); err != nil {
			return err
		}
	}
	return nil
}

// writeStatus writes a package's paragraph of the status file: its control
// file, its state, and the configuration files that configure still has to put
// in place ("newconffile" stands for the hash of the version before).
func writeStatus(out *bytes.Buffer, d *deb) {
	fmt.Fprintf(out, "Package: %s\nStatus: install ok unpacked\n", d.Name)
	for _, f := range d.control {
		switch strings.ToLower(f.name) {
		case "package", "status", "conffiles", "config-version":
			continue // dpkg's own business
		}
		fmt.Fprintf(out, "%s:", f.name)
		for i, line := range strings.Split(f.value, "\n") {
			switch {
			case i > 0:
				fmt.Fprintf(out, "\n %s", line)
			case line != "":
				fmt.Fprintf(out, " %s", line)
			}
		}
		out.WriteByte('\n')
	}
	if conffiles := d.conffiles(); len(conffiles) > 0 {
		out.WriteString("Conffiles:\n")
		for _, c := range conffiles {
			fmt.Fprintf(out, " %s newconffile\n", c)
		}
	}
	out.WriteByte('\n')
}

// writeInfo writes a package's files below info: the list of its paths, and
// the control files but the control file itself.
func writeInfo(t *tree, d *deb, paths []string) error {
	base := dpkgDir + "info/" + d.infoName() + "."
	var list bytes.Buffer
	for _, p := range paths {
		if p == "/" {
			p = "/."
		}
		list.WriteString(p + "\n")
	}
	if err := t.file(base+"list", 0o644, d.modTime, list.Bytes()); err != nil {
		return err
	}
	for _, m := range d.members {
		if m.name == "control" || m.name == "list" {
			continue
		}
		if err := t.file(base+m.name, m.mode, d.modTime, m.data); err != nil {
			return err
		}
	}
	return nil
}

// triggerFiles are the records of who is interested in which trigger. dpkg
// writes them when it unpacks; nothing is pending, because everybody's postinst
// is still to run and finds all files in place.
func triggerFiles(debs []*deb) []guestFile {
	var paths []string
	names := map[string][]string{}
	for _, d := range debs {
		for line := range strings.SplitSeq(string(d.member("triggers")), "\n") {
			line, _, _ = strings.Cut(line, "#")
			w := strings.Fields(line)
			if len(w) != 2 || !strings.HasPrefix(w[0], "interest") {
				continue
			}
			who := d.infoName()
			if w[0] == "interest-noawait" {
				who += "/noawait"
			}
			if strings.HasPrefix(w[1], "/") {
				paths = append(paths, w[1]+" "+who)
			} else if validTriggerName(w[1]) {
				names[w[1]] = append(names[w[1]], who)
			}
		}
	}
	var files []guestFile
	if len(paths) > 0 {
		files = append(files, guestFile{dpkgDir + "triggers/File", 0o644, []byte(strings.Join(paths, "\n") + "\n")})
	}
	for n, who := range names {
		files = append(files, guestFile{dpkgDir + "triggers/" + n, 0o644, []byte(strings.Join(who, "\n") + "\n")})
	}
	slices.SortFunc(files, func(a, b guestFile) int { return strings.Compare(a.name, b.name) })
	return files
}

// validTriggerName: as package names, so that it can be a file name; "File" is
// dpkg's own.
func validTriggerName(s string) bool {
	return validPackageName(strings.ReplaceAll(s, "_", "-")) && s != "File" && s != "Unincorp" && s != "Lock"
}

// guestFile is a file made here for the guest.
type guestFile struct {
	name string
	mode int64
	data []byte
}

var epoch = time.Unix(0, 0)
