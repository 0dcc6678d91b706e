package unwind

import (
	"errors"
	"slices"
	"testing"
)

func TestUndo(t *testing.T) {
	var s Stack
	var done []int
	bad := errors.New("bad")
	for i := range 3 {
		s.Push(func() error {
			done = append(done, i)
			if i == 1 {
				return bad
			}
			return nil
		})
	}
	if err := s.Undo(); !errors.Is(err, bad) || !slices.Equal(done, []int{2, 1, 0}) {
		t.Errorf("%v, %v", done, err)
	}
	if err := s.Undo(); err != nil || len(done) != 3 {
		t.Error("a second undo did something")
	}
	s.Push(func() error { return bad })
	s.Keep()
	if err := s.Undo(); err != nil {
		t.Error("what was kept was undone")
	}
}
