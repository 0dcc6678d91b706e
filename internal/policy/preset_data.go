package policy

// The data of the presets. To add a host, find the group that it belongs to.
// A pattern with a wildcard must be of a domain whose owner alone decides what
// stands below it and where nobody else can receive what is sent: never the
// whole of a cloud (amazonaws.com, googleapis.com, cloudfront.net,
// azureedge.net, blob.core.windows.net, ...), of which single hosts, or single
// paths to be read, are named instead.

// Ports of the web, and of hosts that also serve Git by SSH.
const (
	web    = "80,443"
	webSSH = "22,80,443"
)

// everything is what `open` allows; private addresses and the like stay closed
// whatever a preset says.
var everything = []group{
	{places: "** 0.0.0.0/0 ::/0"},
}

// resolvers are denied by every preset: a guest that asks somebody else for
// names goes past the names that it is judged by, and tunnels through the
// questions. The list follows what public lists of DNS over HTTPS and TLS have.
var resolvers = []group{
	// DNS in plain by TCP, and DNS over TLS or QUIC, wherever it is.
	{places: "** 0.0.0.0/0 ::/0", ports: "53,853"},
	// Large public resolvers.
	{places: `
		dns.google dns64.dns.google dns.google.com 8888.google
		cloudflare-dns.com **.cloudflare-dns.com one.one.one.one cloudflare-gateway.com **.cloudflare-gateway.com
		quad9.net **.quad9.net
		dns.opendns.com doh.opendns.com doh.familyshield.opendns.com doh.sandbox.opendns.com
		doh.umbrella.com dns.umbrella.com
		dns.nextdns.io **.dns.nextdns.io doh.nextdns.io dns1.nextdns.io dns2.nextdns.io
		dns.adguard.com **.dns.adguard.com dns-family.adguard.com dns-unfiltered.adguard.com
		**.adguard-dns.com
		dns.mullvad.net **.dns.mullvad.net doh.mullvad.net adblock.doh.mullvad.net dot.mullvad.net
		dns.controld.com **.dns.controld.com freedns.controld.com **.freedns.controld.com
		**.cleanbrowsing.org
		dns0.eu **.dns0.eu dns4eu.online **.dns4eu.online **.joindns4.eu
		dns.alidns.com doh.pub dot.pub dns.pub sm2.doh.pub doh.360.cn dot.360.cn dns.twnic.tw
	`},
	// Smaller ones.
	{places: `
		dns.sb doh.sb dot.sb doh.dns.sb dns.switch.ch dns.digitale-gesellschaft.ch dnsforge.de **.dnsforge.de
		doh.applied-privacy.net dot1.applied-privacy.net doh.ffmuc.net dot.ffmuc.net doh.libredns.gr dot.libredns.gr
		doh.li doh.crypto.sx doh.powerdns.org doh.seby.io doh.dnslify.com doh.tiar.app doh.tiarap.org jp.tiar.app jp.tiarap.org
		dns.hostux.net dns.njal.la dns.comss.one dns.east.comss.one dns.aa.net.uk ordns.he.net odvr.nic.cz
		dnspub.restena.lu kaitain.restena.lu dns.decloudus.com dns.rubyfish.cn rubyfish.cn public.dns.iij.jp
		doh.xfinity.com dot.xfinity.com doh.cox.net dns.cfiec.net dns.bebasid.com dns.brahma.world
		wikimedia-dns.org **.wikimedia-dns.org **.dns.nixnet.xyz **.ahadns.net **.pi-dns.com **.blahdns.com
		dns.artikel10.org dns.oszx.co dns.pumplex.com dns.dnshome.de dns.dnswarden.com dns.telekom.de
		unicast.censurfridns.dk anycast.censurfridns.dk deic-lgb.anycast.censurfridns.dk
		resolver-eu.lelux.fi doh.armadillodns.net commons.host dns.containerpi.com dns.flatuslifir.is
		doh.bortzmeyer.fr dot.bortzmeyer.fr doh.captnemo.in doh.lv dns.tiar.app v.recipes **.v.recipes
		doh.safesurfer.io dns.surfsharkdns.com dns.windscribe.com **.windscribe.rocks
	`},
	// Discovery of such resolvers (RFC 9462, and Firefox's and Apple's ways).
	{places: `
		resolver.arpa **.resolver.arpa use-application-dns.net
		mask.icloud.com mask-h2.icloud.com mask-api.icloud.com doh.dns.apple.com **.doh.dns.apple.com
	`},
	// The same by address, where a preset allows addresses at all.
	{places: `
		1.1.1.1 1.0.0.1 1.1.1.2 1.0.0.2 1.1.1.3 1.0.0.3 162.159.36.1 162.159.46.1
		8.8.8.8 8.8.4.4 9.9.9.9 9.9.9.10 9.9.9.11 149.112.112.112 149.112.112.10 149.112.112.11
		208.67.222.222 208.67.220.220 208.67.222.123 208.67.220.123 146.112.41.2 146.112.41.3
		94.140.14.14 94.140.15.15 94.140.14.15 94.140.15.16 94.140.14.140 94.140.14.141
		45.90.28.0/24 45.90.30.0/24 76.76.2.0/24 76.76.10.0/24 185.228.168.0/24 185.228.169.0/24
		194.242.2.0/24 193.110.81.0/24 185.253.5.0/24 223.5.5.5 223.6.6.6 119.29.29.29 1.12.12.12 120.53.53.53
		2606:4700:4700::/48 2001:4860:4860::/48 2620:fe::/48 2620:119:35::35 2620:119:53::53
		2a10:50c0::/32 2a07:a8c0::/32 2a07:a8c1::/32 2606:1a40::/48 2606:1a40:1::/48 2a07:e340::/48 2400:3200::/48
	`},
}

