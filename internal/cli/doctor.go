package cli

import (
	"context"
	"fmt"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"berth.dev/internal/agent"
	"berth.dev/internal/debian"
	"berth.dev/internal/engine"
	"berth.dev/internal/sandbox"
	"berth.dev/internal/version"
)

// exitDoctor is the status when something does not work.
const exitDoctor = 1

func newDoctorCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Check whether this machine has what Berth needs",
		Long: `Check whether this machine has what Berth needs. Ends with 1 when something does
not work, and says how to mend it.`,
		Args: wants(0, 0),
		RunE: func(cmd *cobra.Command, args []string) error { return a.runDoctor(cmd.Context()) },
	}
}

// finding is the result of one check.
type finding struct {
	Check  string `json:"check"`
	OK     bool   `json:"ok"`
	Needed bool   `json:"needed"` // without it nothing runs
	Says   string `json:"says"`
	Hint   string `json:"hint,omitempty"`
}

func (a *app) runDoctor(ctx context.Context) error {
	var all []finding
	checks := []func(context.Context) finding{a.checkVersion, a.checkEngine}
	for _, eng := range a.env.Engines.Engines() {
		if p, ok := eng.(engine.Prober); ok {
			checks = append(checks, func(ctx context.Context) finding { return a.probeEngine(ctx, eng, p) })
		}
	}
	for _, check := range append(checks,
		a.checkFolders, a.checkDisk, a.checkMemory, a.checkSource, a.checkTemplates, a.checkSandboxes, a.checkGit, a.checkKeys,
	) {
		all = append(all, check(ctx))
	}
	broken := false
	for _, f := range all {
		broken = broken || f.Needed && !f.OK
	}
	if a.json {
		if err := printJSON(a.Out, all); err != nil {
			return err
		}
	} else {
		a.printFindings(all)
	}
	if broken {
		return exitStatus(exitDoctor)
	}
	return nil
}

func (a *app) printFindings(all []finding) {
	for _, f := range all {
		mark := "ok  "
		switch {
		case !f.OK && f.Needed:
			mark = "FAIL"
		case !f.OK:
			mark = "note"
		}
		fmt.Fprintf(a.Out, "%s  %-16s %s\n", mark, f.Check, plain(f.Says))
		if f.Hint != "" {
			fmt.Fprintf(a.Out, "      %-16s try: %s\n", "", plain(f.Hint))
		}
	}
}

// judge makes a finding of an error or what to say without one.
func judge(check string, needed bool, err error, says string) finding {
	f := finding{Check: check, Needed: needed, OK: err == nil, Says: says}
	if err != nil {
		f.Says, f.Hint = err.Error(), sandbox.HintOf(err)
	}
	return f
}

func (a *app) checkVersion(context.Context) finding {
	return judge("version", false, nil, version.Version)
}

func (a *app) checkEngine(ctx context.Context) finding {
	eng, err := a.env.Engines.Lookup("")
	if err != nil {
		return judge("engine", true, err, "")
	}
	return judge("engine", true, eng.Check(ctx), eng.Build()+" can run here, as an ordinary user")
}

// probeEngine looks at an engine that is there for those who want it: what it
// lacks is no fault.
func (a *app) probeEngine(ctx context.Context, eng engine.Engine, p engine.Prober) finding {
	name := "engine " + eng.Name()
	if err := eng.Check(ctx); err != nil {
		return judge(name, false, err, "")
	}
	how, warning := p.Probe(ctx, "")
	f := judge(name, false, warning, how)
	if warning != nil && how != "" {
		f.Says = how + ": " + f.Says
	}
	return f
}

func (a *app) checkFolders(context.Context) finding {
	_, err := a.manager()
	if err != nil {
		return judge("folders", true, err, "")
	}
	data, err := a.dirs.Data()
	if err != nil {
		return judge("folders", true, err, "")
	}
	run, err := a.dirs.Run()
	return judge("folders", true, err, "data in "+data+", sockets in "+run)
}

// diskNeeded is what the base, one agent and a sandbox's packages take.
const diskNeeded = 6 << 30

func (a *app) checkDisk(context.Context) finding {
	data, err := a.dirs.Data()
	var st unix.Statfs_t
	if err == nil {
		err = unix.Statfs(data, &st)
	}
	if err != nil {
		return judge("disk", true, err, "")
	}
	free := int64(st.Bavail) * st.Bsize
	if free < diskNeeded {
		err = sandbox.Errorf(sandbox.ErrUnavailable, "only %s are free for %s", size(free), data).
			WithHint("free some space, or set BERTH_HOME to a folder on another disk; templates need about %s", size(diskNeeded))
	}
	return judge("disk", false, err, size(free)+" free")
}

func (a *app) checkMemory(context.Context) finding {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return judge("memory", false, err, "")
	}
	return judge("memory", false, nil, size(int64(info.Totalram)*int64(info.Unit)))
}

func (a *app) checkSource(context.Context) finding {
	src, err := debian.Detect("/", a.getenv)
	return judge("base system", false, err, fmt.Sprintf("%s %s, from this machine's own archive", src.Distribution, src.Codename))
}

func (a *app) checkTemplates(context.Context) finding {
	m, err := a.manager()
	if err != nil {
		return judge("templates", false, err, "")
	}
	all, err := a.templates(m).List()
	var names []string
	for _, t := range all {
		names = append(names, t.Name)
	}
	says := "none yet; the first berth run builds one"
	if len(names) > 0 {
		says = strings.Join(names, ", ")
	}
	return judge("templates", false, err, says)
}

// checkSandboxes counts them, and names those that cannot be read any more.
func (a *app) checkSandboxes(context.Context) finding {
	m, err := a.manager()
	if err != nil {
		return judge("sandboxes", false, err, "")
	}
	entries, err := m.List()
	running, broken := 0, []string{}
	for _, e := range entries {
		switch list(e).Status {
		case sandbox.Running:
			running++
		case sandbox.Broken:
			broken = append(broken, e.Name)
		}
	}
	if err == nil && len(broken) > 0 {
		err = sandbox.Errorf(sandbox.ErrInternal, "broken: %s", strings.Join(broken, ", ")).
			WithHint("remove them with: berth rm -f %s", strings.Join(broken, " "))
	}
	return judge("sandboxes", false, err, fmt.Sprintf("%d, %d of them running", len(entries), running))
}

func (a *app) checkGit(context.Context) finding {
	path, err := exec.LookPath("git")
	if err != nil {
		return finding{Check: "git", Says: "not on this machine: commits in sandboxes will have no author", Hint: "install git"}
	}
	return judge("git", false, nil, path)
}

// checkKeys names the agents' keys that this shell has, and never a value.
func (a *app) checkKeys(context.Context) finding {
	var found []string
	for _, ag := range agent.All() {
		for _, c := range ag.Credentials {
			if v, ok := a.shell(c.Env); ok && v != "" {
				found = append(found, c.Env)
			}
		}
	}
	if len(found) == 0 {
		return judge("keys", false, nil, "none in this shell; agents will ask you to sign in, unless berth secret ls has one")
	}
	return judge("keys", false, nil, strings.Join(found, ", "))
}
