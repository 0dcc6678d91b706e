package debian

import (
	"net"
	"net/url"
	"slices"
	"strings"

	"berth.dev/internal/sandbox"
	"golang.org/x/net/http/httpproxy"
)

// Debian is the release that a Debian host's sandboxes get, whatever release
// the host itself runs.
const debianCodename = "trixie"

// Archive is one suite of one archive, with the keys that may sign it.
type Archive struct {
	// URI is the archive's root, http or https, with no slash at its end. It
	// may hold a user and a password; GuestURI never does.
	URI        string
	Suite      string
	Components []string
	// Keyring holds OpenPGP certificates in their binary form, one after the
	// other.
	Keyring []byte
	// Optional archives are left out when they do not exist.
	Optional bool
	// IgnoreValidUntil and IgnoreDate are what the host's apt was told about
	// this archive (Check-Valid-Until, Check-Date).
	IgnoreValidUntil bool
	IgnoreDate       bool
}

// GuestURI is the archive's root as the guest is told: without credentials.
func (a Archive) GuestURI() string {
	u, err := url.Parse(a.URI)
	if err != nil {
		return a.URI
	}
	u.User = nil
	return u.String()
}

// Source is where a base system comes from: the distribution, its archives in
// order of preference, and the way to them. Detect makes one of a host's apt.
type Source struct {
	Distribution string // "debian" or "ubuntu"
	Codename     string // trixie, noble, ...
	Archives     []Archive
	Proxy        Proxy
	// CAInfo is a PEM file of the host that the https connections are verified
	// against (Acquire::https::CaInfo); "" for the host's trust store.
	CAInfo string
}

// Proxy says through what the archives are reached. The zero value means
// directly.
type Proxy struct {
	// HTTP and HTTPS are URLs, or "DIRECT", or "" to ask Env.
	HTTP, HTTPS string
	// Hosts are exceptions by host name, in the same form.
	Hosts map[string]string
	// Env is what the proxy variables of the environment say.
	Env httpproxy.Config
}

// For returns the proxy for a request, nil for none. Settings of apt go before
// the environment, a host's before a scheme's, as in apt-transport-http(1).
func (p Proxy) For(u *url.URL) (*url.URL, error) {
	setting := p.Hosts[u.Hostname()]
	if setting == "" && u.Scheme == "https" {
		setting = p.HTTPS
	}
	if setting == "" {
		setting = p.HTTP // apt's https falls back to what is set for http
	}
	switch {
	case strings.EqualFold(setting, "DIRECT"), strings.EqualFold(setting, "false"):
		return nil, nil
	case setting == "":
		return p.Env.ProxyFunc()(u)
	}
	proxy, err := url.Parse(setting)
	if err != nil || proxy.Host == "" {
		return nil, sandbox.Errorf(sandbox.ErrInvalid, "apt's proxy %q is not a URL", setting).
			WithHint("look for Acquire::http::Proxy in /etc/apt/apt.conf and /etc/apt/apt.conf.d")
	}
	return proxy, nil
}

// guestProxies returns the settings that make sense in the guest, by apt's
// name: a proxy on the host's loopback is out of the guest's reach, and one
// that needs a password would carry a secret into it.
func (p Proxy) guestProxies() map[string]string {
	out := map[string]string{}
	add := func(name, setting string) {
		u, err := url.Parse(setting)
		if err != nil || u.Host == "" || u.User != nil || isLoopback(u.Hostname()) {
			return
		}
		out[name] = setting
	}
	add("Acquire::http::Proxy", p.HTTP)
	add("Acquire::https::Proxy", p.HTTPS)
	return out
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || ip != nil && ip.IsLoopback()
}

// proxyOf collects the proxies of apt's configuration and of the environment.
func proxyOf(c aptConf, env func(string) string) Proxy {
	either := func(name string) string {
		if v := env(name); v != "" {
			return v
		}
		return env(strings.ToUpper(name))
	}
	p := Proxy{
		HTTP:  c.get("Acquire::http::Proxy"),
		HTTPS: c.get("Acquire::https::Proxy"),
		Hosts: map[string]string{},
		Env: httpproxy.Config{
			HTTPProxy: either("http_proxy"), HTTPSProxy: either("https_proxy"), NoProxy: either("no_proxy"),
		},
	}
	// https last: where both name a host, the more special one counts.
	for _, scheme := range []string{"http", "https"} {
		prefix := "acquire::" + scheme + "::proxy::"
		for k, v := range c {
			if host, ok := strings.CutPrefix(k, prefix); ok && !strings.Contains(host, "::") {
				p.Hosts[host] = v
			}
		}
	}
	return p
}

// keyrings returns the distinct keyrings of the archives.
func (s Source) keyrings() [][]byte {
	var all [][]byte
	for _, a := range s.Archives {
		if !slices.ContainsFunc(all, func(k []byte) bool { return string(k) == string(a.Keyring) }) {
			all = append(all, a.Keyring)
		}
	}
	return all
}