// models are the APIs, and the sign-in, of those who provide language models.
var models = []group{
	// Anthropic: API, sign-in of Claude Code, its feature flags and its docs.
	{ports: web, places: `
		anthropic.com *.anthropic.com claude.ai *.claude.ai claude.com *.claude.com
	`},
	// OpenAI and ChatGPT, which Codex signs in with.
	{ports: web, places: `
		openai.com *.openai.com *.api.openai.com chatgpt.com *.chatgpt.com *.oaistatic.com
	`},
	// Google: Gemini's API, Code Assist, sign-in.
	{ports: web, places: `
		generativelanguage.googleapis.com cloudcode-pa.googleapis.com daily-cloudcode-pa.googleapis.com
		aistudio.google.com ai.google.dev gemini.google.com accounts.google.com oauth2.googleapis.com
		oauthaccountmanager.googleapis.com iamcredentials.googleapis.com sts.googleapis.com
		cloudresourcemanager.googleapis.com serviceusage.googleapis.com play.googleapis.com
	`},
	// Who one is signed in as; the rest of that host is Drive, storage and more.
	{ports: "443", places: "www.googleapis.com", methods: "GET HEAD", paths: "/oauth2/**"},
	// Google's Vertex AI, which has a host for each region.
	{ports: web, places: `
		aiplatform.googleapis.com *.aiplatform.googleapis.com {REGION}-aiplatform.googleapis.com
		aiplatform.us.rep.googleapis.com aiplatform.eu.rep.googleapis.com
	`, regions: `
		us us-central1 us-east1 us-east4 us-east5 us-south1 us-west1 us-west2 us-west3 us-west4
		northamerica-northeast1 northamerica-northeast2 southamerica-east1 southamerica-west1
		eu europe-central2 europe-north1 europe-southwest1 europe-west1 europe-west2 europe-west3 europe-west4
		europe-west6 europe-west8 europe-west9 europe-west12
		asia-east1 asia-east2 asia-northeast1 asia-northeast2 asia-northeast3 asia-south1 asia-south2
		asia-southeast1 asia-southeast2 australia-southeast1 australia-southeast2
		me-central1 me-central2 me-west1 africa-south1
	`},
	// GitHub Copilot (github.com itself is a code host).
	{ports: web, places: `
		githubcopilot.com **.githubcopilot.com
		default.exp-tas.com
	`},
	// AWS Bedrock: its model APIs, and the tokens to sign requests with.
	{ports: web, places: `
		bedrock.{REGION}.amazonaws.com bedrock-runtime.{REGION}.amazonaws.com bedrock-mantle.{REGION}.api.aws
		sts.{REGION}.amazonaws.com sts.amazonaws.com oidc.{REGION}.amazonaws.com portal.sso.{REGION}.amazonaws.com
	`, regions: `
		us-east-1 us-east-2 us-west-1 us-west-2 ca-central-1 ca-west-1 mx-central-1 sa-east-1
		eu-central-1 eu-central-2 eu-north-1 eu-south-1 eu-south-2 eu-west-1 eu-west-2 eu-west-3
		ap-east-1 ap-east-2 ap-northeast-1 ap-northeast-2 ap-northeast-3 ap-south-1 ap-south-2
		ap-southeast-1 ap-southeast-2 ap-southeast-3 ap-southeast-4 ap-southeast-5 ap-southeast-7
		af-south-1 il-central-1 me-central-1 me-south-1 us-gov-east-1 us-gov-west-1
	`},
	// Azure OpenAI and AI Foundry: one host for each resource; and sign-in.
	{ports: web, places: `
		*.openai.azure.com *.services.ai.azure.com *.cognitiveservices.azure.com models.inference.ai.azure.com
		login.microsoftonline.com
	`},
	// Others.
	{ports: web, places: `
		x.ai *.x.ai grok.com *.grok.com
		mistral.ai *.mistral.ai
		groq.com *.groq.com
		openrouter.ai *.openrouter.ai
		deepseek.com *.deepseek.com
		together.ai *.together.ai together.xyz *.together.xyz
		fireworks.ai *.fireworks.ai
		cohere.com *.cohere.com cohere.ai *.cohere.ai
		perplexity.ai *.perplexity.ai
		cerebras.ai *.cerebras.ai api.sambanova.ai cloud.sambanova.ai api.deepinfra.com api.replicate.com
		api.moonshot.ai api.moonshot.cn api.kimi.com api.z.ai open.bigmodel.cn api.minimax.io api.minimaxi.com
		dashscope.aliyuncs.com dashscope-intl.aliyuncs.com portal.qwen.ai chat.qwen.ai
		integrate.api.nvidia.com api.novita.ai api.studio.nebius.com api.tokenfactory.nebius.com
		api.voyageai.com api.jina.ai api.morphllm.com ollama.com *.ollama.com registry.ollama.ai
		ai-gateway.vercel.sh gateway.ai.cloudflare.com
	`},
	// Hugging Face: hub, inference, and where its files lie.
	{ports: web, places: "huggingface.co **.huggingface.co hf.co **.hf.co"},
	// OpenCode, and the catalogue of models that it and others read.
	{ports: web, places: "models.dev *.models.dev opencode.ai *.opencode.ai"},
	// Other agents' own services.
	{ports: web, places: `
		cursor.com *.cursor.com cursor.sh **.cursor.sh ampcode.com *.ampcode.com
		cline.bot *.cline.bot kilo.ai *.kilo.ai kilocode.ai *.kilocode.ai
		factory.ai *.factory.ai api.augmentcode.com *.api.augmentcode.com aider.chat
		modelcontextprotocol.io *.modelcontextprotocol.io
	`},
}

