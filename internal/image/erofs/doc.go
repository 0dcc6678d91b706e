// Package erofs writes EROFS images [1]: read-only file systems in one file,
// mounted by Linux and by gVisor's sentry. It owns the on-disk format, and
// knows nothing of layers, tars or the store.
//
// It writes the subset that gVisor's reader (pkg/erofs) accepts, which is
// narrower than Linux's: 4 KiB blocks, no compression, no chunks, no extended
// attributes (gVisor refuses to open an inode that has any), and no regular
// file with inline data (gVisor cannot map one into memory, so that a program
// which mmaps a small file would die of SIGBUS). Directories and symbolic
// links are stored inline.
//
// Why not github.com/erofs/go-erofs, which the project otherwise would have
// taken: its writer stores small regular files inline, with no way to turn
// that off; it has no hard links; and it writes all data twice, first to a
// spool. The tests do read what is written here with its reader and with
// gVisor's.
//
// The output is a function of the input alone: the same tree and the same
// order of contents give the same bytes.
//
// [1] https://docs.kernel.org/filesystems/erofs.html
package erofs
