package image

// Limits bound what a layer or an archive may make Berth do. The zero value of
// a field means its default.
type Limits struct {
	// LayerSize is the most bytes that one layer may unpack to, holes of sparse
	// files included.
	LayerSize int64
	// LayerRatio is how many times its stored size a layer may unpack to, once
	// it is past RatioFloor.
	LayerRatio int64
	// RatioFloor is what a layer may unpack to whatever its ratio.
	RatioFloor int64
	// ArchiveSize is the most bytes that a compressed archive may unpack to.
	ArchiveSize int64
	// Entries is the most files in one layer, and in one merged image.
	Entries int
	// Metadata is the most bytes of names, link targets and extended attributes
	// in one layer, and in one merged image: they are held in memory.
	Metadata int64
	// Layers is the most layers in one image.
	Layers int
	// PathLength is the longest path, in bytes.
	PathLength int
	// Depth is the deepest folder.
	Depth int
	// XattrSize is the most bytes of extended attributes on one file, names
	// included.
	XattrSize int
	// ManifestSize is the largest manifest or index.
	ManifestSize int64
	// ConfigSize is the largest image configuration.
	ConfigSize int64
	// IndexDepth is how deep an OCI index may be nested in another.
	IndexDepth int
}

// The defaults, each with its reason.
const (
	// DefaultLayerSize is far above the largest layers seen (CUDA images reach
	// 10 GiB) and below what fills a laptop's disk.
	DefaultLayerSize = 32 << 30
	// DefaultLayerRatio: text compresses 4 to 20 times, the emptiest real
	// layers about 100 times. Gzip reaches 1032 on zeros, zstd 10,000.
	DefaultLayerRatio = 200
	// DefaultRatioFloor leaves room for small layers with one preallocated
	// file in them, and unpacks in a second.
	DefaultRatioFloor = 1 << 30
	// DefaultArchiveSize holds several of the largest images.
	DefaultArchiveSize = 128 << 30
	// DefaultEntries: the base template has 80,000; one entry costs about 400
	// bytes of memory while layers are merged.
	DefaultEntries = 1_000_000
	// DefaultMetadata is 20 times what the base template has.
	DefaultMetadata = 256 << 20
	// DefaultLayers is twice the 127 that Docker can stack.
	DefaultLayers = 256
	// DefaultPathLength is PATH_MAX.
	DefaultPathLength = 4096
	// DefaultDepth is what fits PATH_MAX with names of 15 bytes; deeper trees
	// come only from those who want a stack to overflow.
	DefaultDepth = 256
	// DefaultXattrSize is XATTR_LIST_MAX, the kernel's own bound per value.
	DefaultXattrSize = 64 << 10
	// DefaultManifestSize is what registries accept.
	DefaultManifestSize = 4 << 20
	// DefaultConfigSize: a configuration has the history of every layer.
	DefaultConfigSize = 8 << 20
	// DefaultIndexDepth: an archive's index, an image's, and one to spare.
	DefaultIndexDepth = 3

	// maxName is NAME_MAX: no file system on Linux holds a longer name.
	maxName = 255
	// maxTarget is PATH_MAX without its terminating zero.
	maxTarget = 4095
	// maxXattrName is XATTR_NAME_MAX.
	maxXattrName = 255
	// maxSymlinks is how many links are followed on the way to a folder, as in
	// Linux.
	maxSymlinks = 40
	// maxRefLength bounds an image's name: a host, a path of 255 and a tag of
	// 128 (the OCI distribution spec's bounds).
	maxRefLength = 512
	// maxArchiveFiles bounds the list of files in an archive: each layer of a
	// docker-save archive has three.
	maxArchiveFiles = 100_000
	// maxWindow is the largest zstd window that is accepted: what `zstd --long`
	// makes, and the memory that a hostile frame can ask for.
	maxWindow = 128 << 20
)

// withDefaults fills in what is zero.
func (l Limits) withDefaults() Limits {
	def := func(v *int64, d int64) {
		if *v == 0 {
			*v = d
		}
	}
	defInt := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	def(&l.LayerSize, DefaultLayerSize)
	def(&l.LayerRatio, DefaultLayerRatio)
	def(&l.RatioFloor, DefaultRatioFloor)
	def(&l.ArchiveSize, DefaultArchiveSize)
	def(&l.Metadata, DefaultMetadata)
	def(&l.ManifestSize, DefaultManifestSize)
	def(&l.ConfigSize, DefaultConfigSize)
	defInt(&l.Entries, DefaultEntries)
	defInt(&l.Layers, DefaultLayers)
	defInt(&l.PathLength, DefaultPathLength)
	defInt(&l.Depth, DefaultDepth)
	defInt(&l.XattrSize, DefaultXattrSize)
	defInt(&l.IndexDepth, DefaultIndexDepth)
	return l
}