// codeHosts also serve Git by SSH.
var codeHosts = []group{
	// GitHub: Git, API, releases, raw files, packages, Actions' logs.
	{ports: webSSH, places: "github.com **.github.com"},
	{ports: web, places: "**.githubusercontent.com *.githubassets.com ghcr.io *.ghcr.io git.io github-cloud.s3.amazonaws.com"},
	// GitLab.
	{ports: webSSH, places: "gitlab.com *.gitlab.com"},
	{ports: web, places: "*.gitlab-static.net"},
	// Bitbucket.
	{ports: webSSH, places: "bitbucket.org *.bitbucket.org"},
	// Codeberg, sourcehut, and homes of well-known projects.
	{ports: webSSH, places: `
		codeberg.org *.codeberg.org sr.ht *.sr.ht
		git.kernel.org gitlab.freedesktop.org gitlab.gnome.org gitlab.archlinux.org salsa.debian.org invent.kde.org
		git.savannah.gnu.org git.savannah.nongnu.org sourceware.org gcc.gnu.org git.launchpad.net git.code.sf.net
		gitea.com ssh.dev.azure.com vs-ssh.visualstudio.com
	`},
	{ports: web, places: `
		dev.azure.com cdn.kernel.org www.kernel.org mirrors.edge.kernel.org
		ftp.gnu.org ftpmirror.gnu.org savannah.gnu.org download.savannah.gnu.org download.savannah.nongnu.org
		sourceforge.net *.sourceforge.net *.dl.sourceforge.net
		chromium.googlesource.com android.googlesource.com go.googlesource.com boringssl.googlesource.com
	`},
}

