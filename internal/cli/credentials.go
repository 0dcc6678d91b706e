package cli

import (
	"context"
	"maps"
	"slices"
	"strings"

	"berth.dev/internal/agent"
	"berth.dev/internal/bundle"
	"berth.dev/internal/config"
	"berth.dev/internal/control"
	"berth.dev/internal/manager"
	"berth.dev/internal/sandbox"
	"berth.dev/internal/secret"
	"berth.dev/internal/service"
	"berth.dev/internal/signin"
)

// offer is what of this shell's secrets a sandbox is to have the use of.
type offer struct {
	all   bool     // what most work needs
	agent []string // variables of the agent's
	named []string // by -e
	env   lookup   // what the session will have, where that is not the shell's
}

// offer is what a run offers: what the agent and the usual tools use, and what
// was named.
func (w wish) offer(ag agent.Agent) offer {
	o := offer{all: true, named: w.secrets}
	for _, c := range ag.Credentials {
		o.agent = append(o.agent, c.Env)
	}
	o.env = func(name string) (string, bool) { v, ok := w.session[name]; return v, ok }
	return o
}

// bind binds secrets of this shell to a sandbox and returns what its sessions
// get in their place. None of them goes to disk, nor into the sandbox.
func (a *app) bind(ctx context.Context, m *manager.Manager, b *bundle.Bundle, o offer, quiet bool) (control.Credentials, error) {
	spec := b.Spec()
	if spec.Credentials == sandbox.CredentialsNone {
		return control.Credentials{}, nil
	}
	secrets := map[string]secret.Wire{}
	for _, f := range a.foundSecrets() {
		wanted := f.auto && o.all
		for _, v := range f.vars {
			wanted = wanted || slices.Contains(o.agent, v) || slices.Contains(o.named, v)
		}
		// What the sandbox was made with is its own.
		if fixed := slices.ContainsFunc(f.vars, func(v string) bool { _, ok := spec.Env[v]; return ok }); wanted && !fixed {
			secrets[f.name] = secret.Wire{Value: f.value}
		}
	}
	bases := a.bases(spec, o)
	got, err := m.Bind(ctx, b, secrets, bases)
	if control.IsUnknownOp(err) {
		// An older Berth saved it, and so runs it.
		if !quiet {
			a.note("%s runs on an older Berth, which puts no keys in; make it anew to use yours", b.Name())
		}
		return control.Credentials{}, nil
	}
	if err != nil {
		return got, err
	}
	unused, preferred := withhold(&got, spec, o, bases)
	if !quiet {
		why := "the login is"
		if spec.Credentials == sandbox.CredentialsHost && !hasLogin(got) {
			why = "of --credentials " + spec.Credentials
		}
		a.sayBound(got, unused, why)
		if len(preferred) > 0 {
			a.note("%s is used, as -e says, in place of the login", strings.Join(preferred, ", "))
		}
		a.sayIncomplete(got, spec, o)
	}
	return got, nil
}

// withhold takes keys that are paid for by use out of what an agent sees, where
// it is signed in with a subscription and would use the key instead, because one
// happened to be there; also where it should be signed in by what is on this
// machine. Who names the key wants it, and prefers it to the login.
func withhold(got *control.Credentials, spec sandbox.Spec, o offer, bases map[string]string) (unused, preferred []string) {
	var providers []*signin.Provider
	if spec.Credentials == sandbox.CredentialsHost {
		providers = signin.Of(spec.Agent) // signed in or not
	}
	for _, b := range got.Bound {
		name, _ := secret.SplitLogin(b.Secret)
		if !b.Login {
			name = b.Service // a subscription's token in a variable has the provider's name
		}
		if p, ok := signin.Find(name); ok && !slices.Contains(providers, p) {
			providers = append(providers, p)
		}
	}
	for _, p := range providers {
		for _, v := range p.Rivals(spec.Agent) {
			d, _ := service.ByVar(v)
			_, there := got.Env[v]
			switch {
			case !there || bases[d.BaseVar] != "":
			case slices.Contains(o.named, v):
				preferred = append(preferred, v)
			default:
				delete(got.Env, v)
				unused = append(unused, v)
			}
		}
	}
	return unused, preferred
}

