package service

import (
	"slices"
	"strings"
	"sync"
)

// row is a service as the table has it.
type row struct {
	name, title string
	hosts       string // separated by white space; {REGION} stands for each of regions
	regions     string
	schemes     []Scheme
	vars        string
	env         []Var
	shape       Shape
	base        string
	auto        bool // bound when the user's shell has it
	quotes      bool
}

// Schemes that several rows share.
var (
	bearer  = Scheme{Kind: Bearer}
	basic   = Scheme{Kind: Basic, Format: "*:{}"} // the credential is a password, whoever the user is
	asUser  = Scheme{Kind: Basic, Format: "{}:*"} // the credential is the user
	bare    = header("Authorization", "{}")
	word    = header("Authorization", "token {}")
	xAPIKey = header("X-Api-Key", "{}")
)

func header(name, format string) Scheme { return Scheme{Kind: Header, Name: name, Format: format} }
func query(name string) Scheme          { return Scheme{Kind: Query, Name: name} }

// Regions of AWS and of Google, as package policy has them for its presets.
const (
	awsRegions = `
		us-east-1 us-east-2 us-west-1 us-west-2 ca-central-1 ca-west-1 mx-central-1 sa-east-1
		eu-central-1 eu-central-2 eu-north-1 eu-south-1 eu-south-2 eu-west-1 eu-west-2 eu-west-3
		ap-east-1 ap-east-2 ap-northeast-1 ap-northeast-2 ap-northeast-3 ap-south-1 ap-south-2
		ap-southeast-1 ap-southeast-2 ap-southeast-3 ap-southeast-4 ap-southeast-5 ap-southeast-7
		af-south-1 il-central-1 me-central-1 me-south-1 us-gov-east-1 us-gov-west-1`
	googleRegions = `
		us us-central1 us-east1 us-east4 us-east5 us-south1 us-west1 us-west2 us-west3 us-west4
		northamerica-northeast1 northamerica-northeast2 southamerica-east1 southamerica-west1
		eu europe-central2 europe-north1 europe-southwest1 europe-west1 europe-west2 europe-west3 europe-west4
		europe-west6 europe-west8 europe-west9 europe-west12
		asia-east1 asia-east2 asia-northeast1 asia-northeast2 asia-northeast3 asia-south1 asia-south2
		asia-southeast1 asia-southeast2 australia-southeast1 australia-southeast2
		me-central1 me-central2 me-west1 africa-south1`
)

// model is a provider of language models with a key that is a bearer's.
func model(name, title, hosts, vars string, shape Shape, more ...Scheme) row {
	return row{name: name, title: title, hosts: hosts, vars: vars, shape: shape,
		schemes: append([]Scheme{bearer}, more...), auto: true, quotes: true}
}

// tool is a service that a user has to ask for: that its token is in the shell
// says nothing about whether the sandbox's work needs it.
func tool(name, title, hosts, vars string, shape Shape, schemes ...Scheme) row {
	if len(schemes) == 0 {
		schemes = []Scheme{bearer}
	}
	return row{name: name, title: title, hosts: hosts, vars: vars, shape: shape, schemes: schemes}
}

func shape(prefix string, length int) Shape { return Shape{Prefix: prefix, Length: length} }

