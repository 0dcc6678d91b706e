package driver

import (
	"context"
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"berth.dev/internal/sandbox"
)

// TestKeeper: everything runs on one thread, which is not the caller's.
func TestKeeper(t *testing.T) {
	k := NewKeeper()
	var first, second int
	k.Do(func() { first = unix.Gettid() })
	k.Do(func() { second = unix.Gettid() })
	if first != second || first == unix.Gettid() {
		t.Errorf("threads %d and %d, the test's is %d", first, second, unix.Gettid())
	}
	k.Stop()
}

func TestEnd(t *testing.T) {
	e := NewEnd()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := e.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("before the end: %v", err)
	}
	want := errors.New("why")
	go e.Set(3, want)
	for range 2 {
		if status, err := e.Wait(t.Context()); status != 3 || err != want {
			t.Errorf("%d, %v", status, err)
		}
	}
}

// TestDup: a duplicate is not inherited, and blocks as the original does.
func TestDup(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	d, err := Dup(w)
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	if _, err := d.WriteString("x"); err != nil {
		t.Error(err)
	}
	conn, err := d.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = conn.Control(func(fd uintptr) {
		flags, _ := unix.FcntlInt(fd, unix.F_GETFD, 0)
		mode, _ := unix.FcntlInt(fd, unix.F_GETFL, 0)
		if flags&unix.FD_CLOEXEC == 0 || mode&unix.O_NONBLOCK == 0 {
			t.Errorf("flags %x, mode %x", flags, mode)
		}
	})
	if err != nil {
		t.Error(err)
	}
	d.Close()
	if _, err := Dup(d); err == nil {
		t.Error("a closed file was duplicated")
	}
}

func TestLimits(t *testing.T) {
	by := Means{CPUs: "by this", Memory: "by that", Disk: "by both"}
	for _, l := range Limits(sandbox.Resources{CPUs: 2, PIDs: 9}, by) {
		want := map[string]string{"cpus": "by this", "pids": "not enforced by this engine"}[l.Resource]
		if want == "" {
			want = "none asked"
		}
		if l.How != want || l.Enforced != (l.Resource == "cpus") {
			t.Errorf("%+v", l)
		}
	}
}
