package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"berth.dev/internal/atomicfile"
	"berth.dev/internal/sandbox"
)

// refRE is what an image's name may be: the OCI distribution spec's repository
// with an optional host, tag and digest, in one expression that is generous
// where it does no harm. Names are data only, never a path.
var refRE = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9._/-]*[a-zA-Z0-9])?(:[0-9]{1,5}/[a-zA-Z0-9._/-]*[a-zA-Z0-9])?(:[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127})?$`)

func checkRef(ref string) error {
	if len(ref) > maxRefLength || !refRE.MatchString(ref) || strings.Contains(ref, "//") {
		return sandbox.Errorf(sandbox.ErrInvalid, "%.100q cannot be an image's name", ref).
			WithHint("use letters, digits, '.', '_', '-' and '/', and a tag after ':', as in team/image:1.0")
	}
	return nil
}

// normalize writes a name as Docker means it: "busybox" is
// docker.io/library/busybox:latest.
func normalize(ref string) string {
	if host, rest, ok := strings.Cut(ref, "/"); !ok {
		ref = "docker.io/library/" + ref
	} else if !strings.ContainsAny(host, ".:") && host != "localhost" {
		ref = "docker.io/" + ref
	} else if host == "docker.io" && !strings.Contains(rest, "/") {
		ref = "docker.io/library/" + rest
	}
	if last := ref[strings.LastIndexByte(ref, '/')+1:]; !strings.Contains(last, ":") {
		ref += ":latest"
	}
	return ref
}

func notFound(name string) error {
	return sandbox.Errorf(sandbox.ErrNotFound, "there is no image %.200q", name).
		WithHint("`berth template ls` lists the images; `berth template build NAME` makes one, `berth image import FILE` brings one in")
}

// refsFile is refs.json.
type refsFile struct {
	Refs map[string]string `json:"refs"` // name: digest of a manifest
}

func (s *Store) readRefs() (map[string]string, error) {
	b, err := os.ReadFile(filepath.Join(s.dir, "refs.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return map[string]string{}, nil
	}
	if err != nil {
		return nil, err
	}
	var f refsFile
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, fmt.Errorf("read the names of images (%s): %w", filepath.Join(s.dir, "refs.json"), err)
	}
	if f.Refs == nil {
		f.Refs = map[string]string{}
	}
	return f.Refs, nil
}

// changeRefs replaces refs.json by what change makes of it.
func (s *Store) changeRefs(change func(refs map[string]string) error) error {
	unlock, err := s.lock(exclusive)
	if err != nil {
		return err
	}
	defer unlock()
	refs, err := s.readRefs()
	if err != nil {
		return err
	}
	if err := change(refs); err != nil {
		return err
	}
	b, err := json.MarshalIndent(refsFile{refs}, "", "\t")
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(s.dir, "refs.json"), append(b, '\n'), 0o600)
}

// publish moves what was staged into place, and then lets names refer to images:
// all of it or nothing. refs has digests by name; it may be empty.
func (t *stage) publish(refs map[string]string) error {
	if err := t.commit(); err != nil {
		return err
	}
	if len(refs) == 0 {
		return nil
	}
	return t.s.changeRefs(func(all map[string]string) error {
		maps.Copy(all, refs)
		return nil
	})
}

func refsOf(all map[string]string, digest string) []string {
	var out []string
	for r, d := range all {
		if d == digest {
			out = append(out, r)
		}
	}
	slices.Sort(out)
	return out
}

// Lookup finds an image by name (as it was given, or as Docker would complete
// it), by digest, or by the first digits of a digest that only one image has,
// at least 4 of them, with or without "sha256:". None is sandbox.ErrNotFound,
// several are sandbox.ErrInvalid.
func (s *Store) Lookup(ref string) (Image, error) {
	refs, err := s.readRefs()
	if err != nil {
		return Image{}, err
	}
	digest, ok := refs[ref]
	if !ok && checkRef(ref) == nil {
		digest, ok = refs[normalize(ref)]
	}
	if !ok {
		if digest, err = s.findDigest(ref, refs); err != nil {
			return Image{}, err
		}
	}
	return s.load(digest)
}

// findDigest completes a digest. Images without a name are found by their whole
// digest only, because among the blobs nothing tells an image from a layer.
func (s *Store) findDigest(ref string, refs map[string]string) (string, error) {
	digits := strings.TrimPrefix(ref, digestPrefix)
	if _, err := hexOf(digestPrefix + digits); err == nil {
		return digestPrefix + digits, nil
	}
	if len(digits) < 4 {
		return "", notFound(ref)
	}
	found := map[string]bool{}
	for _, d := range refs {
		if strings.HasPrefix(d, digestPrefix+digits) {
			found[d] = true
		}
	}
	switch len(found) {
	case 0:
		return "", notFound(ref)
	case 1:
		for d := range found {
			return d, nil
		}
	}
	return "", sandbox.Errorf(sandbox.ErrInvalid, "%d images have a digest that begins with %.64q", len(found), digits).
		WithHint("give more of its digits")
}

// List returns the images that have names, sorted by the first of them.
func (s *Store) List() ([]Image, error) {
	refs, err := s.readRefs()
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	var out []Image
	for _, ref := range slices.Sorted(maps.Keys(refs)) {
		d := refs[ref]
		if seen[d] {
			continue
		}
		seen[d] = true
		img, err := s.load(d)
		if err != nil {
			return nil, err
		}
		out = append(out, img)
	}
	return out, nil
}

// Untag takes a name away. The image stays until GC finds that nothing needs it.
// A name that is not there is sandbox.ErrNotFound.
func (s *Store) Untag(ref string) error {
	return hostError(s.changeRefs(func(refs map[string]string) error {
		for _, r := range []string{ref, normalize(ref)} {
			if _, ok := refs[r]; ok {
				delete(refs, r)
				return nil
			}
		}
		return notFound(ref)
	}))
}
