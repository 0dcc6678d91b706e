// Package unwind is a stack of undo steps: each acquired resource pushes its
// release, a failure runs them all in reverse, a success forgets them.
package unwind

import "errors"

// Stack collects undo steps. The zero value is ready; it is not safe for
// concurrent use.
type Stack struct{ steps []func() error }

// Push adds a step that undoes what was just acquired.
func (s *Stack) Push(undo func() error) { s.steps = append(s.steps, undo) }

// Keep forgets all steps: what was acquired stays.
func (s *Stack) Keep() { s.steps = nil }

// Undo runs the steps, last first, all of them whatever fails, and returns
// their errors joined. A second call does nothing.
func (s *Stack) Undo() error {
	steps := s.steps
	s.steps = nil
	var errs []error
	for i := len(steps) - 1; i >= 0; i-- {
		errs = append(errs, steps[i]())
	}
	return errors.Join(errs...)
}