// packages are the registries of languages.
var packages = []group{
	// JavaScript: npm, Yarn, pnpm, JSR, Deno, Bun, and CDNs of packages.
	{ports: web, places: `
		npmjs.org *.npmjs.org npmjs.com *.npmjs.com yarnpkg.com *.yarnpkg.com pnpm.io *.pnpm.io
		jsr.io *.jsr.io deno.land *.deno.land deno.com *.deno.com esm.sh bun.sh *.bun.sh bun.com *.bun.com
		unpkg.com cdn.jsdelivr.net data.jsdelivr.com cdnjs.cloudflare.com
	`},
	// Python: PyPI, conda, and what pip's wheels of PyTorch come from.
	{ports: web, places: `
		pypi.org *.pypi.org pypi.io pythonhosted.org *.pythonhosted.org bootstrap.pypa.io pypa.io www.pypa.io
		anaconda.org *.anaconda.org anaconda.com *.anaconda.com *.conda.io prefix.dev *.prefix.dev
		astral.sh *.astral.sh download.pytorch.org download-r2.pytorch.org pypi.nvidia.com
		install.python-poetry.org python-poetry.org
	`},
	// Ruby.
	{ports: web, places: "rubygems.org *.rubygems.org ruby-lang.org *.ruby-lang.org bundler.io"},
	// Rust.
	{ports: web, places: "crates.io *.crates.io rust-lang.org *.rust-lang.org rustup.rs *.rustup.rs docs.rs"},
	// Go. Its proxy sends clients on to a bucket for what is large.
	{ports: web, places: `
		golang.org *.golang.org go.dev *.go.dev
		gopkg.in go.uber.org k8s.io *.k8s.io rsc.io gotest.tools
		gvisor.dev go.opentelemetry.io go.etcd.io modernc.org filippo.io honnef.co mvdan.cc
	`},
	{ports: "443", places: "storage.googleapis.com", methods: "GET HEAD", paths: "/proxy-golang-org-prod/**"},
	// JVM: Maven, Gradle, Kotlin, Scala, Spring, Clojure.
	{ports: web, places: `
		repo.maven.apache.org repo1.maven.org repo2.maven.org central.sonatype.com *.central.sonatype.com search.maven.org
		oss.sonatype.org s01.oss.sonatype.org maven.apache.org repository.apache.org
		archive.apache.org dlcdn.apache.org downloads.apache.org
		maven.google.com dl.google.com jcenter.bintray.com jitpack.io
		gradle.org *.gradle.org gradle.com *.gradle.com *.gradle-dn.com
		kotlinlang.org *.kotlinlang.org repo.spring.io start.spring.io spring.io
		repo.scala-sbt.org scala-sbt.org repo.typesafe.com scala-lang.org *.scala-lang.org
		repo.clojars.org clojars.org download.clojure.org clojure.org
		maven.pkg.jetbrains.space cache-redirector.jetbrains.com packages.jetbrains.team
		packages.confluent.io repo.jenkins-ci.org repo.eclipse.org download.eclipse.org
	`},
	// .NET.
	{ports: web, places: `
		nuget.org *.nuget.org dot.net *.dot.net dotnet.microsoft.com builds.dotnet.microsoft.com
		dotnetcli.azureedge.net dotnetbuilds.azureedge.net dotnetcli.blob.core.windows.net
	`},
	// PHP.
	{ports: web, places: "packagist.org *.packagist.org packagist.com getcomposer.org *.getcomposer.org php.net *.php.net"},
	// Erlang and Elixir.
	{ports: web, places: "hex.pm *.hex.pm elixir-lang.org *.elixir-lang.org erlang.org *.erlang.org"},
	// Dart and Flutter, whose files lie in buckets.
	{ports: web, places: "pub.dev *.pub.dev dart.dev *.dart.dev flutter.dev *.flutter.dev pub.dartlang.org"},
	{ports: "443", places: "storage.googleapis.com", methods: "GET HEAD",
		paths: "/pub-packages/** /dart-archive/** /flutter_infra_release/** /download.flutter.io/**"},
	// Perl.
	{ports: web, places: "cpan.org *.cpan.org metacpan.org *.metacpan.org cpanmin.us perl.org *.perl.org"},
	// R and Bioconductor.
	{ports: web, places: `
		*.r-project.org cran.rstudio.com packagemanager.posit.co
		bioconductor.org *.bioconductor.org
	`},
	// Haskell.
	{ports: web, places: `
		*.haskell.org haskell.org haskellstack.org *.haskellstack.org stackage.org *.stackage.org
	`},
	// OCaml, Julia, Lua, Nim, Zig, Crystal, Swift, CocoaPods.
	{ports: web, places: `
		ocaml.org *.ocaml.org julialang.org *.julialang.org
		luarocks.org *.luarocks.org lua.org www.lua.org nim-lang.org *.nim-lang.org ziglang.org *.ziglang.org
		crystal-lang.org *.crystal-lang.org swift.org *.swift.org cocoapods.org *.cocoapods.org
	`},
	// C and C++.
	{ports: web, places: `
		conan.io *.conan.io vcpkg.io *.vcpkg.io bcr.bazel.build mirror.bazel.build
		releases.bazel.build bazel.build cmake.org *.cmake.org archives.boost.io www.boost.org
		llvm.org *.llvm.org
	`},
	// Nix and Guix.
	{ports: web, places: `
		nixos.org *.nixos.org nix.dev *.cachix.org install.determinate.systems cache.flakehub.com
		guix.gnu.org ci.guix.gnu.org bordeaux.guix.gnu.org
	`},
	// Homebrew (its bottles lie in GHCR).
	{ports: web, places: "brew.sh *.brew.sh"},
}

