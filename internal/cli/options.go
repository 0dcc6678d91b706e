package cli

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"berth.dev/internal/agent"
	"berth.dev/internal/bundle"
	"berth.dev/internal/policy"
	"berth.dev/internal/sandbox"
)

// createOptions are the flags of the commands that may make a sandbox.
type createOptions struct {
	Name      string
	Env       []string
	EnvFiles  []string
	Volumes   []string
	Template  string
	Engine    string
	CPUs      int
	Memory    string
	Disk      string
	Workspace string
	HostPorts []int
	Preset    string
	Ask       bool
	Creds     string
	IdleAfter time.Duration
	Force     bool
	Quiet     bool
	Remove    bool // --rm, of run only

	idleSaid func() bool // whether IdleAfter is the user's wish
}

// defaultIdle is how long a sandbox runs without a session.
const defaultIdle = 30 * time.Minute

func (o *createOptions) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.Name, "name", "", "name of the sandbox (default AGENT-FOLDER)")
	f.StringArrayVarP(&o.Env, "env", "e", nil, "set a variable: `K=V`, or K for this shell's value")
	f.StringArrayVar(&o.EnvFiles, "env-file", nil, "read variables from a `FILE`, one K=V a line")
	f.StringArrayVarP(&o.Volumes, "volume", "v", nil, "show a file or folder: `HOST:GUEST[:ro]`")
	f.StringVarP(&o.Template, "template", "t", "", "start from this `IMAGE` instead of the agent's template")
	f.StringVar(&o.Engine, "engine", "", "what isolates it, an `ENGINE`: gvisor or microvm (default that of config.toml, else gvisor)")
	f.IntVar(&o.CPUs, "cpus", 0, "number of CPUs that the sandbox sees")
	f.StringVarP(&o.Memory, "memory", "m", "", "memory that it may use, a `SIZE` such as 4g")
	f.StringVar(&o.Disk, "disk", "", "disk that it may use beyond its template, a `SIZE`")
	f.StringVarP(&o.Workspace, "workspace", "w", "", "the workspace, a `FOLDER`; others on the line are then extra ones")
	f.IntSliceVar(&o.HostPorts, "host-port", nil, "open a `PORT` of this machine's loopback, as "+sandbox.HostName+":PORT")
	f.StringVar(&o.Preset, "preset", "", "network `PRESET`: "+strings.Join(policy.Presets(), ", ")+" (default the user's, else "+policy.DefaultPreset+")")
	f.BoolVar(&o.Ask, "ask", false, "ask before the first connection to a place that no rule decides")
	f.StringVar(&o.Creds, "credentials", "", "`WHAT` of your secrets it can use, always without seeing them: "+sandbox.CredentialsSandbox+" (the default: those you keep and this shell's, and logins made in sandboxes), "+sandbox.CredentialsHost+" (logins that its agent has on this machine instead), "+sandbox.CredentialsNone)
	f.DurationVar(&o.IdleAfter, "idle-after", defaultIdle, "stop after this long without a session; 0 never")
	f.BoolVar(&o.Force, "force", false, "do not ask before the home folder or / is shown")
	f.BoolVarP(&o.Quiet, "quiet", "q", false, "no progress and no notes")
	o.idleSaid = func() bool { return f.Changed("idle-after") }
	// What follows the agent's name is the agent's.
	f.SetInterspersed(false)
	_ = cmd.RegisterFlagCompletionFunc("workspace", completeFolders)
	_ = cmd.RegisterFlagCompletionFunc("preset", cobra.FixedCompletions(policy.Presets(), cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("credentials", cobra.FixedCompletions(credentialWays(), cobra.ShellCompDirectiveNoFileComp))
}

// wish is what a command line asks for: the spec, and what goes to the session
// alone.
type wish struct {
	spec sandbox.Spec
	// session holds variables of the agent's that -e passed on. They are not part
	// of the spec, which is compared when coming back.
	session map[string]string
	// secrets are the variables of this shell that -e names and that hold keys:
	// they are bound to the sandbox, not passed.
	secrets []string
	// exposed is why the user has to say yes before a sandbox is made, or nil.
	exposed error
}

// wish makes one of flags and folders. known is the agent, or nil when a
// sandbox was named; only then does the current folder stand for a missing one.
func (a *app) wish(o *createOptions, known *agent.Agent, folders []string) (wish, error) {
	w := wish{spec: sandbox.Spec{
		Name: o.Name, Template: o.Template, Engine: o.Engine, Remove: o.Remove, HostPorts: o.HostPorts, IdleAfter: o.IdleAfter,
		Preset: o.Preset, Ask: o.Ask, Credentials: o.Creds,
		Resources: sandbox.Resources{CPUs: o.CPUs},
	}}
	if known != nil {
		w.spec.Agent = known.Name
	}
	if o.Name != "" {
		if err := sandbox.CheckName(o.Name); err != nil {
			return w, err
		}
	}
	if err := o.checkNumbers(&w.spec); err != nil {
		return w, err
	}
	if err := a.wishMounts(o, known != nil, folders, &w); err != nil {
		return w, err
	}
	return w, a.wishEnv(o, known, &w)
}

func (o *createOptions) checkNumbers(spec *sandbox.Spec) (err error) {
	if o.CPUs < 0 || o.CPUs > 1024 {
		return sandbox.Errorf(sandbox.ErrInvalid, "--cpus %d: a sandbox has 1 to 1024 CPUs", o.CPUs)
	}
	if o.IdleAfter < 0 {
		return sandbox.Errorf(sandbox.ErrInvalid, "--idle-after %s lies in the past", o.IdleAfter)
	}
	if _, err := policy.Preset(o.Preset); o.Preset != "" && err != nil {
		return sandbox.Errorf(sandbox.ErrInvalid, "there is no preset %q", o.Preset).
			WithHint("the presets are %s", strings.Join(policy.Presets(), ", "))
	}
	if o.Creds != "" && !slices.Contains(credentialWays(), o.Creds) {
		return sandbox.Errorf(sandbox.ErrInvalid, "--credentials cannot be %q", o.Creds).
			WithHint("say one of %s", strings.Join(credentialWays(), ", "))
	}
	for _, p := range o.HostPorts {
		if p < 1 || p > 65535 {
			return sandbox.Errorf(sandbox.ErrInvalid, "--host-port %d is not a port", p).WithHint("ports are 1 to 65535")
		}
	}
	if o.Memory != "" {
		if spec.Resources.Memory, err = sandbox.ParseSize(o.Memory); err != nil {
			return err
		}
		if spec.Resources.Memory < 64<<20 {
			return sandbox.Errorf(sandbox.ErrInvalid, "--memory %s is too little for a Linux system", o.Memory).WithHint("give it 64m or more")
		}
	}
	if o.Disk != "" {
		spec.Resources.Disk, err = sandbox.ParseSize(o.Disk)
	}
	return err
}

// compareIdle holds --idle-after against a sandbox that exists. The bundle does
// not: it cannot tell the default from a wish.
func (o *createOptions) compareIdle(b *bundle.Bundle) error {
	has := b.Spec().IdleAfter
	if o.idleSaid == nil || !o.idleSaid() || has == o.IdleAfter {
		return nil
	}
	return sandbox.Errorf(sandbox.ErrPrecondition, "sandbox %s exists and is different: it stops after %s without a session, not after %s", b.Name(), has, o.IdleAfter).
		WithHint("remove it with `berth rm %s` and run again, or make another with --name", b.Name())
}

// wishMounts adds the folders. Without one, the current folder stands for it
// when an agent was named, and the sandbox's own when that was.
func (a *app) wishMounts(o *createOptions, agentNamed bool, folders []string, w *wish) error {
	if o.Workspace != "" {
		folders = append([]string{o.Workspace}, folders...)
	}
	if len(folders) == 0 && !agentNamed && len(o.Volumes) == 0 {
		return nil
	}
	plan, exposed, err := a.folders(folders, o.Volumes, o.Force)
	if err != nil {
		return err
	}
	w.exposed = exposed
	w.spec.Workspace, w.spec.Mounts = plan.Workspace, plan.Mounts()
	for _, l := range plan.Links {
		w.spec.Links = append(w.spec.Links, sandbox.Link{Path: l.Path, Target: l.Target})
	}
	if len(folders) == 0 && !agentNamed {
		w.spec.Workspace, w.spec.Mounts = "", plan.Volumes
	}
	if !o.Quiet {
		for _, warning := range plan.Warnings {
			a.note("%v", warning)
		}
	}
	return nil
}

// credentialWays are what --credentials can say.
func credentialWays() []string {
	return []string{sandbox.CredentialsSandbox, sandbox.CredentialsHost, sandbox.CredentialsNone}
}

func (a *app) wishEnv(o *createOptions, known *agent.Agent, w *wish) error {
	entries, err := a.envEntries(o.EnvFiles, o.Env)
	if err != nil {
		return err
	}
	env, missing, err := parseEnv(entries, a.shell)
	if err != nil {
		return err
	}
	if len(missing) > 0 && !o.Quiet {
		a.note("not set in this shell, so not passed on: %s", strings.Join(missing, ", "))
	}
	w.session = map[string]string{}
	if o.Creds != sandbox.CredentialsNone {
		if w.secrets, err = a.takeSecrets(entries, env); err != nil {
			return err
		}
	}
	if !o.Quiet {
		a.warnOfKeys(env)
	}
	if known != nil {
		for _, name := range known.Passed {
			if v, ok := env[name]; ok && slices.Contains(entries, name) {
				w.session[name] = v
				delete(env, name)
			}
		}
	}
	if len(env) > 0 {
		w.spec.Env = env
	}
	return nil
}

// envEntries are those of the files, then those of -e, which win.
func (a *app) envEntries(files, flags []string) ([]string, error) {
	var paths []string
	for _, f := range files {
		paths = append(paths, a.abs(f))
	}
	entries, err := readEnvFiles(paths)
	return append(entries, flags...), err
}

// agentEnv is what a session of an agent is given on top of its sandbox's
// environment: this shell's terminal and language, the agent's own settings,
// variables that steer it, and placeholders for secrets. What the user said,
// when the sandbox was made (fixed) or now, wins.
func (a *app) agentEnv(ag agent.Agent, tty bool, placeholders, fixed, said map[string]string) map[string]string {
	env := sessionEnv(a.shell, tty)
	maps.Copy(env, ag.Env)
	maps.Copy(env, placeholders)
	for _, name := range ag.Passed {
		if v, ok := a.shell(name); ok && v != "" {
			env[name] = v
		}
	}
	for name := range fixed {
		delete(env, name)
	}
	maps.Copy(env, said)
	return env
}
