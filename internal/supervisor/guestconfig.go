package supervisor

import (
	"context"
	"encoding/pem"
	"fmt"
	"maps"
	"os"
	"strings"

	"golang.org/x/crypto/ssh"

	"berth.dev/internal/engine"
	"berth.dev/internal/guestapi"
	"berth.dev/internal/image"
	"berth.dev/internal/netstack"
	"berth.dev/internal/sandbox"
	"berth.dev/internal/workspace"
)

// defaultPath is the guest's PATH before an agent's own folder is added.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// guestConfig tells the guest who it is. It holds no secret but the guest's
// own host key.
func (s *Supervisor) guestConfig(ctx context.Context, link netstack.Link) (*guestapi.Config, error) {
	spec := s.cfg.Bundle.Spec()
	block, err := ssh.MarshalPrivateKey(s.keys.Host, "")
	if err != nil {
		return nil, fmt.Errorf("encode the guest's host key: %w", err)
	}
	public, err := ssh.NewPublicKey(s.keys.Client.Public())
	if err != nil {
		return nil, err
	}
	return &guestapi.Config{
		Version: guestapi.Version, Hostname: spec.Name,
		HostKey: string(pem.EncodeToMemory(block)), AuthorizedKey: string(ssh.MarshalAuthorizedKey(public)),
		Listen: fmt.Sprintf("%s:%d", link.Guest4.Addr(), guestPort), Peer: link.Gateway4.String(),
		User:  guestapi.User{Name: sandbox.UserName, UID: sandbox.UserUID, GID: sandbox.UserGID, Home: sandbox.UserHome},
		Env:   guestEnv(s.image, spec),
		Files: s.guestFiles(ctx, spec), Creation: s.cfg.Bundle.ID(),
		Hosts: hosts(spec, link), ResolvConf: resolvConf(link),
		TrustCA: s.net.ca.PEM(),
		Docker:  guestapi.Docker{Enabled: true, DNS: []string{link.Gateway4.String()}, Args: dockerArgs(s.engine.Features())},
	}, nil
}

// dockerArgs are the daemon's flags on an engine, nil for the guest's default:
// that is made for a kernel which filters nothing.
func dockerArgs(f engine.Features) []string {
	if f.Netfilter {
		return []string{"--storage-driver=overlay2"}
	}
	return nil
}

// guestEnv is what every session starts with: the image's own environment, the
// agent's folder before its PATH, and what was fixed at creation. Layers that
// came along with the agent's, as Node.js does on an image that may have none,
// are behind the PATH, so that they take nothing's place.
func guestEnv(img image.Image, spec sandbox.Spec) map[string]string {
	env := map[string]string{
		"PATH": defaultPath, "LANG": "C.UTF-8",
		// Agents ask this before they let their permission prompts be bypassed.
		"IS_SANDBOX": "1",
		"BROWSER":    opener,
	}
	for _, kv := range img.Config.Env {
		if k, v, ok := strings.Cut(kv, "="); ok && k != "" {
			env[k] = v
		}
	}
	own := sandbox.AgentDir + "/" + spec.Agent
	env["PATH"] = own + "/bin:" + env["PATH"]
	for _, l := range img.Layers {
		if l.Mount != "" && l.Mount != own {
			env["PATH"] += ":" + l.Mount + "/bin"
		}
	}
	maps.Copy(env, trustEnv)
	maps.Copy(env, spec.Env)
	return env
}

// opener is what programs open web pages with: those of sign-ins are opened by
// the user's browser, on the host.
const (
	opener     = "/usr/local/bin/xdg-open"
	openScript = "#!/bin/sh\n# Web pages of sign-ins are opened on the host.\nexec " + sandbox.GuestDir + "/berth-guest open \"$1\"\n"
)

// guestFiles are the files of Berth's own that the guest writes: Git's, so that
// commits are the user's and no workspace is of dubious ownership. An agent's
// settings are written when it is run, because they depend on its session.
func (s *Supervisor) guestFiles(ctx context.Context, spec sandbox.Spec) []guestapi.File {
	files := []guestapi.File{
		{Path: "/etc/gitconfig", Mode: 0o644, Content: workspace.SystemConfig(), Policy: guestapi.Always},
		{Path: opener, Mode: 0o755, Content: []byte(openScript), Policy: guestapi.IfAbsent},
	}
	if spec.Workspace == "" {
		return files
	}
	id, err := workspace.GitIdentity(ctx, spec.Workspace, os.Environ())
	if err != nil {
		s.log.Warn("read who commits", "error", err)
	}
	if global := id.GlobalConfig(); global != nil {
		files = append(files, guestapi.File{
			Path: sandbox.UserHome + "/.gitconfig", Mode: 0o644, UID: sandbox.UserUID, GID: sandbox.UserGID,
			Content: global, Policy: guestapi.IfAbsent,
		})
	}
	return files
}

func hosts(spec sandbox.Spec, link netstack.Link) string {
	var b strings.Builder
	fmt.Fprintf(&b, "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	fmt.Fprintf(&b, "%s\t%s\n", link.Guest4.Addr(), spec.Name)
	return b.String()
}

func resolvConf(link netstack.Link) string {
	return fmt.Sprintf("nameserver %s\nnameserver %s\n", link.Gateway4, link.Gateway6)
}