// containers are the registries of container images, and where those send
// clients on to for layers.
var containers = []group{
	// Docker Hub, its tokens, its layers, and Docker's own packages.
	{ports: web, places: `
		docker.io *.docker.io docker.com *.docker.com *.cdn.docker.com
		production.cloudflare.docker.com production.cloudfront.docker.com
		docker-images-prod.6aa30f8b08e16409b46e0173d6de2f56.r2.cloudflarestorage.com
	`},
	// Quay.
	{ports: web, places: "quay.io *.quay.io"},
	// Google: Container Registry, Artifact Registry (REGION-docker.pkg.dev).
	{ports: web, places: "gcr.io *.gcr.io *.pkg.dev"},
	// Kubernetes, whose registry has a bucket in each region of AWS.
	{ports: web, places: `
		cdn.dl.k8s.io prod-cdn.packages.k8s.io
		prod-registry-k8s-io-{REGION}.s3.dualstack.{REGION}.amazonaws.com
	`, regions: `
		us-east-1 us-east-2 us-west-1 us-west-2 eu-central-1 eu-west-1 eu-west-2 ap-northeast-1 ap-south-1 ap-southeast-1
	`},
	// Microsoft: registry, and its layers by region.
	{ports: web, places: "mcr.microsoft.com *.mcr.microsoft.com *.data.mcr.microsoft.com"},
	// AWS: the public registry, with its two CDN hosts.
	{ports: web, places: `
		public.ecr.aws ecr-public.aws.com ecr-public.us-east-1.api.aws api.ecr-public.us-east-1.amazonaws.com
		d5l0dvt14r5h8.cloudfront.net d2glxqk2uabbnd.cloudfront.net
	`},
	// Red Hat, NVIDIA, GitLab, Elastic, Chainguard.
	{ports: web, places: `
		registry.access.redhat.com registry.redhat.io nvcr.io *.nvcr.io docker.elastic.co
		cgr.dev *.cgr.dev
	`},
}

