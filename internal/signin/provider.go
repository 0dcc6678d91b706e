package signin

import (
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"

	"berth.dev/internal/secret"
	"berth.dev/internal/service"
)

// Provider is one row: whom one signs in with, and what that takes. Its slices
// are shared: read, do not change.
type Provider struct {
	// Name is the last part of the name that the store knows the login by.
	Name string
	// Title is its name for people.
	Title string
	// Agents are those that sign in with it, by their names.
	Agents []string
	// Hosts are where the access token goes, as service.ParsePlace reads them.
	hosts  string
	shape  service.Shape
	renews service.Shape // of the token that renews it; zero for shape
	// schemes are where in a request it goes; nil for a bearer's.
	schemes []service.Scheme
	// access is the member of an answer that has the token; "" for access_token.
	access string
	// Env are the variables in which the guest sees the access token.
	env []service.Var
	// tokens are the URLs, without a scheme, that tokens come from.
	tokens []string
	// revoke are those by which tokens are given back.
	revoke []string
	// pages are the URLs, without a scheme and a query, that a user's browser may
	// be sent to.
	pages []string
	// ends are the provider's own pages, as pages are written, where a browser may
	// end up that is not sent back to this machine.
	ends []string
	// keep are the members of a token's answer that the guest gets as they are,
	// beside those of RFC 6749 §5.1.
	keep []string
	// needs are members that an answer must have to be a login.
	needs []string
	// shared: its hosts serve more than sign-ins, so that they are looked at only
	// for those agents.
	shared bool
	// form: a refresh is sent as a form (RFC 6749 §6), else as JSON.
	form bool
	// client is the application's identifier with the provider, which logins of this
	// host do not say, and clients are those of others. Pages are opened for these
	// alone: for one that anybody registered, the provider would send the browser
	// to wherever its owner said. clientSecret goes with client; it is in each copy
	// of the application, and no secret (RFC 8252 §8.5).
	client, clientSecret string
	clients              []string
	// rivals are the variables of keys that an agent would prefer to the login,
	// though they are paid for by use.
	rivals map[string][]string
	// files are what an agent's home has to hold, by the agent.
	files map[string]func(*Login, placeholders) []File
	// host says where an agent keeps its login on this machine, by the agent.
	host map[string]hostLogin
}

// Secret is the name of its login in the store.
func (p *Provider) Secret() string { return secret.LoginPrefix + p.Name }

// Hosts are where its access token goes.
func (p *Provider) Hosts() []string { return strings.Fields(p.hosts) }

// Find returns the provider of that name.
func Find(name string) (*Provider, bool) {
	i := slices.IndexFunc(table, func(p *Provider) bool { return p.Name == name })
	if i < 0 {
		return nil, false
	}
	return table[i], true
}

// Of returns the providers that an agent signs in with. A plain shell may run
// any of the agents.
func Of(agent string) []*Provider {
	var list []*Provider
	for _, p := range table {
		if slices.Contains(p.Agents, agent) || agent == shell && !p.shared {
			list = append(list, p)
		}
	}
	return list
}

// shell is the agent that is none.
const shell = "shell"

// Rivals are the variables of keys that an agent would use in place of the
// login, and that are paid for by use.
func (p *Provider) Rivals(agent string) []string { return p.rivals[agent] }

// service is what the login is bound to.
func (p *Provider) service() service.Definition {
	d := service.Definition{
		Name: "login-" + p.Name, Title: p.Title, Schemes: p.schemes, Shape: p.shape, Quotes: true, Env: p.env,
	}
	if d.Schemes == nil {
		d.Schemes = []service.Scheme{{Kind: service.Bearer}}
	}
	for h := range strings.FieldsSeq(p.hosts) {
		place, err := service.ParsePlace(h)
		if err != nil {
			panic("sign-in with " + p.Name + ": " + err.Error()) // the table is a part of the program
		}
		d.Hosts = append(d.Hosts, place)
	}
	return d
}

// issues reports whether tokens come from a URL, which is given back without its
// scheme, and revokes whether they go there to be given back.
func (p *Provider) issues(u string) bool  { return slices.Contains(p.tokens, u) }
func (p *Provider) revokes(u string) bool { return slices.Contains(p.revoke, u) }

