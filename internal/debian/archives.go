package debian

import (
	"net/url"
	"path"
	"slices"
	"strings"

	"berth.dev/internal/sandbox"
)

// pockets: what an archive's suites are for, by the ending of their name.
const (
	pocketMain     = ""
	pocketUpdates  = "-updates"
	pocketSecurity = "-security"
)

// archives picks the distribution's own archives out of apt's sources and says
// which suites of them make the sandboxes' system.
func (h host) archives(d distro, entries []aptSource) ([]Archive, error) {
	main, ok := pick(d, entries, pocketMain)
	if !ok {
		return nil, noApt("apt's sources name no http or https archive of " + d.name)
	}
	components := []string{"main"}
	if d.name == "ubuntu" {
		components = append(components, "universe")
	}
	keys, err := h.keyring(d, main.signedBy)
	if err != nil {
		return nil, err
	}
	suite := func(s aptSource, pocket string, keys []byte, optional bool) Archive {
		return Archive{
			URI: s.uri, Suite: d.codename + pocket, Components: components, Keyring: keys, Optional: optional,
			IgnoreValidUntil: s.ignoreValidUntil, IgnoreDate: s.ignoreDate,
		}
	}
	all := []Archive{suite(main, pocketMain, keys, false)}
	updates, listed := pick(d, entries, pocketUpdates)
	if !listed || updates.uri == main.uri {
		updates = main // a third party's -updates is none of the distribution's
	}
	all = append(all, suite(updates, pocketUpdates, keys, !listed))
	if security, ok := pick(d, entries, pocketSecurity); ok {
		keys, err := h.keyring(d, security.signedBy)
		if err != nil {
			return nil, err
		}
		all = append(all, suite(security, pocketSecurity, keys, false))
	}
	return all, nil
}

// pick returns the most likely of the sources for a pocket. Nothing in a
// source says "I am the distribution": a third party may use the same suite
// names, so the keyring and the form of the URI decide, then the order.
func pick(d distro, entries []aptSource, pocket string) (best aptSource, ok bool) {
	bestScore := -1 << 30
	for _, e := range entries {
		u, err := url.Parse(e.uri)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.Contains(e.uri, "$(") {
			continue // cdrom:, mirror+http:, tor+http:, file: and the like
		}
		base, p := splitSuite(e.suite)
		if p != pocket || !slices.Contains(d.suites, base) || !slices.Contains(e.components, "main") {
			continue
		}
		if len(e.archs) > 0 && !slices.Contains(e.archs, HostArch()) {
			continue
		}
		if s := score(d, e, path.Base(u.Path), entries); s > bestScore {
			best, bestScore, ok = e, s, true
		}
	}
	return best, ok && bestScore >= 0
}

func score(d distro, e aptSource, last string, entries []aptSource) int {
	s := 0
	switch {
	case strings.Contains(e.signedBy, "/"+d.name+"-archive"):
		s += 8
	case strings.HasPrefix(e.signedBy, "/"), strings.Contains(e.signedBy, "BEGIN PGP"):
		// A company's mirror with a key of its own looks just like a third
		// party: its URI or its other suites must speak for it.
		s -= 2
	}
	switch last {
	case d.name, d.name + "-security", d.name + "-ports":
		s += 4
	}
	for _, o := range entries {
		if _, p := splitSuite(o.suite); o.uri == e.uri && p == pocketUpdates {
			s += 2
			break
		}
	}
	return s
}

// splitSuite cuts a suite's name into the release and the pocket; pockets that
// do not matter here (backports, proposed) come back as they are.
func splitSuite(suite string) (base, pocket string) {
	if b, ok := strings.CutSuffix(suite, "/updates"); ok {
		return b, pocketSecurity // Debian 10 and before
	}
	if i := strings.IndexByte(suite, '-'); i >= 0 {
		return suite[:i], suite[i:]
	}
	return suite, pocketMain
}

// keyring returns the certificates that may sign an archive, as apt reads
// Signed-By: an inline block, else files and fingerprints, else all that apt
// trusts.
func (h host) keyring(d distro, signedBy string) ([]byte, error) {
	if strings.Contains(signedBy, "-----BEGIN") {
		lines := strings.Split(strings.TrimSpace(signedBy), "\n")
		for i, l := range lines {
			if strings.TrimSpace(l) == "." { // deb822's blank line
				lines[i] = ""
			}
		}
		return dearmor([]byte(strings.Join(lines, "\n") + "\n"))
	}
	var files, prints []string
	for _, w := range words(signedBy) {
		if path.IsAbs(w) {
			files = append(files, w)
		} else {
			prints = append(prints, strings.ToUpper(strings.TrimSuffix(w, "!")))
		}
	}
	if len(files) == 0 {
		files = h.trustedKeyrings()
	}
	keys, err := h.readKeyrings(files)
	if err == nil && len(keys) == 0 && signedBy == "" {
		// A host that keeps its distribution's keys only where Signed-By
		// usually points.
		keys, err = h.readKeyrings([]string{
			"/usr/share/keyrings/" + d.name + "-archive-keyring.pgp",
			"/usr/share/keyrings/" + d.name + "-archive-keyring.gpg",
		})
	}
	if err == nil && len(prints) > 0 {
		keys, err = filterKeys(keys, prints)
	}
	if err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		return nil, sandbox.Errorf(sandbox.ErrUnavailable, "apt has no key for the archive of %s (looked in %s)", d.name, strings.Join(files, ", ")).
			WithHint("install the package %s", map[string]string{"debian": "debian-archive-keyring", "ubuntu": "ubuntu-keyring"}[d.name])
	}
	return keys, nil
}