// table is the built-in services. Where a form is known from documents its
// length is that of real keys, or the least that a placeholder can have.
var table = []row{
	// The agents' providers.
	{
		name: "anthropic", title: "Anthropic API", hosts: "api.anthropic.com", vars: "ANTHROPIC_API_KEY", base: "ANTHROPIC_BASE_URL",
		// Its OpenAI-compatible endpoint takes the key as a bearer.
		schemes: []Scheme{xAPIKey, bearer}, auto: true, quotes: true,
		shape: Shape{Prefix: "sk-ant-api03-", Suffix: "AA", Length: 108},
	},
	{
		name: "anthropic-token", title: "Anthropic API, by a gateway's token", hosts: "api.anthropic.com", vars: "ANTHROPIC_AUTH_TOKEN",
		base: "ANTHROPIC_BASE_URL", schemes: []Scheme{bearer}, auto: true, quotes: true, shape: shape("sk-", 51),
	},
	{
		// The last is where Claude Code reaches remote MCP servers.
		name: "claude", title: "Claude, by subscription", hosts: "api.anthropic.com mcp-proxy.anthropic.com", vars: "CLAUDE_CODE_OAUTH_TOKEN",
		schemes: []Scheme{bearer}, auto: true, quotes: true,
		shape: Shape{Prefix: "sk-ant-oat01-", Suffix: "AA", Length: 108},
	},
	{
		// Below api.openai.com are its regions.
		name: "openai", title: "OpenAI API", hosts: "api.openai.com *.api.openai.com", vars: "OPENAI_API_KEY CODEX_API_KEY",
		base: "OPENAI_BASE_URL", schemes: []Scheme{bearer}, auto: true, quotes: true, shape: shape("sk-proj-", 164),
	},
	{
		name: "gemini", title: "Gemini API", vars: "GEMINI_API_KEY GOOGLE_API_KEY GOOGLE_GENERATIVE_AI_API_KEY", base: "GOOGLE_GEMINI_BASE_URL",
		hosts: `generativelanguage.googleapis.com aiplatform.googleapis.com *.aiplatform.googleapis.com {REGION}-aiplatform.googleapis.com
			aiplatform.us.rep.googleapis.com aiplatform.eu.rep.googleapis.com`, regions: googleRegions,
		// Its OpenAI-compatible endpoint takes the key as a bearer.
		schemes: []Scheme{header("X-Goog-Api-Key", "{}"), query("key"), bearer}, auto: true, quotes: true, shape: shape("AIza", 39),
	},
	model("xai", "xAI", "api.x.ai *.api.x.ai", "XAI_API_KEY GROK_API_KEY", shape("xai-", 84), xAPIKey),
	model("mistral", "Mistral", "api.mistral.ai", "MISTRAL_API_KEY", shape("", 32)),
	model("codestral", "Mistral's Codestral", "codestral.mistral.ai", "CODESTRAL_API_KEY", shape("", 32)),
	model("groq", "Groq", "api.groq.com", "GROQ_API_KEY", shape("gsk_", 56)),
	model("openrouter", "OpenRouter", "openrouter.ai", "OPENROUTER_API_KEY", Shape{Prefix: "sk-or-v1-", Length: 73, Alphabet: Hex}, xAPIKey),
	model("deepseek", "DeepSeek", "api.deepseek.com", "DEEPSEEK_API_KEY", Shape{Prefix: "sk-", Length: 35, Alphabet: Lower}, xAPIKey),
	model("cohere", "Cohere", "api.cohere.com api.cohere.ai", "COHERE_API_KEY CO_API_KEY", shape("", 40)),
	model("together", "Together AI", "api.together.ai api.together.xyz", "TOGETHER_API_KEY TOGETHERAI_API_KEY TOGETHER_AI_API_KEY",
		Shape{Length: 64, Alphabet: Hex}),
	model("fireworks", "Fireworks AI", "api.fireworks.ai", "FIREWORKS_API_KEY FIREWORKS_AI_API_KEY", shape("fw_", 35)),
	model("perplexity", "Perplexity", "api.perplexity.ai", "PERPLEXITY_API_KEY PPLX_API_KEY PERPLEXITYAI_API_KEY", shape("pplx-", 53)),
	model("cerebras", "Cerebras", "api.cerebras.ai", "CEREBRAS_API_KEY", Shape{Prefix: "csk-", Length: 52, Alphabet: Lower}),
	model("sambanova", "SambaNova", "api.sambanova.ai", "SAMBANOVA_API_KEY", Shape{Length: 36, Alphabet: Lower}),
	model("deepinfra", "DeepInfra", "api.deepinfra.com", "DEEPINFRA_API_KEY DEEPINFRA_TOKEN", shape("", 32)),
	model("replicate", "Replicate", "api.replicate.com", "REPLICATE_API_TOKEN", shape("r8_", 40), word),
	model("moonshot", "Moonshot AI", "api.moonshot.ai api.moonshot.cn", "MOONSHOT_API_KEY", shape("sk-", 51), xAPIKey),
	model("kimi", "Kimi", "api.kimi.com", "KIMI_API_KEY", shape("sk-kimi-", 72), xAPIKey),
	model("zai", "Z.ai", "api.z.ai open.bigmodel.cn", "ZAI_API_KEY Z_AI_API_KEY ZHIPU_API_KEY ZHIPUAI_API_KEY", shape("", 49), xAPIKey),
	model("minimax", "MiniMax", "api.minimax.io api.minimaxi.com", "MINIMAX_API_KEY", shape("sk-", 128), xAPIKey),
	model("dashscope", "Alibaba Model Studio", "dashscope.aliyuncs.com dashscope-intl.aliyuncs.com", "DASHSCOPE_API_KEY",
		Shape{Prefix: "sk-", Length: 35, Alphabet: Lower}, xAPIKey),
	model("nvidia", "NVIDIA", "integrate.api.nvidia.com", "NVIDIA_API_KEY", shape("nvapi-", 70)),
	model("novita", "Novita AI", "api.novita.ai", "NOVITA_API_KEY", shape("sk_", 46)),
	model("nebius", "Nebius", "api.studio.nebius.com api.tokenfactory.nebius.com", "NEBIUS_API_KEY", shape("", 64)),
	model("voyage", "Voyage AI", "api.voyageai.com", "VOYAGE_API_KEY", shape("pa-", 46)),
	model("jina", "Jina AI", "api.jina.ai r.jina.ai s.jina.ai", "JINA_API_KEY", shape("jina_", 65)),
	model("ollama", "Ollama", "ollama.com", "OLLAMA_API_KEY", shape("", 57)),
	model("vercel-gateway", "Vercel AI Gateway", "ai-gateway.vercel.sh", "AI_GATEWAY_API_KEY", shape("vck_", 60), xAPIKey),
	model("opencode", "OpenCode Zen", "opencode.ai *.opencode.ai", "OPENCODE_API_KEY", shape("sk-", 67), xAPIKey, header("X-Goog-Api-Key", "{}")),
	model("cursor", "Cursor", "api.cursor.com api2.cursor.sh", "CURSOR_API_KEY", Shape{Prefix: "key_", Length: 68, Alphabet: Hex}),
	model("amp", "Amp", "ampcode.com", "AMP_API_KEY", shape("sgamp_", 70)),
	model("huggingface", "Hugging Face", "huggingface.co *.huggingface.co", "HF_TOKEN HUGGING_FACE_HUB_TOKEN HUGGINGFACE_API_KEY",
		shape("hf_", 37), basic),
	{
		// Names of Bedrock alone: below amazonaws.com everybody has hosts.
		name: "bedrock", title: "Amazon Bedrock, by an API key", vars: "AWS_BEARER_TOKEN_BEDROCK",
		hosts: `bedrock.{REGION}.amazonaws.com bedrock-runtime.{REGION}.amazonaws.com bedrock-agent-runtime.{REGION}.amazonaws.com
			bedrock-mantle.{REGION}.api.aws`, regions: awsRegions,
		schemes: []Scheme{bearer, xAPIKey}, auto: true, quotes: true, shape: shape("ABSK", 132),
	},

	// Code.
	{
		name: "github", title: "GitHub", vars: "GH_TOKEN GITHUB_TOKEN COPILOT_GITHUB_TOKEN",
		hosts: `api.github.com github.com uploads.github.com codeload.github.com gist.github.com *.pkg.github.com ghcr.io
			raw.githubusercontent.com media.githubusercontent.com models.github.ai githubcopilot.com **.githubcopilot.com`,
		// ghcr.io's own tokens are the base64 of what one signs in with.
		schemes: []Scheme{bearer, word, basic, asUser, header("Authorization", "Bearer {base64}"), header("X-Nuget-Apikey", "{}")},
		// Of the forms that GitHub has, gh, Git and Copilot CLI all take this one.
		auto: true, shape: shape("gho_", 40),
	},
	{
		name: "gitlab", title: "GitLab", hosts: "gitlab.com *.gitlab.com", vars: "GITLAB_TOKEN GITLAB_ACCESS_TOKEN GL_TOKEN",
		schemes: []Scheme{header("Private-Token", "{}"), bearer, basic, query("private_token"), query("access_token")},
		auto:    true, shape: shape("glpat-", 38),
	},
	tool("bitbucket", "Bitbucket", "bitbucket.org api.bitbucket.org", "BITBUCKET_TOKEN BITBUCKET_ACCESS_TOKEN BITBUCKET_APP_PASSWORD",
		shape("ATCTT3xFfGN0", 192), bearer, basic),
	tool("codeberg", "Codeberg", "codeberg.org", "CODEBERG_TOKEN", Shape{Length: 40, Alphabet: Hex}, word, bearer, basic),
	tool("azure-devops", "Azure DevOps", "dev.azure.com pkgs.dev.azure.com vssps.dev.azure.com", "AZURE_DEVOPS_EXT_PAT", Shape{Length: 52, Alphabet: Lower}, basic, bearer),
	tool("sourcegraph", "Sourcegraph", "sourcegraph.com", "SRC_ACCESS_TOKEN", shape("sgp_", 61), word),

	// Packages. The patterns are those of the presets.
	{
		name: "npm", title: "npm", hosts: "*.npmjs.org", vars: "NPM_TOKEN NODE_AUTH_TOKEN NPM_AUTH_TOKEN",
		schemes: []Scheme{bearer, basic}, auto: true, shape: shape("npm_", 40),
	},
	tool("pypi", "PyPI", "pypi.org *.pypi.org", "PYPI_TOKEN PYPI_API_TOKEN UV_PUBLISH_TOKEN TWINE_PASSWORD FLIT_PASSWORD HATCH_INDEX_AUTH POETRY_PYPI_TOKEN_PYPI",
		shape("pypi-", 176), Scheme{Kind: Basic, Format: "__token__:{}"}, bearer),
	tool("crates", "crates.io", "crates.io *.crates.io", "CARGO_REGISTRY_TOKEN", shape("cio", 35), bare),
	tool("rubygems", "RubyGems", "rubygems.org", "GEM_HOST_API_KEY RUBYGEMS_API_KEY", Shape{Prefix: "rubygems_", Length: 57, Alphabet: Hex}, bare),
	tool("nuget", "NuGet", "*.nuget.org", "NUGET_API_KEY", Shape{Prefix: "oy2", Length: 46, Alphabet: Lower}, header("X-Nuget-Apikey", "{}")),
	tool("hex", "Hex", "hex.pm", "HEX_API_KEY", Shape{Length: 36, Alphabet: Hex}, bare),

	// Container registries. Signing in there has a token for a password, and the
	// answer is another token, which lives for minutes and is the guest's.
	tool("dockerhub", "Docker Hub", "docker.io *.docker.io hub.docker.com", "DOCKERHUB_TOKEN DOCKER_HUB_TOKEN DOCKER_TOKEN DOCKER_PASSWORD",
		shape("dckr_pat_", 41), basic),
	tool("quay", "Quay", "quay.io", "QUAY_TOKEN QUAY_PASSWORD", shape("", 64), basic, bearer),

	// Clouds.
	{
		// Hosts of anyone's are below these too; what they get is a signature,
		// which is good for that one request.
		name: "aws", title: "AWS", hosts: "**.amazonaws.com **.amazonaws.com.cn **.api.aws",
		vars: "AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN",
		// The real keys' session belongs to the signature; a guest's has none.
		env:     []Var{{"AWS_ACCESS_KEY_ID", "{id}"}, {"AWS_SECRET_ACCESS_KEY", "{}"}},
		schemes: []Scheme{{Kind: SigV4}}, auto: true, shape: shape("", 40),
	},
	tool("cloudflare", "Cloudflare", "api.cloudflare.com", "CLOUDFLARE_API_TOKEN CF_API_TOKEN", shape("", 40)),
	tool("digitalocean", "DigitalOcean", "api.digitalocean.com", "DIGITALOCEAN_ACCESS_TOKEN DIGITALOCEAN_TOKEN DIGITALOCEAN_API_TOKEN",
		Shape{Prefix: "dop_v1_", Length: 71, Alphabet: Hex}),
	tool("fly", "Fly.io", "api.fly.io api.machines.dev", "FLY_API_TOKEN FLY_ACCESS_TOKEN", shape("fo1_", 47), bearer, header("Authorization", "FlyV1 {}")),
	tool("heroku", "Heroku", "api.heroku.com", "HEROKU_API_KEY", shape("HRKU-", 65), bearer, basic),
	tool("hetzner", "Hetzner Cloud", "api.hetzner.cloud", "HCLOUD_TOKEN", shape("", 64)),
	tool("netlify", "Netlify", "api.netlify.com", "NETLIFY_AUTH_TOKEN", shape("nfp_", 40)),
	tool("render", "Render", "api.render.com", "RENDER_API_KEY", shape("rnd_", 36)),
	tool("supabase", "Supabase", "api.supabase.com", "SUPABASE_ACCESS_TOKEN", Shape{Prefix: "sbp_", Length: 44, Alphabet: Hex}),
	tool("vercel", "Vercel", "api.vercel.com vercel.com", "VERCEL_TOKEN VERCEL_API_TOKEN", shape("", 32)),
	tool("terraform", "HCP Terraform", "app.terraform.io", "TFE_TOKEN TF_TOKEN_app_terraform_io", shape("", 90)),
	tool("pulumi", "Pulumi", "api.pulumi.com", "PULUMI_ACCESS_TOKEN", Shape{Prefix: "pul-", Length: 44, Alphabet: Hex}, word),

	// What agents and their tools ask.
	tool("brave", "Brave Search", "api.search.brave.com", "BRAVE_API_KEY BRAVE_SEARCH_API_KEY", shape("BSA", 35), header("X-Subscription-Token", "{}")),
	tool("context7", "Context7", "context7.com mcp.context7.com", "CONTEXT7_API_KEY", shape("ctx7sk-", 43), bearer, header("Context7_api_key", "{}")),
	tool("elevenlabs", "ElevenLabs", "api.elevenlabs.io", "ELEVENLABS_API_KEY", Shape{Prefix: "sk_", Length: 51, Alphabet: Hex}, header("Xi-Api-Key", "{}")),
	tool("exa", "Exa", "api.exa.ai mcp.exa.ai", "EXA_API_KEY", Shape{Length: 36, Alphabet: Hex}, xAPIKey, bearer),
	tool("firecrawl", "Firecrawl", "api.firecrawl.dev", "FIRECRAWL_API_KEY", Shape{Prefix: "fc-", Length: 39, Alphabet: Hex}),
	tool("linear", "Linear", "api.linear.app mcp.linear.app", "LINEAR_API_KEY", shape("lin_api_", 48), bare, bearer),
	tool("notion", "Notion", "api.notion.com", "NOTION_TOKEN NOTION_API_KEY", shape("ntn_", 50)),
	tool("sentry", "Sentry", "sentry.io *.sentry.io", "SENTRY_AUTH_TOKEN", Shape{Prefix: "sntryu_", Length: 71, Alphabet: Hex}),
	tool("slack", "Slack", "slack.com", "SLACK_BOT_TOKEN SLACK_TOKEN", shape("xoxb-", 56)),
	tool("stripe", "Stripe", "api.stripe.com files.stripe.com", "STRIPE_API_KEY STRIPE_SECRET_KEY", shape("sk_test_", 107), bearer, asUser),
	tool("snyk", "Snyk", "api.snyk.io", "SNYK_TOKEN", Shape{Length: 36, Alphabet: Hex}, word, bearer),
	tool("tavily", "Tavily", "api.tavily.com mcp.tavily.com", "TAVILY_API_KEY", shape("tvly-", 41), bearer, query("tavilyApiKey")),
}

