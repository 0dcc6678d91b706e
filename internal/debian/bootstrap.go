package debian

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"berth.dev/internal/sandbox"
	"golang.org/x/sync/errgroup"
)

const parallelDownloads = 6

// Phase is what a Bootstrap is at.
type Phase string

// The phases, in their order.
const (
	PhaseIndex    Phase = "index"    // Release files and package indexes
	PhaseDownload Phase = "download" // .deb files
	PhaseUnpack   Phase = "unpack"   // .deb files to the layer
)

// Event is progress: Done of Total bytes of a phase. Total is 0 while it is
// not known. In PhaseUnpack bytes are those of the .deb files and Package is
// the one at hand.
type Event struct {
	Phase       Phase
	Done, Total int64
	Package     string
}

// Bootstrap makes base systems. It holds settings only and is safe for
// concurrent use; several processes may share one CacheDir.
type Bootstrap struct {
	// Arch is Debian's name of the architecture; "" for the host's.
	Arch string
	// Include names packages beyond the essential and required ones; nil for
	// DefaultInclude of the distribution.
	Include []string
	// CacheDir keeps indexes and .deb files, by their digest.
	CacheDir string
	// HTTP sends the requests; nil for a client that goes through the Source's
	// proxy and trusts what the host trusts.
	HTTP *http.Client
	// Progress is told of every step, one call at a time; may be nil.
	Progress func(Event)

	now     func() time.Time
	backoff time.Duration
}

// DefaultInclude names what a base system has beyond the essential and
// required packages: apt and what it needs to trust its archive.
func DefaultInclude(distribution string) []string {
	keyring := "debian-archive-keyring"
	if distribution == "ubuntu" {
		keyring = "ubuntu-keyring"
	}
	return []string{"apt", "ca-certificates", keyring}
}

// Resolve fetches and verifies the package indexes of src and picks the
// packages. What the archive refuses to prove is a sandbox.ErrForbidden, what
// it does not have or does not answer a sandbox.ErrUnavailable.
func (b Bootstrap) Resolve(ctx context.Context, src Source) (Plan, error) {
	c, f, err := b.open(src)
	if err != nil {
		return Plan{}, err
	}
	arch := b.arch()
	releases, err := b.releases(ctx, f, src, arch)
	if err != nil {
		return Plan{}, err
	}
	u, err := b.indexes(ctx, c, f, releases, arch)
	if err != nil {
		return Plan{}, err
	}
	include := b.Include
	if include == nil {
		include = DefaultInclude(src.Distribution)
	}
	packages, err := resolve(u, include)
	if err != nil {
		return Plan{}, fmt.Errorf("choose the packages of %s: %w", src.Codename, err)
	}
	// Only what exists is told to the guest's apt.
	src.Archives = nil
	for _, r := range releases {
		src.Archives = append(src.Archives, r.archive)
	}
	return Plan{Distribution: src.Distribution, Codename: src.Codename, Arch: arch, Packages: packages, source: src}, nil
}

// releases loads the Release files of all archives at once.
func (b Bootstrap) releases(ctx context.Context, f fetcher, src Source, arch string) ([]release, error) {
	found := make([]*release, len(src.Archives))
	group, gctx := errgroup.WithContext(ctx)
	for i, a := range src.Archives {
		group.Go(func() error {
			r, err := loadRelease(gctx, f, a, arch, b.clock())
			if a.Optional && errors.Is(err, sandbox.ErrNotFound) {
				return nil
			}
			found[i] = &r
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var all []release
	for _, r := range found {
		if r != nil {
			all = append(all, *r)
		}
	}
	if len(all) == 0 {
		return nil, noApt("the source has no archive")
	}
	return all, nil
}

// indexes loads the package indexes, one suite beside the other, but collects
// their packages in the order of the archives, so that the result is certain.
func (b Bootstrap) indexes(ctx context.Context, c cache, f fetcher, releases []release, arch string) (universe, error) {
	var total int64
	for _, r := range releases {
		for _, component := range r.archive.Components {
			if _, size, err := r.index(component, arch); err == nil {
				total += size.size
			}
		}
	}
	m := b.meter(PhaseIndex, total)
	lists := make([][]candidate, len(releases))
	group, gctx := errgroup.WithContext(ctx)
	for i, r := range releases {
		group.Go(func() error {
			return loadIndexes(gctx, c, f, r, arch, m.move, func(p candidate) { lists[i] = append(lists[i], p) })
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	m.finish()
	u := universe{}
	for _, list := range lists {
		for _, p := range list {
			u.add(p)
		}
	}
	return u, nil
}

// Download brings all packages of a plan into the cache, several at a time,
// each verified against the signed index. WriteLayer does it by itself; alone
// it serves to fetch packages for somebody else.
func (b Bootstrap) Download(ctx context.Context, plan Plan) error {
	c, f, err := b.open(plan.source)
	if err != nil {
		return err
	}
	m := b.meter(PhaseDownload, plan.DownloadSize())
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallelDownloads)
	for _, p := range plan.Packages {
		group.Go(func() error {
			var got int64
			err := c.fetch(ctx, f, p.URI, p.blob(), func(n int64) { got += n; m.move(n) })
			if err != nil {
				return fmt.Errorf("package %s: %w", p.Name, err)
			}
			m.move(p.Size - got) // what the cache had
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	m.finish()
	return nil
}

func (b Bootstrap) open(src Source) (cache, fetcher, error) {
	c, err := openCache(b.CacheDir)
	if err != nil {
		return cache{}, fetcher{}, err
	}
	client := b.HTTP
	if client == nil {
		if client, err = newClient(src); err != nil {
			return cache{}, fetcher{}, err
		}
	}
	f := newFetcher(client)
	if b.backoff > 0 {
		f.backoff = b.backoff
	}
	return c, f, nil
}

func (b Bootstrap) arch() string {
	if b.Arch != "" {
		return b.Arch
	}
	return HostArch()
}

func (b Bootstrap) clock() time.Time {
	if b.now != nil {
		return b.now()
	}
	return time.Now()
}

// meter adds up the progress of one phase.
type meter struct {
	mu     sync.Mutex // guards last and serialises the calls of report
	last   Event
	report func(Event)
}

func (b Bootstrap) meter(p Phase, total int64) *meter {
	m := &meter{last: Event{Phase: p, Total: total}, report: b.Progress}
	m.move(0)
	return m
}

// move reports n more bytes, or fewer when n is negative.
func (m *meter) move(n int64) { m.at(n, "") }

// at reports n more bytes, at the given package.
func (m *meter) at(n int64, pkg string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last.Done += n
	m.last.Package = pkg
	if m.report != nil {
		m.report(m.last)
	}
}

// finish reports that all is done, whatever the cache saved.
func (m *meter) finish() {
	m.mu.Lock()
	left := m.last.Total - m.last.Done
	m.mu.Unlock()
	m.at(left, "")
}
