package debian

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"berth.dev/internal/sandbox"
)

// maxRelease bounds InRelease, Release and Release.gpg; Debian's has 140 KB.
const maxRelease = 16 << 20

// release is what a verified Release file says that matters here.
type release struct {
	archive Archive
	byHash  bool
	files   map[string]blob // index files by path, relative to the suite's folder
}

// dist returns the address of a file of the suite.
func (r release) dist(file string) string { return r.archive.dist(file) }

func (a Archive) dist(file string) string {
	return a.URI + "/dists/" + a.Suite + "/" + file
}

// loadRelease fetches an archive's Release file, verifies its signature, and
// holds it against what was asked for and against the clock.
func loadRelease(ctx context.Context, f fetcher, a Archive, arch string, now time.Time) (release, error) {
	signed, err := fetchSigned(ctx, f, a, now)
	if err != nil {
		return release{}, err
	}
	r, err := parseRelease(signed, a, arch, now)
	if err != nil {
		return release{}, fmt.Errorf("check %s: %w", redact(a.dist("Release")), err)
	}
	return r, nil
}

// fetchSigned returns the verified text: InRelease, or where an archive has
// none Release and Release.gpg.
func fetchSigned(ctx context.Context, f fetcher, a Archive, now time.Time) ([]byte, error) {
	uri := a.dist("InRelease")
	data, err := f.get(ctx, uri, maxRelease)
	if err == nil {
		signed, err := openClearsigned(data, a.Keyring, now)
		if err != nil {
			return nil, signatureError(uri, err)
		}
		return signed, nil
	}
	if !errors.Is(err, sandbox.ErrNotFound) {
		return nil, err
	}
	uri = a.dist("Release")
	data, err = f.get(ctx, uri, maxRelease)
	if err != nil {
		return nil, err
	}
	sig, err := f.get(ctx, a.dist("Release.gpg"), maxRelease)
	if err != nil {
		return nil, err
	}
	if err := verifyDetached(data, sig, a.Keyring, now); err != nil {
		return nil, signatureError(uri, err)
	}
	return data, nil
}

func signatureError(uri string, err error) error {
	return sandbox.Errorf(sandbox.ErrForbidden, "verify the signature of %s: %w", redact(uri), err).
		WithHint("check that apt-get update works on this host and that its archive keyring is up to date")
}

func parseRelease(signed []byte, a Archive, arch string, now time.Time) (release, error) {
	stanzas, err := parseStanzas(signed)
	if err != nil {
		return release{}, err
	}
	if len(stanzas) != 1 {
		return release{}, sandbox.Errorf(sandbox.ErrInvalid, "it has %d paragraphs, not one", len(stanzas))
	}
	s := stanzas[0]
	// A signed file of another suite is just as well signed: without this a
	// mirror could serve an old release in place of a new one.
	if s.get("Codename") != a.Suite && s.get("Suite") != a.Suite {
		return release{}, sandbox.Errorf(sandbox.ErrForbidden, "it is for suite %q (codename %q), not %q", s.get("Suite"), s.get("Codename"), a.Suite)
	}
	if err := checkDates(s, a, now); err != nil {
		return release{}, err
	}
	if !slices.Contains(words(s.get("Architectures")), arch) {
		return release{}, sandbox.Errorf(sandbox.ErrUnavailable, "suite %s is not there for %s", a.Suite, arch)
	}
	r := release{archive: a, byHash: strings.EqualFold(s.get("Acquire-By-Hash"), "yes"), files: map[string]blob{}}
	for line := range strings.SplitSeq(s.get("SHA256"), "\n") {
		w := strings.Fields(line)
		if len(w) == 0 || len(w) == 3 && !strings.HasPrefix(lastElement(w[2]), "Packages") {
			continue
		}
		if len(w) != 3 || !validSum(w[0]) {
			return release{}, sandbox.Errorf(sandbox.ErrInvalid, "its SHA256 line %q makes no sense", clip([]byte(line)))
		}
		size, err := strconv.ParseInt(w[1], 10, 64)
		if err != nil || size < 0 {
			return release{}, sandbox.Errorf(sandbox.ErrInvalid, "its SHA256 line %q has no size", clip([]byte(line)))
		}
		r.files[w[2]] = blob{w[0], size}
	}
	return r, nil
}

// checkDates holds Date and Valid-Until against the clock, as apt does.
func checkDates(s stanza, a Archive, now time.Time) error {
	if v := s.get("Date"); !a.IgnoreDate && v != "" {
		t, err := parseDate(v)
		if err != nil {
			return err
		}
		// apt allows 10 seconds; a laptop's clock deserves a little more.
		if t.After(now.Add(5 * time.Minute)) {
			return sandbox.Errorf(sandbox.ErrForbidden, "it is from the future (Date: %s)", v).WithHint("check this machine's clock")
		}
	}
	if v := s.get("Valid-Until"); !a.IgnoreValidUntil && v != "" {
		t, err := parseDate(v)
		if err != nil {
			return err
		}
		if now.After(t) {
			return sandbox.Errorf(sandbox.ErrForbidden, "it has expired (Valid-Until: %s)", v).
				WithHint("the mirror is no longer updated, or this machine's clock is wrong")
		}
	}
	return nil
}

func parseDate(v string) (time.Time, error) {
	for _, layout := range []string{time.RFC1123, time.RFC1123Z, "Mon, _2 Jan 2006 15:04:05 MST", "Mon, _2 Jan 2006 15:04:05 -0700"} {
		if t, err := time.Parse(layout, v); err == nil {
			return t, nil
		}
	}
	return time.Time{}, sandbox.Errorf(sandbox.ErrInvalid, "its date %q makes no sense", clip([]byte(v)))
}

func lastElement(p string) string { return p[strings.LastIndexByte(p, '/')+1:] }