// sayIncomplete says of keys that were named that they are not passed on, where
// others are missing that they go with.
func (a *app) sayIncomplete(got control.Credentials, spec sandbox.Spec, o offer) {
	for _, v := range o.named {
		d, _ := service.ByVar(v)
		bound := slices.ContainsFunc(d.Env, func(e service.Var) bool { _, ok := got.Env[e.Name]; return ok })
		if _, own := spec.Env[v]; d.Signs() && !bound && !own {
			a.note("%s is not passed on: it is of use only with the others of %s, which are not set", v, d.Title)
		}
	}
}

// hasLogin reports whether a login is among what is bound.
func hasLogin(c control.Credentials) bool {
	return slices.ContainsFunc(c.Bound, func(b control.Bound) bool { return b.Login })
}

// bases are the variables by which services are somewhere else.
func (a *app) bases(spec sandbox.Spec, o offer) map[string]string {
	if !o.all {
		return nil
	}
	bases := map[string]string{}
	for _, d := range a.services() {
		if d.BaseVar == "" {
			continue
		}
		for _, look := range []lookup{func(name string) (string, bool) { v, ok := spec.Env[name]; return v, ok }, o.env, a.shell} {
			if v, ok := look(d.BaseVar); ok {
				bases[d.BaseVar] = v
				break
			}
		}
	}
	return bases
}

// sayBound says in one line which secrets the sandbox can use.
func (a *app) sayBound(got control.Credentials, unused []string, why string) {
	var logins, shell, kept []string
	for _, b := range got.Bound {
		switch {
		case slices.Contains(unused, b.Secret):
		case b.Login && b.Account != "":
			logins = append(logins, b.Title+" ("+plain(b.Account)+")")
		case b.Login:
			logins = append(logins, b.Title)
		case b.Shell:
			shell = append(shell, b.Secret)
		default:
			kept = append(kept, b.Secret)
		}
	}
	var parts []string
	if len(logins) > 0 {
		parts = append(parts, "your login to "+strings.Join(logins, ", "))
	}
	if len(shell) > 0 {
		parts = append(parts, strings.Join(shell, ", ")+" of this shell")
	}
	if len(kept) > 0 {
		parts = append(parts, strings.Join(kept, ", ")+" of your secrets")
	}
	if len(parts) > 0 {
		a.note("it can use %s, and sees placeholders", strings.Join(parts, " and "))
	}
	if len(unused) > 0 {
		a.note("%s is not used, because %s; to use it: -e %s", strings.Join(unused, ", "), why, unused[0])
	}
	for _, w := range got.Warnings {
		a.note("%s", w)
	}
}

// takeSecrets takes those variables out of env that are named without a value
// and hold keys of services that are known, the user's own included: they are
// bound instead. What could be one is not passed as it is because the user's file
// of services cannot be read.
func (a *app) takeSecrets(entries []string, env map[string]string) (taken []string, err error) {
	for _, name := range entries {
		v, ok := env[name]
		switch {
		case !ok || v == "":
		case a.knownVar(name):
			taken = append(taken, name)
			delete(env, name)
		case a.badServices != nil:
			return nil, sandbox.Errorf(sandbox.ErrInvalid, "whether %s is a secret cannot be told while %s is wrong", name, config.ServicesName).
				WithHint("mend that file; -e %s=VALUE passes the variable as it is", name)
		}
	}
	return taken, nil
}

// warnOfKeys warns of values that look like keys and go into the sandbox: by
// their form, or by the name of their variable.
func (a *app) warnOfKeys(env map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(env)) {
		const looks = "%s looks like a key, and whatever runs in the sandbox can read it; "
		known := a.knownVar(name)
		switch {
		case !service.LooksLikeKey(env[name]) && (!known || len(env[name]) < service.MinKey):
		case known:
			a.note(looks+"in a sandbox that can use secrets, -e %s without a value, or berth secret set %s, keeps it outside", name, name, name)
		default:
			a.note(looks+"berth secret set %s --host HOST --bearer keeps it outside", name, name)
		}
	}
}

// addMissingEnv adds variables that a session has not, and that its sandbox was
// not made with.
func addMissingEnv(env, more, fixed map[string]string) {
	for name, v := range more {
		if _, ok := env[name]; ok {
			continue
		}
		if _, ok := fixed[name]; !ok {
			env[name] = v
		}
	}
}