// archives are those of operating systems.
var archives = []group{
	// Debian.
	{ports: web, places: "debian.org **.debian.org debian.net *.debian.net"},
	// Ubuntu, and packages in Launchpad.
	{ports: web, places: `
		ubuntu.com *.ubuntu.com *.archive.ubuntu.com *.clouds.archive.ubuntu.com
		launchpad.net *.launchpad.net *.launchpadcontent.net
		api.snapcraft.io *.snapcraftcontent.com
	`},
	// Alpine.
	{ports: web, places: "alpinelinux.org *.alpinelinux.org"},
	// Fedora, EPEL, CentOS, Rocky, AlmaLinux, Red Hat.
	{ports: web, places: `
		fedoraproject.org **.fedoraproject.org rpmfusion.org *.rpmfusion.org
		centos.org **.centos.org rockylinux.org *.rockylinux.org almalinux.org *.almalinux.org
		cdn-ubi.redhat.com cdn.redhat.com subscription.rhsm.redhat.com
	`},
	// Arch.
	{ports: web, places: "archlinux.org *.archlinux.org *.mirror.pkgbuild.com archlinuxarm.org *.archlinuxarm.org"},
	// openSUSE, Amazon Linux, Void, Gentoo, Wolfi.
	{ports: web, places: `
		opensuse.org *.opensuse.org cdn.amazonlinux.com
		*.voidlinux.org *.gentoo.org
		packages.wolfi.dev
	`},
	// Mirrors that serve many distributions and languages.
	{ports: web, places: `
		mirrors.kernel.org mirror.leaseweb.com ftp.halifax.rwth-aachen.de mirrors.mit.edu mirrors.ocf.berkeley.edu
		ftp.fau.de mirror.init7.net mirrors.dotsrc.org mirrors.xtom.com
	`},
}

