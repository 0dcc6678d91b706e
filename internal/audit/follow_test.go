package audit

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func TestFilter(t *testing.T) {
	dir := folder(t)
	l := openLog(t, dir, Options{MaxFile: 2 << 10, MaxFiles: 100})
	for i := range 30 {
		e := conn(i)
		switch i % 3 {
		case 1:
			e.Verdict, e.Kind = Deny, DNS
		case 2:
			e.Name, e.Sandbox, e.ID = "Other.example", "other", "ba9876543210"
		}
		l.Record(e)
	}
	closeLog(t, l)
	at := func(n int) time.Time { return conn(n).Time }
	for what, c := range map[string]struct {
		f    Filter
		want []uint64
	}{
		"last":           {Filter{Last: 3}, []uint64{28, 29, 30}},
		"last denied":    {Filter{Last: 2, Denied: true}, []uint64{26, 29}},
		"since, until":   {Filter{Since: at(3), Until: at(6)}, []uint64{4, 5, 6}},
		"future":         {Filter{Since: time.Now().Add(time.Hour)}, nil},
		"kinds":          {Filter{Kinds: []Kind{DNS, HTTP}, Last: 1}, []uint64{29}},
		"sandbox":        {Filter{Sandbox: "other", Until: at(6)}, []uint64{3, 6}},
		"ID":             {Filter{Sandbox: "ba9876543210", Until: at(6)}, []uint64{3, 6}},
		"name":           {Filter{Name: "other.EXAMPLE", Last: 1}, []uint64{30}},
		"names below":    {Filter{Name: "example.com", Last: 1}, []uint64{29}},
		"no part":        {Filter{Name: "ple.com"}, nil},
		"address":        {Filter{Name: "192.0.2.7", Last: 1}, []uint64{30}},
		"after":          {Filter{After: 28}, []uint64{29, 30}},
		"more than all":  {Filter{Last: 1000, Until: at(2)}, []uint64{1, 2}},
		"last of nobody": {Filter{Last: 7, Sandbox: "nobody"}, nil},
	} {
		var got []uint64
		for _, e := range read(t, dir, c.f) {
			got = append(got, e.Seq)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", what, got, c.want)
		}
	}
	enough := errors.New("enough")
	if err := Read(dir, Filter{Last: 2}, func(Event) error { return enough }); !errors.Is(err, enough) {
		t.Error(err)
	}
}

// TestFollow: everything once and in order, over rotations, while the log is
// written, from before there is one.
func TestFollow(t *testing.T) {
	dir := folder(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	got, done := make(chan uint64, 10), make(chan error, 1)
	go func() {
		done <- Follow(ctx, dir, Filter{}, func(e Event) error { got <- e.Seq; return nil })
	}()
	next := uint64(1)
	for round, n := range []int{1, 300, 2, 500, 1} {
		written(t, dir, n, Options{MaxFile: 8 << 10, MaxFiles: 1000})
		for range n {
			select {
			case seq := <-got:
				if seq != next {
					t.Fatalf("round %d: %d after %d", round, seq, next-1)
				}
				next++
			case err := <-done:
				t.Fatal(err)
			}
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestFollowFromTheEnd(t *testing.T) {
	dir := folder(t)
	written(t, dir, 50, Options{MaxFile: 4 << 10, MaxFiles: 100})
	path := filepath.Join(dir, currentFile)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(text, "broken\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var got []uint64
	var broken []Problem
	f := Filter{Last: 2, Broken: func(p Problem) {
		broken = append(broken, p)
		if err := Append(dir, conn(1)); err != nil { // a gap comes with it
			t.Error(err)
		}
	}}
	err = Follow(ctx, dir, f, func(e Event) error {
		if got = append(got, e.Seq); len(got) == 4 {
			cancel()
		}
		return nil
	})
	if err != nil || !slices.Equal(got, []uint64{49, 50, 51, 52}) || len(broken) != 1 || broken[0].File != currentFile || broken[0].Line < 2 {
		t.Errorf("%v, %v, %v", got, broken, err)
	}
	stop := errors.New("stop")
	if err := Follow(context.Background(), dir, Filter{}, func(Event) error { return stop }); !errors.Is(err, stop) {
		t.Error(err)
	}
}
