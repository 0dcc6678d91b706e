package image

import (
	"errors"
	"fmt"
	"syscall"

	"berth.dev/internal/sandbox"
)

// LayerError says what is wrong with a layer, and where.
type LayerError struct {
	Layer string // as a person would look for it: its place, name and digest
	Entry string // the entry's name in the layer; "" when no one entry is to blame
	Err   error
}

// Error names the layer, the entry and the fault.
func (e *LayerError) Error() string {
	if e.Entry == "" {
		return fmt.Sprintf("layer %s: %v", e.Layer, e.Err)
	}
	return fmt.Sprintf("layer %s: entry %q: %v", e.Layer, e.Entry, e.Err)
}

// Unwrap returns the fault.
func (e *LayerError) Unwrap() error { return e.Err }

// refuse makes the error that rejects a layer for what it contains.
func refuse(layer, entry string, err error) error {
	// An entry's name is hostile text and may be long; %q makes it harmless.
	if len(entry) > 200 {
		entry = entry[:200] + "…"
	}
	return sandbox.Errorf(sandbox.ErrInvalid, "refuse image: %w", &LayerError{layer, entry, err}).
		WithHint("the image is damaged or was made to do harm; get it again from where it came from")
}

// hostError gives errors of the host's file system the class and the hint that
// a person can use; others pass unchanged.
func hostError(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return sandbox.Errorf(sandbox.ErrUnavailable, "write image store: %w", err).
			WithHint("the disk is full: free some space; `berth template rm` removes templates that you do not need")
	}
	return err
}
