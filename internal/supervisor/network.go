package supervisor

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpproxy"

	"berth.dev/internal/audit"
	"berth.dev/internal/config"
	"berth.dev/internal/egress"
	"berth.dev/internal/egress/intercept"
	"berth.dev/internal/netstack"
	"berth.dev/internal/policy"
	"berth.dev/internal/policyfile"
	"berth.dev/internal/sandbox"
)

// network is the guest's way out and what decides about it.
type network struct {
	stack   *netstack.Stack
	egress  *egress.Egress
	ca      *intercept.CA
	audit   recorder
	pending *pending // nil: nobody is asked
	sources policyfile.Sources

	mu        sync.Mutex
	stamp     string
	effective policyfile.Effective
	rules     []string // as text, for what a change changed
	failure   string   // why the files as they are now do not count
}

// handler is what the network stack asks.
type handler struct{ *egress.Egress }

// OpenTCP implements netstack.Handler.
func (h handler) OpenTCP(ctx context.Context, src, dst netip.AddrPort) (netstack.Route, error) {
	r, err := h.Open(ctx, src, dst)
	return netstack.Route(r), err
}

// Dropped implements netstack.Handler.
func (h handler) Dropped(d netstack.Drop) { h.Egress.Dropped(d.Protocol, d.Addr, d.Port, d.More) }

// recorder writes events down as this sandbox's.
type recorder struct {
	log      *audit.Log
	name, id string
}

// Record implements audit.Recorder.
func (r recorder) Record(ev audit.Event) {
	ev.Sandbox, ev.ID = r.name, r.id
	if ev.Time.IsZero() {
		ev.Time = time.Now()
	}
	r.log.Record(ev)
}

// startNetwork makes the wire's end on this side and all that is behind it.
func (s *Supervisor) startNetwork(wire *os.File, link netstack.Link, spec sandbox.Spec) error {
	log, err := s.openAudit(spec)
	if err != nil {
		return err
	}
	n := &s.net
	n.audit = recorder{log, spec.Name, s.cfg.Bundle.ID()}
	n.sources = s.cfg.Policy
	p, err := n.load()
	if err != nil {
		return err
	}
	if n.ca, err = intercept.NewCA(time.Now); err != nil {
		return err
	}
	if err := s.startCredentials(spec); err != nil {
		return err
	}
	ec := egress.Config{
		Sandbox: spec.Name, Seed: s.cfg.Bundle.ID(), HostAddr: link.Host4, Policy: p, CA: n.ca,
		Recorder: n.audit, Logger: s.log, Proxy: hostProxy(),
	}
	if b := s.creds.broker; b != nil {
		k := s.creds.keeper
		ec.Inspect = func(host string, port uint16) bool { return b.Inspect(host, port) || k.Inspect(host, port) }
		ec.Requests, ec.Responses = []intercept.RequestStage{k, b}, []intercept.ResponseStage{k, b}
	}
	if ec.Overrides, ec.Roots, err = overrides(s.cfg.Settings.Upstreams); err != nil {
		return err
	}
	wait, tell := s.cfg.Settings.Network.Wait(), notifier(s.cfg.Settings.Network, spec.Name, s.log)
	s.agent = newAgentQuestions(wait, tell)
	if spec.Ask || s.cfg.Settings.Network.Ask {
		n.pending = newPending(wait, tell)
		ec.Ask = n.pending
	}
	if n.egress, err = egress.New(ec); err != nil {
		return err
	}
	s.undo.Push(n.egress.Close)
	s.creds.recheck = n.egress.Recheck
	n.stack, err = netstack.New(netstack.Config{Wire: wire, Link: link, Handler: handler{n.egress}, Logger: s.log})
	if err != nil {
		return err
	}
	s.undo.Push(n.stack.Close)
	return nil
}

// openAudit opens the sandbox's log, which says whose it is when the sandbox no
// longer exists.
func (s *Supervisor) openAudit(spec sandbox.Spec) (*audit.Log, error) {
	dir, id := s.cfg.AuditDir, s.cfg.Bundle.ID()
	log, err := audit.Open(dir, audit.Options{Sandbox: spec.Name, ID: id})
	if err != nil {
		return nil, fmt.Errorf("open the audit log: %w", err)
	}
	s.undo.Push(log.Close)
	if _, err := audit.ReadMeta(dir); errors.Is(err, sandbox.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		if err := audit.WriteMeta(dir, audit.Meta{Name: spec.Name, ID: id, Created: s.cfg.Bundle.Created()}); err != nil {
			return nil, err
		}
	}
	return log, nil
}

// load reads the policy's files for the first time.
func (n *network) load() (*policy.Policy, error) {
	n.stamp = policyfile.Stamp(n.sources)
	e, rules, err := read(n.sources)
	if err != nil {
		return nil, err
	}
	n.keep(e, rules)
	return policy.New(rules), nil
}

