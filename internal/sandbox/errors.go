package sandbox

import (
	"errors"
	"fmt"
)

// Class is the kind of an error: what the caller can do about it. Classes
// cross process boundaries as their string form and come back as the same
// sentinel, so errors.Is(err, sandbox.ErrNotFound) holds in the CLI for an
// error that a supervisor reported.
type Class string

// Error makes a Class usable as a sentinel with errors.Is.
func (c Class) Error() string { return string(c) }

const (
	// ErrNotFound: the thing that was named does not exist.
	ErrNotFound = Class("not found")
	// ErrExists: the name is taken.
	ErrExists = Class("already exists")
	// ErrInvalid: what the user (or a file, or the guest) said makes no sense.
	ErrInvalid = Class("invalid")
	// ErrPrecondition: it makes sense, but not in the state that things are in.
	ErrPrecondition = Class("precondition failed")
	// ErrForbidden: a guarantee of Berth stands against it.
	ErrForbidden = Class("forbidden")
	// ErrUnavailable: the host lacks something (user namespaces, disk, network).
	ErrUnavailable = Class("unavailable")
	// ErrInternal: a defect of Berth.
	ErrInternal = Class("internal error")
)

var classes = []Class{ErrNotFound, ErrExists, ErrInvalid, ErrPrecondition, ErrForbidden, ErrUnavailable, ErrInternal}

// Error is an error for a person: what happened, of which class, and what to
// try.
type Error struct {
	Class Class
	// Message says what happened, in the user's words, its cause included.
	Message string
	// Hint says what to try, as a sentence or a command; may be empty.
	Hint string
	// Cause is what lies beneath, for errors.Is and errors.As; may be nil.
	Cause error
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// Unwrap lets errors.Is find both the class and the cause.
func (e *Error) Unwrap() []error {
	if e.Cause == nil {
		return []error{e.Class}
	}
	return []error{e.Class, e.Cause}
}

// Errorf makes an *Error without a hint. A %w operand stays reachable through
// errors.Is and errors.As.
func Errorf(class Class, format string, args ...any) *Error {
	wrapped := fmt.Errorf(format, args...)
	return &Error{Class: class, Message: wrapped.Error(), Cause: errors.Unwrap(wrapped)}
}

// WithHint returns the same error with a hint.
func (e *Error) WithHint(format string, args ...any) *Error {
	c := *e
	c.Hint = fmt.Sprintf(format, args...)
	return &c
}

// ClassOf returns the class of an error: the outermost *Error's, else the
// first sentinel that errors.Is finds, else ErrInternal. It is "" for nil.
func ClassOf(err error) Class {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Class
	}
	for _, c := range classes {
		if errors.Is(err, c) {
			return c
		}
	}
	return ErrInternal
}

// HintOf returns the outermost hint in an error's chain, or "".
func HintOf(err error) string {
	var e *Error
	if errors.As(err, &e) {
		if e.Hint != "" {
			return e.Hint
		}
		return HintOf(e.Cause)
	}
	return ""
}

// ParseClass turns the string form of a class back into its sentinel; what is
// unknown becomes ErrInternal, so that a newer peer's class is never lost.
func ParseClass(s string) Class {
	for _, c := range classes {
		if string(c) == s {
			return c
		}
	}
	return ErrInternal
}
