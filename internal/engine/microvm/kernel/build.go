package kernel

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/erofs/go-erofs"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"golang.org/x/sync/errgroup"

	"berth.dev/internal/atomicfile"
	"berth.dev/internal/engine/microvm/bootapi"
	"berth.dev/internal/sandbox"
)

// baseModules have to be loaded before any disk can be; many a kernel has some
// of them built in.
var baseModules = []string{
	"virtio_mmio", "virtio_pci", "virtio_blk", "virtio_console", "virtio_net", "virtio_rng", "virtio_balloon",
	"crc32c_generic", "ext4", "erofs", "overlay", "fuse", "virtiofs",
}

// usefulDirs are the parts of a kernel's modules that are of use in a machine
// without hardware.
var usefulDirs = []string{
	"net/", "fs/", "crypto/", "lib/", "security/", "block/", "arch/x86/crypto/",
	"drivers/block/", "drivers/net/", "drivers/virtio/", "drivers/md/", "drivers/vhost/", "drivers/char/", "drivers/misc/", "drivers/hv/", "drivers/dax/", "drivers/nvdimm/",
}

// builder collects the files of a kernel's packages.
type builder struct {
	image   []byte
	release string
	builtin map[string]bool
	modules []module
}

// module is one .ko file.
type module struct {
	path    string // below the release's folder, without the ending of a compression
	packed  []byte
	packing string // ".xz", ".zst", ".gz" or ""
	data    []byte

	needs, aliases []string
}

// moduleName is how the kernel calls a module.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// file takes what it knows of a package's files.
func (b *builder) file(h *tar.Header, r io.Reader) error {
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	name := path.Clean("/" + h.Name)
	if release, ok := strings.CutPrefix(name, "/boot/vmlinuz-"); ok {
		data, err := readAll(r, maxImage)
		b.image, b.release = data, release
		return err
	}
	rest, ok := strings.CutPrefix(strings.TrimPrefix(name, "/usr"), "/lib/modules/")
	if !ok {
		return nil
	}
	_, rest, _ = strings.Cut(rest, "/")
	if rest == "modules.builtin" {
		data, err := readAll(r, maxModule)
		b.builtin = map[string]bool{}
		for line := range strings.SplitSeq(string(data), "\n") {
			b.builtin[moduleName(line)] = true
		}
		return err
	}
	below, ok := strings.CutPrefix(rest, "kernel/")
	stem, packing, isModule := strings.Cut(below, ".ko")
	if !ok || !isModule || !slices.ContainsFunc(usefulDirs, func(d string) bool { return strings.HasPrefix(below, d) }) {
		return nil
	}
	data, err := readAll(r, maxModule)
	b.modules = append(b.modules, module{path: stem + ".ko", packed: data, packing: packing})
	return err
}

func readAll(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = sandbox.Errorf(sandbox.ErrInvalid, "it is larger than %d bytes", limit)
	}
	return data, err
}

// write makes the folder's files; the index comes last.
func (b *builder) write(ctx context.Context, dir string, report func(string, int64, int64)) error {
	if b.image == nil || b.builtin == nil || len(b.modules) == 0 {
		return sandbox.Errorf(sandbox.ErrInvalid, "the package holds no kernel with modules")
	}
	image, err := unpackImage(b.image)
	if err != nil {
		return fmt.Errorf("unpack the kernel: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, imageFile), image, 0o600); err != nil {
		return err
	}
	report(unpacking, 0, int64(len(b.modules)))
	if err := b.unpackModules(ctx); err != nil {
		return err
	}
	x := b.index()
	if x.Base, err = b.base(x); err != nil {
		return err
	}
	for _, m := range b.modules {
		if slices.Contains(x.Base, path.Base(m.path)) {
			if err := os.WriteFile(filepath.Join(dir, baseDir, path.Base(m.path)), m.data, 0o600); err != nil {
				return err
			}
		}
	}
	if err := b.writeModules(filepath.Join(dir, modulesFile)); err != nil {
		return fmt.Errorf("write the modules: %w", err)
	}
	data, err := json.Marshal(x)
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(dir, indexFile), data, 0o600)
}

// unpackModules decompresses all modules and reads what they say of themselves.
func (b *builder) unpackModules(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i := range b.modules {
		m := &b.modules[i]
		group.Go(func() error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err := m.unpack(); err != nil {
				return fmt.Errorf("module %s: %w", m.path, err)
			}
			return nil
		})
	}
	return group.Wait()
}

func (m *module) unpack() error {
	plain, err := decompress(m.packed, m.packing)
	if err != nil {
		return err
	}
	if m.data, err = readAll(plain, maxModule); err != nil {
		return err
	}
	m.packed, m.data = nil, unsigned(m.data)
	f, err := elf.NewFile(bytes.NewReader(m.data))
	if err != nil {
		return err
	}
	section := f.Section(".modinfo")
	if section == nil {
		return errors.New("it has no modinfo")
	}
	info, err := section.Data()
	if err != nil {
		return err
	}
	for field := range strings.SplitSeq(string(info), "\x00") {
		key, value, _ := strings.Cut(field, "=")
		switch key {
		case "depends":
			for _, n := range strings.FieldsFunc(value, func(r rune) bool { return r == ',' }) {
				m.needs = append(m.needs, moduleName(n))
			}
		case "softdep":
			if pre, ok := strings.CutPrefix(value, "pre: "); ok {
				pre, _, _ = strings.Cut(pre, " post:")
				for _, n := range strings.Fields(pre) {
					m.needs = append(m.needs, moduleName(n))
				}
			}
		case "alias":
			if !strings.ContainsAny(value, ":*?[") {
				m.aliases = append(m.aliases, value)
			}
		}
	}
	return nil
}