// tools are what languages and tools are downloaded from and managed with.
var tools = []group{
	// Languages.
	{ports: web, places: `
		nodejs.org *.nodejs.org nodesource.com *.nodesource.com python.org *.python.org
		sdkman.io *.sdkman.io adoptium.net *.adoptium.net openjdk.org *.openjdk.org jdk.java.net download.java.net
		download.oracle.com corretto.aws *.corretto.aws cdn.azul.com api.azul.com download.bell-sw.com
		mise.run *.jdx.dev asdf-vm.com get.volta.sh volta.sh fnm.vercel.app
	`},
	// Browsers for tests: Playwright, Puppeteer, Selenium, Cypress, Electron.
	{ports: web, places: `
		playwright.dev cdn.playwright.dev playwright.azureedge.net playwright-akamai.azureedge.net
		playwright-verizon.azureedge.net playwright.download.prss.microsoft.com playwright-cdn.azureedge.net
		googlechromelabs.github.io chromedriver.storage.googleapis.com
		download.cypress.io cdn.cypress.io download.mozilla.org download-installer.cdn.mozilla.net
		archive.mozilla.org ftp.mozilla.org product-details.mozilla.org
		msedgedriver.microsoft.com msedgedriver.azureedge.net electronjs.org *.electronjs.org
	`},
	{ports: "443", places: "storage.googleapis.com", methods: "GET HEAD",
		paths: "/chrome-for-testing-public/** /chromium-browser-snapshots/** /chromium-browser-official/** /kubernetes-release/**"},
	// Editors: VS Code, its marketplace and its server; Open VSX; JetBrains.
	{ports: web, places: `
		code.visualstudio.com *.code.visualstudio.com marketplace.visualstudio.com *.vscode-cdn.net
		*.gallery.vsassets.io *.gallerycdn.vsassets.io vscode.download.prss.microsoft.com vscode.dev
		open-vsx.org *.open-vsx.org openvsx.eclipsecontent.org
		download.jetbrains.com download-cf.jetbrains.com plugins.jetbrains.com downloads.marketplace.jetbrains.com
		data.services.jetbrains.com zed.dev *.zed.dev
	`},
	// Microsoft's packages for Linux, and short links in its instructions.
	{ports: web, places: "packages.microsoft.com aka.ms download.visualstudio.microsoft.com azurecliprod.blob.core.windows.net"},
	// Infrastructure: HashiCorp, Helm, Google Cloud's and AWS's command lines.
	{ports: web, places: `
		releases.hashicorp.com *.releases.hashicorp.com registry.terraform.io checkpoint-api.hashicorp.com
		registry.opentofu.org get.opentofu.org packages.opentofu.org get.pulumi.com api.pulumi.com
		get.helm.sh helm.sh charts.helm.sh artifacthub.io packages.cloud.google.com sdk.cloud.google.com
		awscli.amazonaws.com
	`},
	// Databases and services that are installed from their own archives.
	{ports: web, places: `
		apt.postgresql.org download.postgresql.org ftp.postgresql.org www.postgresql.org packages.redis.io download.redis.io
		repo.mysql.com dev.mysql.com cdn.mysql.com deb.mariadb.org downloads.mariadb.org archive.mariadb.org
		repo.mongodb.org downloads.mongodb.org fastdl.mongodb.org pgp.mongodb.com artifacts.elastic.co
		packages.grafana.com apt.grafana.com nginx.org *.nginx.org sqlite.org www.sqlite.org
		developer.download.nvidia.com packagecloud.io dl.cloudsmith.io
		repo.saltproject.io
	`},
	// Keys and certificates that installers check.
	{ports: web, places: `
		keys.openpgp.org pgp.mit.edu
		fulcio.sigstore.dev rekor.sigstore.dev tuf-repo-cdn.sigstore.dev
		acme-v02.api.letsencrypt.org *.lencr.org ocsp.digicert.com *.ocsp.digicert.com crl3.digicert.com crl4.digicert.com
	`},
	// Data that build tools of the web fetch: browserslist, fonts, schemas.
	{ports: web, places: `
		fonts.googleapis.com fonts.gstatic.com json.schemastore.org www.schemastore.org json-schema.org
		nextjs.org registry.nextjs.org binaries.prisma.sh binaries.prismacdn.com telemetry.nextjs.org
	`},
	// Documentation that agents read.
	{ports: web, places: `
		developer.mozilla.org learn.microsoft.com docs.aws.amazon.com cloud.google.com kubernetes.io
		*.readthedocs.io readthedocs.org react.dev vuejs.org *.vuejs.org angular.dev svelte.dev vite.dev vitejs.dev
		tailwindcss.com typescriptlang.org www.typescriptlang.org en.cppreference.com stackoverflow.com
		www.ietf.org datatracker.ietf.org www.rfc-editor.org www.w3.org
	`},
}
