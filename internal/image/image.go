package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"slices"
	"time"

	"berth.dev/internal/sandbox"
)

// Image is one image in the store.
type Image struct {
	Digest  string    // of the manifest: it covers all the image is made of
	Refs    []string  // names that stand for it, sorted
	Layers  []Layer   // lowest first
	Config  Config    // how to run it
	Created time.Time // zero when the image does not say
	Size    int64     // bytes of its blobs; some may be shared with other images

	config string // digest of the configuration
}

// Config is how an image wants to be run, as in the OCI image spec.
type Config struct {
	Env        []string // K=V
	User       string   // a name, a uid, or either with ":" and a group
	WorkingDir string
	Entrypoint []string
	Cmd        []string
	Labels     map[string]string
}

// Media types of the OCI image spec and of Docker's older formats.
const (
	mediaManifest       = "application/vnd.oci.image.manifest.v1+json"
	mediaIndex          = "application/vnd.oci.image.index.v1+json"
	mediaConfig         = "application/vnd.oci.image.config.v1+json"
	mediaDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	mediaDockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
)

// descriptor points to a blob.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Platform    *platform         `json:"platform,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
	Variant      string `json:"variant,omitempty"`
}

type manifest struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType,omitempty"`
	Config        descriptor        `json:"config"`
	Layers        []descriptor      `json:"layers"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

// imageConfig is the configuration blob: what Docker and OCI have in common.
type imageConfig struct {
	Created      *time.Time `json:"created,omitempty"`
	Architecture string     `json:"architecture"`
	OS           string     `json:"os"`
	Config       struct {
		User       string            `json:"User,omitempty"`
		Env        []string          `json:"Env,omitempty"`
		Entrypoint []string          `json:"Entrypoint,omitempty"`
		Cmd        []string          `json:"Cmd,omitempty"`
		WorkingDir string            `json:"WorkingDir,omitempty"`
		Labels     map[string]string `json:"Labels,omitempty"`
	} `json:"config"`
	RootFS struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
	History []history `json:"history,omitempty"`
}

type history struct {
	Created   *time.Time `json:"created,omitempty"`
	CreatedBy string     `json:"created_by,omitempty"`
	Empty     bool       `json:"empty_layer,omitempty"`
}

// checkPlatform refuses images that the host's processor cannot run. An image
// that does not say is taken at the user's word.
func (c *imageConfig) checkPlatform() error {
	if (c.OS != "" && c.OS != "linux") || (c.Architecture != "" && c.Architecture != runtime.GOARCH) {
		return sandbox.Errorf(sandbox.ErrInvalid, "the image is for %.40s/%.40s", c.OS, c.Architecture).
			WithHint("this machine runs images for linux/%s", runtime.GOARCH)
	}
	return nil
}

// layers pairs a manifest's layers with the configuration's DiffIDs.
func (m *manifest) layers(c *imageConfig, l *Limits) ([]Layer, error) {
	if len(m.Layers) != len(c.RootFS.DiffIDs) {
		return nil, fmt.Errorf("the manifest has %d layers, the configuration %d", len(m.Layers), len(c.RootFS.DiffIDs))
	}
	if len(m.Layers) > l.Layers {
		return nil, fmt.Errorf("%d layers, %d are the most", len(m.Layers), l.Layers)
	}
	made := c.createdBy(len(m.Layers))
	var out []Layer
	for i, d := range m.Layers {
		if _, err := hexOf(d.Digest); err != nil {
			return nil, fmt.Errorf("layer %d: %w", i+1, err)
		}
		if _, err := hexOf(c.RootFS.DiffIDs[i]); err != nil {
			return nil, fmt.Errorf("layer %d: %w", i+1, err)
		}
		by := d.Annotations[annotationCreatedBy]
		if by == "" {
			by = made[i]
		}
		layer := Layer{
			Digest: d.Digest, DiffID: c.RootFS.DiffIDs[i], MediaType: d.MediaType, Size: d.Size,
			Mount: d.Annotations[MountAnnotation], CreatedBy: by,
		}
		if err := checkMount(layer.Mount); err != nil {
			return nil, fmt.Errorf("layer %d: %w", i+1, err)
		}
		out = append(out, layer)
	}
	return out, nil
}

// createdBy returns what the history says of each of n layers.
func (c *imageConfig) createdBy(n int) []string {
	out := make([]string, n)
	i := 0
	for _, h := range c.History {
		if h.Empty || i >= n {
			continue
		}
		out[i] = h.CreatedBy
		i++
	}
	return out
}

// diffIDsAt returns the DiffIDs of the layers with a mount folder, lowest first.
func (img *Image) diffIDsAt(mount string) []string {
	var ids []string
	for _, l := range img.Layers {
		if l.Mount == mount {
			ids = append(ids, l.DiffID)
		}
	}
	return ids
}

// mounts returns the mount folders of an image, "" for the merged root first.
// The root is there even if no layer is merged into it.
func (img *Image) mounts() []string {
	out := []string{""}
	for _, l := range img.Layers {
		if l.Mount != "" && !slices.Contains(out, l.Mount) {
			out = append(out, l.Mount)
		}
	}
	slices.Sort(out)
	return out
}

// load reads the image with a manifest digest, and its names.
func (s *Store) load(digest string) (Image, error) {
	raw, err := s.readBlob(digest, s.limits.ManifestSize)
	if errors.Is(err, fs.ErrNotExist) {
		return Image{}, notFound(digest)
	}
	if err != nil {
		return Image{}, fmt.Errorf("read image %s: %w", short(digest), err)
	}
	var m manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return Image{}, fmt.Errorf("read image %s: %w", short(digest), err)
	}
	craw, err := s.readBlob(m.Config.Digest, s.limits.ConfigSize)
	if err != nil {
		return Image{}, fmt.Errorf("read configuration of image %s: %w", short(digest), err)
	}
	img, err := buildImage(digest, raw, craw, &s.limits)
	if err != nil {
		return Image{}, fmt.Errorf("read image %s: %w", short(digest), err)
	}
	refs, err := s.readRefs()
	img.Refs = refsOf(refs, digest)
	return img, err
}

// buildImage makes an Image of a manifest and its configuration.
func buildImage(digest string, raw, craw []byte, l *Limits) (Image, error) {
	var m manifest
	var c imageConfig
	if err := json.Unmarshal(raw, &m); err != nil {
		return Image{}, fmt.Errorf("parse manifest: %w", err)
	}
	if err := json.Unmarshal(craw, &c); err != nil {
		return Image{}, fmt.Errorf("parse configuration: %w", err)
	}
	layers, err := m.layers(&c, l)
	if err != nil {
		return Image{}, err
	}
	img := Image{Digest: digest, Layers: layers, config: m.Config.Digest, Size: int64(len(raw) + len(craw))}
	for _, l := range layers {
		img.Size += l.Size
	}
	if c.Created != nil {
		img.Created = *c.Created
	}
	img.Config = Config{
		Env: c.Config.Env, User: c.Config.User, WorkingDir: c.Config.WorkingDir,
		Entrypoint: c.Config.Entrypoint, Cmd: c.Config.Cmd, Labels: c.Config.Labels,
	}
	return img, nil
}
