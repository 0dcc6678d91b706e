package cli

import (
	"bytes"
	"context"
	"fmt"
	"path"
	"slices"

	"golang.org/x/crypto/ssh"

	"berth.dev/internal/guestapi/client"
	"berth.dev/internal/sshagent"
	"berth.dev/internal/workspace"
)

// Files in the guest that SSH and Git there read besides their own.
const (
	sshConfigFile  = "/etc/ssh/ssh_config.d/50-berth.conf"
	knownHostsFile = "/etc/ssh/ssh_known_hosts2" // the second of ssh's two, which nobody else writes
	signingFile    = "/etc/gitconfig.signing"
	systemConfig   = "/etc/gitconfig"
	gitSystemVar   = "GIT_CONFIG_SYSTEM"
)

// sshConfig: nobody is there to compare fingerprints, so ssh takes a host's
// first key, and stays with it. Whom a signature is for is not decided by that:
// the guard compares with the user's own known_hosts.
const sshConfig = `# Written by Berth for sessions that may use your SSH agent.
Host *
	StrictHostKeyChecking accept-new
`

// guestFile is one of them.
type guestFile struct {
	path    string
	content []byte
}

// guestHosts is what the user's known_hosts say of the hosts that were approved
// by name. Of the others nothing is told: the list of all says where the user
// works.
func (f *forwarding) guestHosts() []byte {
	var b bytes.Buffer
	b.WriteString("# Written by Berth: the hosts that --ssh-agent named.\n")
	for _, name := range f.approved {
		for _, line := range f.hosts.Lines(name) {
			b.WriteString(line + "\n")
		}
	}
	return b.Bytes()
}

// signing is the guest's Git configuration when the user signs commits with a
// key that the agent has, else nil.
func (f *forwarding) signing(ctx context.Context, quiet bool) []byte {
	a := f.a
	note := func(format string, args ...any) []byte {
		if !quiet {
			a.note(format, args...)
		}
		return nil
	}
	dir := f.b.Spec().Workspace
	if dir == "" {
		dir = "/"
	}
	s, err := workspace.GitSigning(ctx, dir, a.home(), a.env.Vars)
	switch {
	case err != nil:
		return note("commits are not signed inside: %v", err)
	case s.Key == "":
		return nil
	}
	pub, _, _, _, err := ssh.ParseAuthorizedKey([]byte(s.Key))
	if err != nil || !slices.ContainsFunc(f.keys, func(k sshagent.Key) bool { return bytes.Equal(k.Blob, pub.Marshal()) }) {
		return note("commits are not signed inside: the key of your user.signingkey is not in the SSH agent; ssh-add adds it")
	}
	return s.Config(systemConfig)
}

// writeGuestFiles writes them as the guest's root.
func writeGuestFiles(ctx context.Context, g *client.Client, files []guestFile) error {
	c, err := g.SFTP(ctx, "0")
	if err != nil {
		return err
	}
	defer c.Close()
	for _, f := range files {
		if err := c.MkdirAll(path.Dir(f.path)); err != nil {
			return err
		}
		if err := replaceFile(c, f.path, 0o644, f.content); err != nil {
			return fmt.Errorf("write %s: %w", f.path, err)
		}
	}
	return nil
}
