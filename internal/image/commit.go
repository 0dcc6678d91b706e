package image

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"time"

	"berth.dev/internal/sandbox"
)

// Commit makes an image of base (nil for none) and more layers on top of it, and
// gives it the name ref, if that is not empty; a name that is taken moves. cfg
// is the whole configuration: nothing is inherited from base. The layers must be
// in the store and are checked together: a hard link to a file that no layer
// has, for one, is an error that names its layer and entry.
func (s *Store) Commit(ctx context.Context, ref string, base *Image, layers []Layer, cfg Config) (Image, error) {
	if ref != "" {
		if err := checkRef(ref); err != nil {
			return Image{}, err
		}
	}
	t, err := s.stage()
	if err != nil {
		return Image{}, hostError(err)
	}
	img, err := t.newImage(ctx, base, layers, cfg)
	if err == nil {
		err = t.name(img, ref)
	}
	if err != nil {
		t.abort()
		return Image{}, hostError(fmt.Errorf("commit image: %w", err))
	}
	if ref != "" {
		for _, l := range layers {
			t.w.let(l.Digest)
		}
	}
	return s.load(img.Digest)
}

// name publishes one image under one name, or keeps it until Close.
func (t *stage) name(img Image, ref string) error {
	if ref != "" {
		defer t.release() // the name holds it from then on
		return t.publish(map[string]string{ref: img.Digest})
	}
	hex, err := hexOf(img.Digest)
	if err != nil {
		return err
	}
	if _, err := t.have(pinImage, hex, t.s.blobPath(hex)); err != nil {
		return err
	}
	return t.publish(nil)
}

func (t *stage) newImage(ctx context.Context, base *Image, layers []Layer, cfg Config) (Image, error) {
	var all []Layer
	if base != nil {
		all = append(all, base.Layers...)
	}
	all = append(all, layers...)
	now := time.Now().UTC().Truncate(time.Second)
	c := imageConfig{Created: &now, Architecture: runtime.GOARCH, OS: "linux"}
	c.Config.Env, c.Config.User, c.Config.WorkingDir = cfg.Env, cfg.User, cfg.WorkingDir
	c.Config.Entrypoint, c.Config.Cmd, c.Config.Labels = cfg.Entrypoint, cfg.Cmd, cfg.Labels
	c.RootFS.Type, c.RootFS.DiffIDs = "layers", []string{}
	m := manifest{SchemaVersion: 2, MediaType: mediaManifest, Layers: []descriptor{}}
	for _, l := range all {
		if err := t.haveLayer(l); err != nil {
			return Image{}, err
		}
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, l.DiffID)
		c.History = append(c.History, history{Created: &now, CreatedBy: l.CreatedBy})
		m.Layers = append(m.Layers, l.descriptor())
	}
	craw, err := json.Marshal(c)
	if err != nil {
		return Image{}, err
	}
	if m.Config.Digest, err = t.addBytes(craw); err != nil {
		return Image{}, err
	}
	m.Config.MediaType, m.Config.Size = mediaConfig, int64(len(craw))
	return t.addManifest(ctx, m, craw)
}

// addManifest stages a manifest that Berth wrote.
func (t *stage) addManifest(ctx context.Context, m manifest, craw []byte) (Image, error) {
	raw, err := json.Marshal(m)
	if err != nil {
		return Image{}, err
	}
	digest, err := t.addBytes(raw)
	if err != nil {
		return Image{}, err
	}
	img, err := buildImage(digest, raw, craw, &t.s.limits)
	if err != nil {
		return Image{}, err
	}
	return img, t.checkMerge(ctx, &img)
}

// haveLayer pins a layer and makes sure that it is in the store.
func (t *stage) haveLayer(l Layer) error {
	hex, err := hexOf(l.Digest)
	if err != nil {
		return err
	}
	if ok, err := t.have(pinBlob, hex, t.s.blobPath(hex)); err != nil {
		return err
	} else if !ok {
		return sandbox.Errorf(sandbox.ErrNotFound, "layer %s is not in the store", l.label())
	}
	dhex, err := hexOf(l.DiffID)
	if err != nil {
		return err
	}
	_, err = t.have(pinIndex, dhex, t.s.indexPath(dhex))
	return err
}

func (l Layer) descriptor() descriptor {
	d := descriptor{MediaType: l.MediaType, Digest: l.Digest, Size: l.Size}
	add := func(k, v string) {
		if v == "" {
			return
		}
		if d.Annotations == nil {
			d.Annotations = map[string]string{}
		}
		d.Annotations[k] = v
	}
	add(MountAnnotation, l.Mount)
	add(annotationCreatedBy, l.CreatedBy)
	return d
}

// checkMerge lays an image's layers on each other, in memory, to find what is
// wrong with them together before a name refers to them.
func (t *stage) checkMerge(ctx context.Context, img *Image) error {
	for _, mount := range img.mounts() {
		if _, err := t.merge(ctx, img, mount); err != nil {
			return err
		}
	}
	return nil
}

// merge returns the tree of those layers of an image that have a mount folder.
func (t *stage) merge(ctx context.Context, img *Image, mount string) (*tree, error) {
	tr, err := newTree(&t.s.limits, mount)
	if err != nil {
		return nil, err
	}
	for _, l := range img.Layers {
		if l.Mount != mount {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		x, err := t.index(ctx, l)
		if err != nil {
			return nil, err
		}
		// Again, because another image may have brought the layer in.
		if err := checkBelow(x.Entries, l); err != nil {
			return nil, err
		}
		if err := tr.apply(l, x.Entries); err != nil {
			return nil, err
		}
	}
	return tr, nil
}
