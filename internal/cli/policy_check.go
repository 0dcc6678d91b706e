package cli

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"berth.dev/internal/policy"
	"berth.dev/internal/sandbox"
)

type policyCheckOptions struct {
	Sandbox string
	Method  string
	Path    string
}

func newPolicyCheckCommand(a *app) *cobra.Command {
	o := &policyCheckOptions{}
	cmd := &cobra.Command{
		Use:   "check [flags] HOST[:PORT]|URL",
		Short: "Say whether something may be reached, and why",
		Long: `Say whether a host may be reached, which rule decides, and where that rule is
written. Nothing is connected to and no name is looked up: a name that is
allowed is still refused where it resolves to an address that is not public.
Without a port it is 443, or that of the URL's scheme.

Exit status:
  0     it is allowed
  1     it is denied
  125   an error of Berth's`,
		Args: wants(1, 1),
		RunE: func(_ *cobra.Command, args []string) error { return a.runPolicyCheck(args[0], o) },
	}
	a.sandboxFlag(cmd, &o.Sandbox)
	cmd.Flags().StringVar(&o.Method, "method", "", "ask about an HTTP request of this `METHOD` (default GET with a path)")
	cmd.Flags().StringVar(&o.Path, "path", "", "ask about an HTTP request to this `PATH` (default / with a method)")
	return cmd
}

// checked is an answer as `berth policy check --json` prints it.
type checked struct {
	Verdict string `json:"verdict"`
	Target  string `json:"target"` // HOST:PORT
	Method  string `json:"method,omitempty"`
	Path    string `json:"path,omitempty"`
	Inspect bool   `json:"inspect,omitempty"` // requests are decided one by one
	Rule    string `json:"rule,omitempty"`
	Origin  string `json:"origin,omitempty"`
	File    string `json:"file,omitempty"`
	Reason  string `json:"reason"`
}

func (a *app) runPolicyCheck(what string, o *policyCheckOptions) error {
	target, req, err := parseCheck(what, o)
	if err != nil {
		return err
	}
	t, _, err := a.policyTarget(o.Sandbox)
	if err != nil {
		return err
	}
	e, err := a.loadPolicy(t)
	if err != nil {
		return err
	}
	rules, err := e.All()
	if err != nil {
		return err
	}
	d := policy.New(rules).Decide(req)
	c := checked{Verdict: d.Verdict.String(), Target: target, Inspect: d.Inspect, Reason: d.Reason}
	if req.HTTP != nil {
		c.Method, c.Path = req.HTTP.Method, req.HTTP.Path
	}
	if d.Rule != nil {
		c.Rule, c.Origin, c.File = d.Rule.String(), d.Rule.Origin(), d.Rule.File
	}
	if err := a.printChecked(c); err != nil {
		return err
	}
	if d.Verdict == policy.Allow {
		return nil
	}
	if d.Default && !a.json {
		fmt.Fprintf(a.Err, "try: berth policy allow %s%s\n", plain(target), t.flag())
	}
	return exitStatus(1)
}

func (a *app) printChecked(c checked) error {
	if a.json {
		return printJSON(a.Out, c)
	}
	rows := [][]string{{"verdict", c.Verdict}, {"target", strings.TrimSpace(c.Target + " " + c.Method + " " + c.Path)}}
	if c.Rule != "" {
		rows = append(rows, []string{"rule", c.Rule}, []string{"from", c.Origin})
	} else {
		rows = append(rows, []string{"reason", c.Reason})
	}
	if c.Inspect {
		rows = append(rows, []string{"note", "each request is decided by itself: ask with --method and --path"})
	}
	return table(a.Out, rows)
}

// schemes are the ports of URLs.
var schemes = map[string]string{
	"http": "80", "https": "443", "ws": "80", "wss": "443", "ssh": "22", "git": "9418", "git+ssh": "22", "ftp": "21",
	"postgres": "5432", "postgresql": "5432", "mysql": "3306", "redis": "6379", "mongodb": "27017", "amqp": "5672",
}

// parseCheck reads what is asked, and how it is to be named.
func parseCheck(what string, o *policyCheckOptions) (target string, req policy.Request, err error) {
	path := o.Path
	if strings.Contains(what, "://") {
		u, err := url.Parse(what)
		if err != nil || u.Hostname() == "" {
			return "", req, sandbox.Errorf(sandbox.ErrInvalid, "%q is no URL", what)
		}
		port := u.Port()
		if port == "" {
			if port = schemes[u.Scheme]; port == "" {
				return "", req, sandbox.Errorf(sandbox.ErrInvalid, "the port of %s is not known", u.Scheme).WithHint("write the port in the URL, or HOST:PORT")
			}
		}
		what = net.JoinHostPort(u.Hostname(), port)
		if path == "" && len(u.EscapedPath()) > 1 {
			path = u.EscapedPath()
		}
	}
	r, err := policy.ParseRule(policy.Deny, what)
	if err != nil {
		return "", req, sandbox.Errorf(sandbox.ErrInvalid, "%w", err)
	}
	single := r.Host.Exact() || r.Prefix.IsValid() && r.Prefix.IsSingleIP()
	if !single || len(r.Ports) > 1 || len(r.Ports) == 1 && r.Ports[0].First != r.Ports[0].Last {
		return "", req, sandbox.Errorf(sandbox.ErrInvalid, "%q is more than one place", what).WithHint("ask about one HOST:PORT")
	}
	req.Port = 443
	if len(r.Ports) == 1 {
		req.Port = r.Ports[0].First
	}
	if r.Prefix.IsValid() {
		req.Addr = r.Prefix.Addr()
		target = netip.AddrPortFrom(req.Addr, req.Port).String()
	} else {
		req.Host = r.Host.String()
		target = fmt.Sprintf("%s:%d", req.Host, req.Port)
	}
	if o.Method != "" || path != "" {
		req.HTTP = &policy.HTTP{Method: "GET", Path: "/"}
		if o.Method != "" {
			req.HTTP.Method = strings.ToUpper(o.Method)
		}
		if path != "" {
			req.HTTP.Path, _, _ = strings.Cut(path, "?")
		}
	}
	return target, req, nil
}
