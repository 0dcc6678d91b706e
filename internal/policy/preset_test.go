package policy

import (
	"slices"
	"strings"
	"testing"
)

func preset(t testing.TB, name string) *Policy {
	t.Helper()
	r, err := Preset(name)
	if err != nil {
		t.Fatal(err)
	}
	return New(r)
}

func TestPresetRules(t *testing.T) {
	if _, err := Preset("wide"); err == nil || !strings.Contains(err.Error(), "open, balanced, locked") {
		t.Error(err)
	}
	for _, name := range Presets() {
		rules, err := Preset(name)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for _, r := range rules {
			again, err := ParseText(r.String())
			if err != nil || !again.Same(r) {
				t.Errorf("%s: %s comes back as %s, %v", name, r, again, err)
			}
			if seen[r.String()] {
				t.Errorf("%s has %s twice", name, r)
			}
			seen[r.String()] = true
			if r.Scope != ScopePreset || r.Preset != name || r.File != "" {
				t.Errorf("%s: %s is of %s", name, r, r.Origin())
			}
			if r.Verdict == Allow && name != PresetOpen && (len(r.Ports) == 0 || r.Prefix.IsValid()) {
				t.Errorf("%s: %s is too wide", name, r)
			}
		}
	}
}

// TestBalancedHandsOutNoCloud: below each of these anybody can have a host.
func TestBalancedHandsOutNoCloud(t *testing.T) {
	p := preset(t, PresetBalanced)
	for _, cloud := range strings.Fields(`
		amazonaws.com s3.amazonaws.com s3.us-east-1.amazonaws.com execute-api.us-east-1.amazonaws.com lambda-url.us-east-1.on.aws
		googleapis.com storage.googleapis.com run.app appspot.com web.app firebaseio.com cloudfunctions.net googleusercontent.com
		cloudfront.net azureedge.net azurefd.net blob.core.windows.net azurewebsites.net cloudapp.azure.com trafficmanager.net
		cloudflarestorage.com r2.cloudflarestorage.com workers.dev pages.dev r2.dev trycloudflare.com
		github.io gitlab.io netlify.app vercel.app herokuapp.com fly.dev onrender.com railway.app deno.dev
		fastly.net akamaized.net akamaihd.net b-cdn.net edgekey.net digitaloceanspaces.com backblazeb2.com
		ngrok.io ngrok.app ngrok-free.app loca.lt hf.space
	`) {
		for _, name := range []string{"attacker." + cloud, "a.b." + cloud} {
			if d := p.Decide(Request{Host: name, Port: 443}); d.Verdict == Allow {
				t.Errorf("%s: %s", name, d.Reason)
			}
		}
	}
	for _, q := range []string{
		"storage.googleapis.com:443 POST /upload/storage/v1/b/mine/o", "storage.googleapis.com:443 GET /mine/x",
		"storage.googleapis.com:443 PUT /proxy-golang-org-prod/x", "storage.googleapis.com:443 GET /pub-packages/../mine/x",
		"www.googleapis.com:443 POST /upload/drive/v3/files", "www.googleapis.com:443 GET /drive/v3/files",
		"pastebin.com:443", "transfer.sh:443", "webhook.site:443", "example.com:443", "8.8.8.8:443", "1.1.1.1:80", "10.0.0.1:80",
		"github.com:9418", "api.openai.com:22", "metadata.google.internal:80", "host.berth.internal:80", "smtp.gmail.com:587",
	} {
		if d := p.Decide(ask(t, q)); d.Verdict == Allow {
			t.Errorf("%s: %s", q, d.Reason)
		}
	}
}

