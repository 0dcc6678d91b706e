package sshd

import (
	"golang.org/x/crypto/ssh"

	"berth.dev/internal/guestapi"
)

// browseChannel takes the client for one that shows web pages, until it closes
// the channel.
func (c *conn) browseChannel(nc ssh.NewChannel) error {
	if _, err := extra[guestapi.BrowseRequest](nc); err != nil {
		return err
	}
	if c.cfg.Browse == nil {
		return guestapi.Errorf(guestapi.Invalid, "nothing here shows pages")
	}
	ch, reqs, err := nc.Accept()
	if err != nil {
		return nil // the connection is gone
	}
	defer ch.Close()
	defer c.cfg.Browse.Join(ch)()
	for r := range reqs { // ends with the channel
		if r.WantReply {
			_ = r.Reply(false, nil)
		}
	}
	return nil
}