// The end of a module that is signed (the kernel's scripts/sign-file.c): the
// signature, what describes it, with its length last, and a mark.
const (
	signatureMark = "~Module signature appended~\n"
	signatureInfo = 12
)

// unsigned is a module without its signature. Verifying them is a third of the
// time of loading them where it is emulated, a fifteenth of a start; that they are
// the distribution's was verified with their package, and root of the guest may
// load others anyway.
func unsigned(data []byte) []byte {
	rest, ok := bytes.CutSuffix(data, []byte(signatureMark))
	if !ok || len(rest) < signatureInfo {
		return data
	}
	size := int64(binary.BigEndian.Uint32(rest[len(rest)-4:]))
	end := int64(len(rest)) - signatureInfo - size
	if end < 0 {
		return data
	}
	return rest[:end]
}

// decompress opens a stream by the ending that its file's name had.
func decompress(data []byte, ext string) (io.Reader, error) {
	in := bytes.NewReader(data)
	switch ext {
	case "":
		return in, nil
	case ".xz":
		return xz.NewReader(in)
	case ".gz":
		return gzip.NewReader(in)
	case ".zst":
		return zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(512<<20))
	}
	return nil, sandbox.Errorf(sandbox.ErrInvalid, "compression %q is not known", ext)
}

// index is what init needs in order to load a module by name.
func (b *builder) index() *bootapi.Index {
	x := &bootapi.Index{Release: b.release, Modules: map[string]bootapi.Module{}, Aliases: map[string]string{}}
	for _, m := range b.modules {
		x.Modules[moduleName(m.path)] = bootapi.Module{File: m.path, Needs: m.needs}
	}
	for _, m := range b.modules {
		for _, a := range m.aliases {
			if _, taken := x.Aliases[a]; !taken {
				x.Aliases[a] = moduleName(m.path)
			}
		}
	}
	// What is built in, or was left out, is nobody's need.
	for name, m := range x.Modules {
		m.Needs = slices.DeleteFunc(m.Needs, func(n string) bool {
			_, there := x.Modules[n]
			return !there
		})
		x.Modules[name] = m
	}
	return x
}

// base orders the base modules and what they need.
func (b *builder) base(x *bootapi.Index) ([]string, error) {
	var files []string
	seen := map[string]bool{} // of modules that need each other
	var add func(name string) error
	add = func(name string) error {
		m, ok := x.Modules[name]
		if !ok {
			if b.builtin[name] || name == "crc32c_generic" {
				return nil
			}
			return sandbox.Errorf(sandbox.ErrUnavailable, "the distribution's kernel has no %s", name)
		}
		file := path.Base(m.File)
		if seen[file] {
			return nil
		}
		seen[file] = true
		for _, n := range m.Needs {
			if err := add(n); err != nil {
				return err
			}
		}
		files = append(files, file)
		return nil
	}
	for _, name := range baseModules {
		if err := add(name); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// writeModules writes the EROFS file.
func (b *builder) writeModules(file string) (err error) {
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	w := erofs.Create(out, erofs.WithTempDir(filepath.Dir(file)))
	made := map[string]bool{".": true}
	var mkdir func(dir string) error
	mkdir = func(dir string) error {
		if made[dir] {
			return nil
		}
		if err := mkdir(path.Dir(dir)); err != nil {
			return err
		}
		made[dir] = true
		return w.Mkdir("/"+dir, 0o755)
	}
	for _, m := range b.modules {
		if err := mkdir(path.Dir(m.path)); err != nil {
			return err
		}
		f, err := w.Create("/" + m.path)
		if err != nil {
			return err
		}
		if _, err := f.Write(m.data); err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return w.Close()
}

// unpackImage takes the ELF file out of a bzImage (the kernel's
// Documentation/arch/x86/boot.rst): QEMU then enters it at once, and it needs
// not decompress itself, which is dear under emulation. What is of another form
// is booted as it is.
func unpackImage(b []byte) ([]byte, error) {
	if len(b) < 0x250 || string(b[0x202:0x206]) != "HdrS" {
		return b, nil
	}
	start := (int64(b[0x1f1]) + 1) * 512
	offset, length := int64(binary.LittleEndian.Uint32(b[0x248:])), int64(binary.LittleEndian.Uint32(b[0x24c:]))
	if start+offset+length > int64(len(b)) || length < 8 {
		return nil, sandbox.Errorf(sandbox.ErrInvalid, "its header points beyond its end")
	}
	payload := b[start+offset:][:length]
	for magic, ext := range map[string]string{"\x28\xb5\x2f\xfd": ".zst", "\xfd7zXZ": ".xz", "\x1f\x8b": ".gz"} {
		if !bytes.HasPrefix(payload, []byte(magic)) {
			continue
		}
		if ext != ".gz" {
			payload = payload[:length-4] // the size that the kernel's build appends
		}
		plain, err := decompress(payload, ext)
		if err != nil {
			return nil, err
		}
		return readAll(plain, maxImage)
	}
	return b, nil
}
