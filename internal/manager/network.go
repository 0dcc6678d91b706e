package manager

import (
	"path/filepath"

	"berth.dev/internal/agent"
	"berth.dev/internal/bundle"
	"berth.dev/internal/config"
	"berth.dev/internal/hostdir"
	"berth.dev/internal/policyfile"
	"berth.dev/internal/supervisor"
)

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
