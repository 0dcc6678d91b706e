package manager

import (
	"context"
	"os"
	"path/filepath"

	"berth.dev/internal/agent"
	"berth.dev/internal/bundle"
	"berth.dev/internal/config"
	"berth.dev/internal/control"
	"berth.dev/internal/hostdir"
	"berth.dev/internal/policyfile"
	"berth.dev/internal/sandbox"
	"berth.dev/internal/secret"
	"berth.dev/internal/supervisor"
)

// SecretsDir is the folder of the user's secrets, in that of data.
const SecretsDir = "secrets"

// OpenSecrets opens the store of the user's secrets, as the user's settings want
// it.
func OpenSecrets(dirs hostdir.Dirs, opts ...secret.Option) (*secret.Store, error) {
	data, err := dirs.Data()
	if err != nil {
		return nil, err
	}
	dir, err := dirs.Config()
	if err != nil {
		return nil, err
	}
	settings, err := config.Load(dir)
	if err != nil {
		return nil, err
	}
	if !settings.Secrets.UsesKeyring() {
		opts = append(opts, secret.WithoutKeyring())
	}
	return secret.Open(filepath.Join(data, SecretsDir), opts...)
}

// Bind binds secrets of this shell to a sandbox, which is started when it does
// not run, and returns what its sessions get in their place.
func (m *Manager) Bind(ctx context.Context, b *bundle.Bundle, secrets map[string]secret.Wire, bases map[string]string) (control.Credentials, error) {
	c, err := m.Start(ctx, b)
	if err != nil {
		return control.Credentials{}, err
	}
	return c.Bind(ctx, secrets, bases)
}

// Settled tells a running sandbox that its guest has the files of a bind.
func (m *Manager) Settled(ctx context.Context, b *bundle.Bundle, files []control.GuestFile) error {
	c, err := m.Start(ctx, b)
	if err != nil {
		return err
	}
	return c.Settled(ctx, files)
}

// Vouch tells a running sandbox that a sign-in's code came from the user's own
// browser.
func (m *Manager) Vouch(ctx context.Context, b *bundle.Bundle, v control.Vouch) error {
	c, err := m.Start(ctx, b)
	if err != nil {
		return err
	}
	return c.Vouch(ctx, v)
}

// networkOf completes what a supervisor is told with what it needs for the
// guest's network.
func networkOf(cfg *supervisor.Config, dirs hostdir.Dirs, b *bundle.Bundle) error {
	dir, err := dirs.Config()
	if err != nil {
		return err
	}
	if cfg.Settings, err = config.Load(dir); err != nil {
		return err
	}
	cfg.Policy = PolicySources(dir, b)
	data, err := dirs.Data()
	if err != nil {
		return err
	}
	cfg.SecretsDir, cfg.ServicesFile = filepath.Join(data, SecretsDir), filepath.Join(dir, config.ServicesName)
	if cfg.Home, err = os.UserHomeDir(); err != nil && b.Spec().Credentials == sandbox.CredentialsHost {
		return sandbox.Errorf(sandbox.ErrPrecondition, "find your home, where the agents' logins are: %w", err)
	}
	audits, err := dirs.Audit()
	if err != nil {
		return err
	}
	cfg.AuditDir = filepath.Join(audits, b.ID())
	return nil
}

// PolicySources says where the policy of a sandbox is; dir is the configuration
// folder.
func PolicySources(dir string, b *bundle.Bundle) policyfile.Sources {
	var hosts []string
	if ag, err := agent.Find(b.Spec().Agent); err == nil {
		hosts = ag.Hosts
	}
	return policyfile.ForSandbox(dir, b.PolicyFile(), b.Spec(), hosts)
}
