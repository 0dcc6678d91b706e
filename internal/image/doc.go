// Package image is the store of images: OCI blobs by their digest, and the
// EROFS files that sandboxes mount. It owns the folder given to Open and what
// an image means (layers, whiteouts, names); it does not know where images
// come from (package template builds them, registries are elsewhere) or how
// one is mounted (package engine).
//
// # On disk
//
// Format 1, everything 0700 or 0600:
//
//	version              the format's number
//	lock                 flock, see below
//	refs.json            names, and the digest that each stands for
//	blobs/sha256/HEX     layers, configurations and manifests, verified
//	index/HEX            entries of the layer whose DiffID is HEX, checked
//	erofs/HEX.v1.erofs   merged layers whose ChainID is HEX
//	erofs/HEX.v1.xattrs  their extended attributes (JSON), which EROFS cannot carry
//	locks/XX             flock: one EROFS file with these first digits is being built
//	work/ID/             what one process is writing, and its pins
//
// A file in blobs, index or erofs is whole: it was written under work, synced
// and renamed. All else may be lost at any moment and leaves only a folder in
// work, which GC removes.
//
// # Locks
//
// The lock of work/ID is held for as long as the Store that made the folder
// lives; the kernel drops it when the process dies. A file pin-* in there keeps
// what it names from being collected.
//
// The store's lock is held shared, for moments only, by whoever makes such a
// folder, and by whoever pins a thing and then looks whether it exists or moves
// it into its place. GC holds it exclusively from reading names and pins until
// the last file is deleted. So GC never waits for a download, a download never
// waits for more than some deletions, and nothing disappears between being
// found and being pinned.
//
// The lock in locks is held while an EROFS file is built; nobody who holds the
// store's lock waits for it. refs.json is replaced under the store's lock, held
// exclusively.
//
// # Trust
//
// Layers and archives are the attacker's: every size in them is bounded
// (Limits), names are checked before they are used and never reach the host's
// file system, since layers are merged in memory and their content goes into
// one file. What lies in the store was checked when it came in.
package image
