package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"runtime"
	"strings"
)

// Annotations that say what an image in an OCI layout is called.
const (
	annotationContainerd = "io.containerd.image.name"
	annotationRef        = "org.opencontainers.image.ref.name"
)

// layerMedia are the media types of layers that are tars.
var layerMedia = map[string]bool{
	"":                                       true,
	mediaLayerZstd:                           true,
	"application/vnd.oci.image.layer.v1.tar": true,
	"application/vnd.oci.image.layer.v1.tar+gzip":                  true,
	"application/vnd.oci.image.layer.nondistributable.v1.tar":      true,
	"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": true,
	"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd": true,
	"application/vnd.docker.image.rootfs.diff.tar":                 true,
	"application/vnd.docker.image.rootfs.diff.tar.gzip":            true,
	"application/vnd.docker.image.rootfs.diff.tar.zstd":            true,
	"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip":    true,
}

// ociImages lists the images of an OCI layout (OCI image spec, "Image Layout").
func (a *archive) ociImages(l *Limits) ([]found, error) {
	raw, err := a.bytes("index.json", l.ManifestSize)
	if err != nil {
		return nil, err
	}
	return a.walkIndex(raw, nil, 0, l)
}

// walkIndex collects the images of an index. At the top each entry is an image;
// below it they are one image for several platforms. names are those that were
// given further up.
func (a *archive) walkIndex(raw []byte, names []string, depth int, l *Limits) ([]found, error) {
	if depth >= l.IndexDepth {
		return nil, fmt.Errorf("indexes are nested more than %d deep", l.IndexDepth)
	}
	var index struct {
		Manifests []descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(raw, &index); err != nil {
		return nil, fmt.Errorf("parse index: %w", err)
	}
	if len(index.Manifests) > maxArchiveFiles {
		return nil, errors.New("an index with too many entries")
	}
	var out []found
	for _, d := range index.Manifests {
		// Also leaves out attestations, which have the platform unknown/unknown.
		if d.Platform != nil && (d.Platform.OS != "linux" || d.Platform.Architecture != runtime.GOARCH) {
			continue
		}
		name := append(d.names(), names...)
		raw, err := a.blob(d, l.ManifestSize)
		if err != nil {
			return nil, err
		}
		images, err := a.ociImage(raw, d, name, depth, l)
		if err != nil {
			return nil, err
		}
		out = append(out, images...)
		if depth > 0 && len(out) > 0 {
			return out[:1], nil // variants of one platform: the first is the best
		}
	}
	return mergeNames(out), nil
}

// ociImage reads what one entry of an index refers to.
func (a *archive) ociImage(raw []byte, d descriptor, names []string, depth int, l *Limits) ([]found, error) {
	var m struct {
		manifest
		Manifests json.RawMessage `json:"manifests"`
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, fmt.Errorf("parse manifest %s: %w", short(d.Digest), err)
	}
	switch mediaOf(d.MediaType) {
	case mediaIndex, mediaDockerList:
		return a.walkIndex(raw, names, depth+1, l)
	case mediaManifest, mediaDockerManifest, "":
	default:
		return nil, fmt.Errorf("manifest %s is of the unknown type %.100q", short(d.Digest), d.MediaType)
	}
	if m.Manifests != nil {
		return nil, fmt.Errorf("manifest %s is an index as well", short(d.Digest))
	}
	config, err := a.blob(m.Config, l.ConfigSize)
	if err != nil {
		return nil, err
	}
	im := found{manifest: raw, config: config, refs: names}
	for _, ld := range m.Layers {
		if !layerMedia[mediaOf(ld.MediaType)] {
			return nil, fmt.Errorf("layer %s is of the unknown type %.100q", short(ld.Digest), ld.MediaType)
		}
		hex, err := hexOf(ld.Digest)
		if err != nil {
			return nil, err
		}
		member, err := a.find("blobs/sha256/" + hex)
		im.layers = append(im.layers, source{member, err == nil})
	}
	return []found{im}, nil
}

// blob returns a small blob of an OCI layout, verified.
func (a *archive) blob(d descriptor, limit int64) ([]byte, error) {
	hex, err := hexOf(d.Digest)
	if err != nil {
		return nil, err
	}
	b, err := a.bytes("blobs/sha256/"+hex, limit)
	if err != nil {
		return nil, err
	}
	if int64(len(b)) != d.Size || digestOf(b) != d.Digest {
		return nil, fmt.Errorf("blob %s has the wrong digest or size", short(d.Digest))
	}
	return b, nil
}

// names returns what a descriptor's annotations call its image. A ref.name that
// is only a tag, as many tools write it, names nothing.
func (d *descriptor) names() []string {
	if n := d.Annotations[annotationContainerd]; n != "" {
		return []string{n}
	}
	if n := d.Annotations[annotationRef]; strings.ContainsAny(n, "/:") {
		return []string{n}
	}
	return nil
}

// mergeNames joins entries for the same manifest: an image with several names
// stands in the index several times.
func mergeNames(in []found) []found {
	var out []found
	at := map[string]int{}
	for _, im := range in {
		d := digestOf(im.manifest)
		if i, ok := at[d]; ok {
			out[i].refs = append(out[i].refs, im.refs...)
			continue
		}
		at[d] = len(out)
		out = append(out, im)
	}
	return out
}

// dockerImages lists the images of an archive in docker save's own format
// (moby: image/spec/v1.2.md, "Combined Image JSON + Filesystem Changeset
// Format").
func (a *archive) dockerImages(l *Limits) ([]found, error) {
	raw, err := a.bytes("manifest.json", l.ManifestSize)
	if err != nil {
		return nil, err
	}
	var list []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("parse manifest.json: %w", err)
	}
	var out []found
	for _, e := range list {
		im := found{refs: e.RepoTags}
		if im.config, err = a.bytes(e.Config, l.ConfigSize); err != nil {
			return nil, err
		}
		// The file is called by its digest.
		hex := strings.TrimSuffix(path.Base(e.Config), ".json")
		if _, err := hexOf(digestPrefix + hex); err == nil && digestOf(im.config) != digestPrefix+hex {
			return nil, fmt.Errorf("configuration %.100q has the wrong digest", e.Config)
		}
		if len(e.Layers) > l.Layers {
			return nil, fmt.Errorf("%d layers, %d are the most", len(e.Layers), l.Layers)
		}
		for _, name := range e.Layers {
			m, err := a.find(name)
			if err != nil {
				return nil, fmt.Errorf("layer %.200q: %w", name, err)
			}
			im.layers = append(im.layers, source{m, true})
		}
		out = append(out, im)
	}
	return out, nil
}