// builtin is the table, read once.
var builtin = sync.OnceValue(func() []Definition {
	list := make([]Definition, len(table))
	for i, r := range table {
		list[i] = r.definition()
	}
	return list
})

// definition panics on what is no definition: the table is part of the program,
// and a test reads all of it.
func (r row) definition() Definition {
	d := Definition{
		Name: r.name, Title: r.title, Schemes: r.schemes, Vars: strings.Fields(r.vars), Env: r.env,
		Shape: r.shape, BaseVar: r.base, Auto: r.auto, Quotes: r.quotes,
	}
	for _, text := range strings.Fields(r.hosts) {
		regions := []string{""}
		if strings.Contains(text, "{REGION}") {
			regions = strings.Fields(r.regions)
		}
		for _, region := range regions {
			p, err := ParsePlace(strings.ReplaceAll(text, "{REGION}", region))
			if err != nil {
				panic("service " + r.name + ": " + err.Error())
			}
			d.Hosts = append(d.Hosts, p)
		}
	}
	if err := d.Check(); err != nil {
		panic(err)
	}
	return d
}

// Builtin returns the built-in services, in the order of the table.
func Builtin() []Definition { return slices.Clone(builtin()) }

// ByName returns the built-in service of that name.
func ByName(name string) (Definition, bool) {
	return find(func(d Definition) bool { return d.Name == name })
}