func TestBalancedAllows(t *testing.T) {
	p := preset(t, PresetBalanced)
	for _, q := range strings.Fields(`
		api.anthropic.com console.anthropic.com claude.ai platform.claude.com statsig.anthropic.com
		api.openai.com auth.openai.com chatgpt.com generativelanguage.googleapis.com cloudcode-pa.googleapis.com
		oauth2.googleapis.com accounts.google.com aiplatform.googleapis.com us-central1-aiplatform.googleapis.com
		api.githubcopilot.com api.individual.githubcopilot.com api.x.ai api.mistral.ai api.groq.com openrouter.ai api.deepseek.com
		api.together.xyz api.fireworks.ai api.cohere.com api.perplexity.ai huggingface.co cdn-lfs.hf.co cas-bridge.xethub.hf.co
		bedrock-runtime.us-east-1.amazonaws.com bedrock-runtime.eu-central-1.amazonaws.com mine.openai.azure.com models.dev opencode.ai
		github.com github.com:22 api.github.com codeload.github.com raw.githubusercontent.com objects.githubusercontent.com
		release-assets.githubusercontent.com ghcr.io pkg-containers.githubusercontent.com gitlab.com registry.gitlab.com gitlab.com:22
		bitbucket.org api.bitbucket.org:443 codeberg.org git.sr.ht:22
		registry.npmjs.org registry.yarnpkg.com jsr.io npm.jsr.io deno.land pypi.org files.pythonhosted.org conda.anaconda.org
		repo.anaconda.com rubygems.org index.rubygems.org static.crates.io index.crates.io crates.io static.rust-lang.org sh.rustup.rs
		proxy.golang.org sum.golang.org go.dev golang.org pkg.go.dev dl.google.com
		repo1.maven.org repo.maven.apache.org services.gradle.org plugins.gradle.org downloads.gradle.org api.nuget.org
		repo.packagist.org getcomposer.org hex.pm repo.hex.pm pub.dev www.cpan.org cran.r-project.org hackage.haskell.org
		cache.nixos.org formulae.brew.sh
		registry-1.docker.io auth.docker.io index.docker.io production.cloudflare.docker.com hub.docker.com download.docker.com
		docker-images-prod.6aa30f8b08e16409b46e0173d6de2f56.r2.cloudflarestorage.com
		quay.io cdn01.quay.io gcr.io us-docker.pkg.dev mcr.microsoft.com eastus.data.mcr.microsoft.com public.ecr.aws registry.k8s.io
		deb.debian.org:80 security.debian.org:80 snapshot.debian.org archive.ubuntu.com:80 security.ubuntu.com:80 ports.ubuntu.com:80
		de.archive.ubuntu.com:80 dl-cdn.alpinelinux.org mirrors.fedoraproject.org dl.fedoraproject.org geo.mirror.pkgbuild.com
		mirror.stream.centos.org vault.centos.org dl.rockylinux.org repo.almalinux.org download.opensuse.org
		nodejs.org deb.nodesource.com www.python.org cdn.playwright.dev get.sdkman.io api.sdkman.io marketplace.visualstudio.com
		update.code.visualstudio.com ms-python.gallery.vsassets.io packages.microsoft.com releases.hashicorp.com apt.postgresql.org
	`) {
		req := ask(t, q)
		if req.Port == 0 {
			req.Port = 443
		}
		if d := p.Decide(req); d.Verdict != Allow || d.Inspect {
			t.Errorf("%s: %s %s, inspect %v", q, d.Verdict, d.Reason, d.Inspect)
		}
	}
	for _, q := range []string{
		"storage.googleapis.com:443 GET /proxy-golang-org-prod/abc", "storage.googleapis.com:443 GET /chrome-for-testing-public/1/x.zip",
		"www.googleapis.com:443 GET /oauth2/v2/userinfo",
	} {
		if d := p.Decide(ask(t, q)); d.Verdict != Allow {
			t.Errorf("%s: %s", q, d.Reason)
		}
	}
}

func TestOpenAndLocked(t *testing.T) {
	open, locked := preset(t, PresetOpen), preset(t, PresetLocked)
	for q, want := range map[string]Verdict{
		"example.com:443": Allow, "example.com:25": Allow, "93.184.216.34:22": Allow, "[2606:2800:220::1]:80": Allow,
		"10.0.0.1:80": Deny, "127.0.0.1:80": Deny, "169.254.169.254:80": Deny, "[::1]:80": Deny, "[fd00::1]:80": Deny,
		"100.64.0.1:80": Deny, "224.0.0.1:80": Deny, "0.0.0.0:80": Deny, "[64:ff9b::10.0.0.1]:80": Deny,
		"host.berth.internal:80": Deny, "host.berth.internal": Deny,
	} {
		if d := open.Decide(ask(t, q)); d.Verdict != want {
			t.Errorf("open: %s: %s", q, d.Reason)
		}
		if d := locked.Decide(ask(t, q)); d.Verdict != Deny || !d.Default && d.Rule != nil {
			t.Errorf("locked: %s: %s", q, d.Reason)
		}
	}
}

// TestPresetsDenyResolvers: in every preset a guest finds no resolver but
// Berth's, and only the user's word about that very host opens one.
func TestPresetsDenyResolvers(t *testing.T) {
	for _, name := range Presets() {
		p := preset(t, name)
		for _, q := range []string{
			"dns.google:443", "cloudflare-dns.com:443", "mozilla.cloudflare-dns.com:443", "one.one.one.one:443", "dns.quad9.net:443",
			"dns.nextdns.io:443", "abc123.dns.nextdns.io:443", "doh.opendns.com:443", "dns.adguard-dns.com:443", "doh.mullvad.net:443",
			"dns.controld.com:443", "doh.dns.sb:443", "dns0.eu:443", "dns.alidns.com:443", "doh.pub:443", "use-application-dns.net:443",
			"_dns.resolver.arpa", "mask.icloud.com:443",
			"example.com:853", "github.com:853", "example.com:53", "9.9.9.9:853", "1.1.1.1:443", "8.8.8.8:443", "9.9.9.9:443",
			"[2606:4700:4700::1111]:443", "[2001:4860:4860::8888]:443", "[2606::1]:853", "93.184.216.34:53",
		} {
			if d := p.Decide(ask(t, q)); d.Verdict != Deny || d.Rule == nil || d.Default {
				t.Errorf("%s: %s: %+v", name, q, d)
			}
		}
		rules := append(p.Rules(), rules(t, "user allow dns.google:443\nproject allow dns.quad9.net:443\nuser allow *.dns.nextdns.io:443")...)
		p = New(rules)
		for q, want := range map[string]Verdict{"dns.google:443": Allow, "dns.google:853": Deny, "dns.quad9.net:443": Deny, "x.dns.nextdns.io:443": Deny} {
			if d := p.Decide(ask(t, q)); d.Verdict != want {
				t.Errorf("%s: %s: %s", name, q, d.Reason)
			}
		}
	}
}

func TestNarrower(t *testing.T) {
	order := append(Presets(), "unknown")
	for i, a := range order {
		for j, b := range order {
			if got := Narrower(a, b); got != order[max(i, j)] {
				t.Errorf("Narrower(%s, %s) = %s", a, b, got)
			}
		}
	}
	if !slices.Equal(Presets(), []string{"open", "balanced", "locked"}) || DefaultPreset != "balanced" {
		t.Error(Presets())
	}
}
