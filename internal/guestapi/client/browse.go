package client

import (
	"bufio"
	"context"

	"berth.dev/internal/guestapi"
)

// Browse hands the web pages that programs in the guest want shown to show, one
// at a time, until ctx ends or the connection does. An error of show is told to
// the program. The guest chose the address, and may be anybody: show has to
// refuse all but what it knows.
func (c *Client) Browse(ctx context.Context, show func(url string) error) error {
	ch, end, err := c.stream(ctx, guestapi.ChanBrowse, guestapi.BrowseRequest{})
	if err != nil {
		return err
	}
	defer end()
	r := bufio.NewReaderSize(ch, guestapi.MaxPage)
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return unavailable("wait for pages of the guest", err)
		}
		page, err := guestapi.Parse[guestapi.Page](line, guestapi.MaxPage)
		if err == nil {
			err = show(page.URL)
		}
		var shown guestapi.Shown
		if err != nil {
			shown.Error = err.Error()
		}
		b, err := guestapi.Marshal(shown)
		if err != nil {
			return err
		}
		if _, err := ch.Write(append(b, '\n')); err != nil {
			return unavailable("answer the guest", err)
		}
	}
}