// ByVar returns the built-in service whose credential that variable holds, or is
// a part of.
func ByVar(name string) (Definition, bool) {
	return find(func(d Definition) bool { return slices.Contains(d.Vars, name) })
}

// All returns the user's own services and then the built-in ones, but for those
// of which the user's have the name.
func All(own []Definition) []Definition {
	all := slices.Clone(own)
	for _, d := range builtin() {
		if !slices.ContainsFunc(own, func(o Definition) bool { return o.Name == d.Name }) {
			all = append(all, d)
		}
	}
	return all
}

// Of says which service, of those in all, a secret of that name is for: one
// whose variable has the name, or that has it. Parts of keys that requests are
// signed with are no secret by themselves.
func Of(name string, all []Definition) (Definition, bool) {
	i := slices.IndexFunc(all, func(d Definition) bool { return slices.Contains(d.Vars, name) && !d.Signs() || d.Name == name })
	if i < 0 {
		return Definition{}, false
	}
	return all[i], true
}

func find(is func(Definition) bool) (Definition, bool) {
	list := builtin()
	if i := slices.IndexFunc(list, is); i >= 0 {
		return list[i], true
	}
	return Definition{}, false
}

// MinKey is the least length, in bytes, of what is taken for a key.
const MinKey = 20

// LooksLikeKey reports whether a value starts like the keys of a built-in
// service, or is of another form that keys have, and is as long as one. It is for
// warnings: a value of which nothing is known may be a key all the same.
func LooksLikeKey(value string) bool {
	return len(value) >= MinKey && (otherKey(value) || slices.ContainsFunc(builtin(), func(d Definition) bool {
		return len(d.Shape.Prefix) >= 3 && strings.HasPrefix(value, d.Shape.Prefix)
	}))
}

// otherKey knows forms of keys that no placeholder has.
func otherKey(value string) bool {
	switch {
	case strings.HasPrefix(value, "-----BEGIN ") && strings.Contains(value, "PRIVATE KEY-----"):
		return true
	case strings.HasPrefix(value, "eyJ") && strings.Count(value, ".") == 2: // a JWT
		return true
	}
	return slices.ContainsFunc([]string{"AKIA", "ASIA", "ghp_", "ghu_", "ghs_", "github_pat_", "sk-ant-", "sk_live_", "xoxp-", "xoxe-", "ya29."},
		func(p string) bool { return strings.HasPrefix(value, p) })
}
