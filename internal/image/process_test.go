package image

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// This test binary is also the other processes that use a store: what they do is
// in their environment.
const (
	envDo   = "BERTH_TEST_IMAGE_DO"
	envDir  = "BERTH_TEST_IMAGE_DIR"
	envFile = "BERTH_TEST_IMAGE_FILE"
)

func TestMain(m *testing.M) {
	if do := os.Getenv(envDo); do != "" {
		if err := child(do); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// child is the other process. It reports on stdout; "halfway" means that it now
// stands still in the middle of its work, until it is killed.
func child(do string) error {
	ctx := context.Background()
	s, err := Open(os.Getenv(envDir))
	if err != nil {
		return err
	}
	halt := func(done, total int64) {
		if done*2 >= total {
			fmt.Println("halfway")
			select {}
		}
	}
	switch do {
	case "halt in import":
		_, err = s.Import(ctx, os.Getenv(envFile), ImportOptions{Progress: halt})
	case "halt in root":
		img, lerr := s.Lookup("test")
		if lerr != nil {
			return lerr
		}
		_, err = s.Root(ctx, img, halt)
	case "halt after layer":
		l, lerr := s.AddLayer(ctx, bytes.NewReader([]byte(strings.Repeat("\x00", 1024))), LayerOptions{})
		fmt.Println("layer", l.Digest)
		if lerr != nil {
			return lerr
		}
		halt(1, 1)
	case "import and collect":
		for i := range 6 {
			imgs, ierr := s.Import(ctx, os.Getenv(envFile), ImportOptions{Ref: fmt.Sprintf("p%d-%d", os.Getpid(), i)})
			if ierr != nil {
				return ierr
			}
			if _, ierr := s.Root(ctx, imgs[0], nil); ierr != nil {
				return ierr
			}
			if _, ierr := s.GC(ctx, nil); ierr != nil {
				return ierr
			}
			if ierr := s.Untag(fmt.Sprintf("p%d-%d", os.Getpid(), i)); ierr != nil {
				return ierr
			}
			if ierr := s.Close(); ierr != nil { // let go, so that GC has something to do
				return ierr
			}
		}
	case "root":
		img, lerr := s.Lookup("test")
		if lerr != nil {
			return lerr
		}
		built := false
		r, rerr := s.Root(ctx, img, func(int64, int64) { built = true })
		fmt.Println("root", r.Root, built)
		err = rerr
	default:
		err = fmt.Errorf("unknown task %q", do)
	}
	return err
}

// process is a running child.
type process struct {
	cmd *exec.Cmd
	out *bufio.Scanner
	err bytes.Buffer
}

func start(t *testing.T, do, dir, file string) *process {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: exec.Command(exe)}
	p.cmd.Env = append(os.Environ(), envDo+"="+do, envDir+"="+dir, envFile+"="+file)
	p.cmd.Stderr = &p.err
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.out = bufio.NewScanner(out)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.cmd.Process.Kill() })
	return p
}

// line waits for the child's next line.
func (p *process) line(t *testing.T) string {
	t.Helper()
	if !p.out.Scan() {
		t.Fatalf("the process ended: %v, %s", p.cmd.Wait(), p.err.String())
	}
	return p.out.Text()
}

func (p *process) kill(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Kill(); err != nil { // SIGKILL
		t.Fatal(err)
	}
	_ = p.cmd.Wait()
}

func bigFile(t *testing.T) string {
	var ents []ent
	for i := range 20 {
		ents = append(ents, fileEnt(fmt.Sprintf("f%d", i), randomText(100_000+i)))
	}
	return ociFile(t, plainBlob(tarOf(t, ents...)), plainBlob(tarOf(t, fileEnt("top", "t"))))
}

// TestKill kills a process at work. What it left is harmless, a further try
// succeeds, and GC removes the rest.
func TestKill(t *testing.T) {
	for _, do := range []string{"halt in import", "halt in root"} {
		t.Run(do, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "images")
			s := openAt(t, dir)
			file := bigFile(t)
			if do == "halt in root" {
				importOK(t, s, file)
			}
			before := snapshot(t, dir)
			p := start(t, do, dir, file)
			if got := p.line(t); got != "halfway" {
				t.Fatal(got)
			}
			during := snapshot(t, dir)
			if during == before {
				t.Error("the process has written nothing yet")
			}
			if _, err := s.GC(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			if after := snapshot(t, dir); after != during {
				t.Errorf("GC took what a live process writes:\n%s\n%s", during, after)
			}
			p.kill(t)
			if _, err := s.GC(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			if after := snapshot(t, dir); after != before {
				t.Errorf("left after GC:\n%s\nwant:\n%s", after, before)
			}
			img := importOK(t, s, file)
			if got := list(t, rootOf(t, s, img).Root); len(got) != 22 {
				t.Errorf("%d files after the second try", len(got))
			}
		})
	}
}

// TestLayerInWaiting: a layer that no image has yet survives the GC of another
// process while its builder lives.
func TestLayerInWaiting(t *testing.T) {
	s := openStore(t)
	p := start(t, "halt after layer", s.dir, "")
	digest := strings.TrimPrefix(p.line(t), "layer ")
	p.line(t)
	hex, err := hexOf(digest)
	if err != nil {
		t.Fatal(err)
	}
	gc := func() bool {
		if _, err := s.GC(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		ok, err := exists(s.blobPath(hex))
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	if !gc() {
		t.Error("the layer is gone, and its builder lives")
	}
	p.kill(t)
	if gc() {
		t.Error("the layer stays, and its builder is dead")
	}
}

// TestProcessesAtOnce lets processes import, prepare, collect and untag the same
// image at once.
func TestProcessesAtOnce(t *testing.T) {
	s := openStore(t)
	file := bigFile(t)
	var ps []*process
	for range 4 {
		ps = append(ps, start(t, "import and collect", s.dir, file))
	}
	for _, p := range ps {
		for p.out.Scan() {
			t.Log(p.out.Text())
		}
		if err := p.cmd.Wait(); err != nil {
			t.Errorf("%v: %s", err, p.err.String())
		}
	}
	if _, err := s.GC(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	assertEmpty(t, s.dir)
	if imgs, err := s.List(); err != nil || len(imgs) != 0 {
		t.Errorf("%v, %v", imgs, err)
	}
}

// TestOneBuildsOthersWait: of several processes one builds the root.
func TestOneBuildsOthersWait(t *testing.T) {
	s := openStore(t)
	importOK(t, s, bigFile(t))
	builder := start(t, "halt in root", s.dir, "")
	builder.line(t)
	var waiters []*process
	for range 3 {
		waiters = append(waiters, start(t, "root", s.dir, ""))
	}
	builder.kill(t) // its lock goes with it, and one of the others takes over
	built := 0
	for _, p := range waiters {
		if strings.HasSuffix(p.line(t), "true") {
			built++
		}
		if err := p.cmd.Wait(); err != nil {
			t.Errorf("%v: %s", err, p.err.String())
		}
	}
	if built != 1 {
		t.Errorf("%d processes built the root", built)
	}
}

func TestWaitingEndsWithTheContext(t *testing.T) {
	s := openStore(t)
	img := importOK(t, s, bigFile(t))
	builder := start(t, "halt in root", s.dir, "")
	builder.line(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := s.Root(ctx, img, nil)
		done <- err
	}()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