// at reports whether a host is one of the endpoints.
func (p *Provider) at(host string) bool {
	return slices.ContainsFunc(slices.Concat(p.tokens, p.revoke), func(u string) bool {
		name, _, _ := strings.Cut(u, "/")
		return name == host
	})
}

// Page is a page of a sign-in that a guest wants shown in the user's browser.
type Page struct {
	Provider *Provider
	URL      string // as it may be opened
	// Port and Path are where on this machine the browser is sent back to; 0 when
	// it is not.
	Port  int
	Path  string
	State string // that comes back with it
}

// maxURL bounds the address of a page, in bytes.
const maxURL = 16 << 10

// ParsePage says whether a URL is a sign-in's page. Nothing else is opened for a
// guest: a browser would take what is in an address wherever it says, past the
// network policy.
func ParsePage(raw string) (Page, bool) {
	if len(raw) > maxURL {
		return Page{}, false
	}
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "https" || u.User != nil || u.Host != u.Hostname() || strings.Contains(raw, "#") {
		return Page{}, false
	}
	i := slices.IndexFunc(table, func(p *Provider) bool { return slices.Contains(p.pages, u.Host+u.EscapedPath()) })
	if i < 0 {
		return Page{}, false
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return Page{}, false
	}
	for _, values := range q {
		if len(values) != 1 {
			return Page{}, false // the provider may take the other
		}
	}
	u.RawQuery = plainQuery(u.RawQuery)
	pg := Page{Provider: table[i], URL: u.String(), State: q.Get("state")}
	return pg, len(pg.URL) <= maxURL && pg.leads(q)
}

// leads says where a browser ends up that opens the page, and whether it may.
func (pg *Page) leads(q url.Values) bool {
	app, to := q.Get("client_id"), q.Get("redirect_uri")
	if app == "" {
		return to == "" // a device's page, or a link of the provider's own
	}
	if app != pg.Provider.client && !slices.Contains(pg.Provider.clients, app) {
		return false
	}
	if end, ok := strings.CutPrefix(to, "https://"); ok {
		return slices.Contains(pg.Provider.ends, end)
	}
	if to == "" {
		return true
	}
	pg.Port, pg.Path = callback(to)
	// Without a state anybody could have the browser come back.
	return pg.Port != 0 && pg.State != ""
}

// plainQuery writes a query without what programs that open a page, which may be
// shell scripts, could take for something else.
func plainQuery(q string) string {
	var out strings.Builder
	for i := range len(q) {
		c := q[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~=&+/:,@?%", c) >= 0 {
			out.WriteByte(c)
		} else {
			fmt.Fprintf(&out, "%%%02X", c)
		}
	}
	return out.String()
}

// callback reads a redirect to this machine (RFC 8252 §7.3).
func callback(raw string) (port int, at string) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "http" || u.User != nil || u.RawQuery != "" || strings.ContainsAny(raw, "?#") || !slices.Contains([]string{"localhost", "127.0.0.1", "[::1]", "::1"}, u.Hostname()) {
		return 0, ""
	}
	port, err = strconv.Atoi(u.Port())
	if err != nil || port < 1024 || port > 65535 {
		return 0, ""
	}
	if at = u.EscapedPath(); at == "" {
		at = "/"
	}
	return port, at
}

// plainURL is what a server might take a URL without its scheme for: escapes,
// case, parameters, endings, and steps that lead nowhere are undone.
func plainURL(u string) string {
	for range 3 {
		if plain, err := url.PathUnescape(u); err == nil {
			u = plain
		}
	}
	u = strings.ReplaceAll(strings.ToLower(u), `\`, "/")
	host, rest, _ := strings.Cut(u, "/")
	rest, _, _ = strings.Cut(rest, "?")
	rest, _, _ = strings.Cut(rest, "#")
	segs := strings.Split(rest, "/")
	for i, s := range segs {
		segs[i], _, _ = strings.Cut(s, ";")
	}
	rest = strings.TrimRightFunc(path.Join(segs...), func(r rune) bool { return r <= ' ' || r == '/' })
	dir, last := path.Split(rest)
	last, _, _ = strings.Cut(last, ".")
	return host + "/" + dir + last
}

// urlOf is a request's URL without its scheme and query.
func urlOf(host string, r *http.Request) string { return host + r.URL.EscapedPath() }
