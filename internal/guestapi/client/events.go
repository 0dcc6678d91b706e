package client

import (
	"context"
	"errors"
	"io"

	"berth.dev/internal/guestapi"
	"berth.dev/internal/sandbox"
)

// Events follows the guest's events and calls fn for each, one after the
// other, until ctx ends (its error), fn fails (that error) or the guest stops
// sending. A slow fn holds agents back for a while and then loses output, which
// shows as a gap in Event.Offset. Event.Data is fn's to keep.
//
// After a lost connection, follow again with EventsRequest.From set to the ends
// of what was seen, and no output is told twice.
func (c *Client) Events(ctx context.Context, req guestapi.EventsRequest, fn func(*guestapi.Event) error) error {
	ch, end, err := c.stream(ctx, guestapi.ChanEvents, req)
	if err != nil {
		return err
	}
	defer end()
	for {
		e, err := guestapi.ReadFrame(ch)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return unavailable("follow the guest's events", io.ErrUnexpectedEOF)
		case err != nil:
			return sandbox.Errorf(sandbox.ErrInvalid, "follow the guest's events: %w", err)
		}
		if err := fn(e); err != nil {
			return err
		}
	}
}