func read(src policyfile.Sources) (policyfile.Effective, []policy.Rule, error) {
	e, err := policyfile.Load(src)
	if err != nil {
		return e, nil, err
	}
	rules, err := e.All()
	return e, rules, err
}

func (n *network) keep(e policyfile.Effective, rules []policy.Rule) {
	n.effective, n.rules, n.failure = e, nil, ""
	for _, r := range rules {
		if r.Scope != policy.ScopePreset {
			n.rules = append(n.rules, r.String()+" ("+r.Scope.String()+")")
		}
	}
}

// reload makes the policy's files count as they are now. When one makes no
// sense what held before goes on to hold.
func (n *network) reload() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.stamp = policyfile.Stamp(n.sources)
	before, preset := n.rules, n.effective.Preset
	e, rules, err := read(n.sources)
	if err != nil {
		if n.failure != err.Error() {
			n.failure = err.Error()
			n.audit.Record(audit.Event{Kind: audit.Policy, Detail: "not changed", Error: err.Error()})
		}
		return err
	}
	n.keep(e, rules)
	n.egress.SetPolicy(policy.New(rules))
	if change := difference(preset, e.Preset, before, n.rules); change != "" {
		n.audit.Record(audit.Event{Kind: audit.Policy, Detail: change})
	}
	return nil
}

// difference says what changed.
func difference(presetBefore, presetAfter string, before, after []string) string {
	var parts []string
	if presetBefore != presetAfter {
		parts = append(parts, "preset "+presetAfter+" instead of "+presetBefore)
	}
	for _, r := range after {
		if !slices.Contains(before, r) {
			parts = append(parts, "new: "+r)
		}
	}
	for _, r := range before {
		if !slices.Contains(after, r) {
			parts = append(parts, "gone: "+r)
		}
	}
	return strings.Join(parts, "; ")
}

// follow reloads when a file was changed by hand.
func (n *network) follow() {
	n.mu.Lock()
	changed := policyfile.Stamp(n.sources) != n.stamp
	n.mu.Unlock()
	if changed {
		_ = n.reload() // recorded
	}
}

// state is what a status says of the policy.
func (n *network) state() (preset string, warnings []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	warnings = slices.Clone(n.effective.Warnings)
	if n.failure != "" {
		warnings = append(warnings, "the policy as it is on disk does not count: "+n.failure)
	}
	return n.effective.Preset, warnings
}

// answer ends a question of pending.
func (n *network) answer(id string, once bool, how string) error {
	if n.pending == nil {
		return sandbox.Errorf(sandbox.ErrPrecondition, "this sandbox asks nobody").
			WithHint("create it with --ask, or set ask = true in the settings")
	}
	var about string
	for _, q := range n.pending.questions() {
		if q.ID == id {
			about = net.JoinHostPort(q.Host, strconv.Itoa(int(q.Port)))
		}
	}
	if err := n.reload(); err != nil { // a lasting answer is a rule by now
		return err
	}
	if err := n.pending.answer(id, once); err != nil {
		return err
	}
	n.audit.Record(audit.Event{Kind: audit.Decision, Detail: how + ": " + about})
	return nil
}

// hostProxy follows the proxy settings of the shell that started the sandbox
// (HTTP_PROXY, HTTPS_PROXY, NO_PROXY), or is nil when there are none.
func hostProxy() func(string, uint16) (*url.URL, error) {
	env := httpproxy.FromEnvironment()
	if env.HTTPProxy == "" && env.HTTPSProxy == "" {
		return nil
	}
	find := env.ProxyFunc()
	return func(host string, port uint16) (*url.URL, error) {
		u := &url.URL{Scheme: "https", Host: net.JoinHostPort(host, strconv.Itoa(int(port)))}
		if port == 80 {
			u.Scheme = "http"
		}
		return find(u)
	}
}

// overrides turns the user's settings into the egress's, with the authorities
// that their servers are verified with besides the host's.
func overrides(ups []config.Upstream) ([]egress.Override, *x509.CertPool, error) {
	var list []egress.Override
	var roots *x509.CertPool
	for _, u := range ups {
		name, err := policy.NormalizeName(u.Host)
		if err != nil {
			return nil, nil, sandbox.Errorf(sandbox.ErrInvalid, "the upstream of %q in the settings: %w", u.Host, err)
		}
		list = append(list, egress.Override{Host: name, Port: u.Port, Address: u.Address, Inspect: u.CA != ""})
		if u.CA == "" {
			continue
		}
		if roots == nil {
			if roots, err = x509.SystemCertPool(); err != nil {
				return nil, nil, fmt.Errorf("read the host's certificates: %w", err)
			}
		}
		pem, err := os.ReadFile(u.CA)
		if err == nil && !roots.AppendCertsFromPEM(pem) {
			err = errors.New("it holds no certificate")
		}
		if err != nil {
			return nil, nil, sandbox.Errorf(sandbox.ErrInvalid, "the CA of the upstream of %s in the settings: %w", u.Host, err)
		}
	}
	return list, roots, nil
}
