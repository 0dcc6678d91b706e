package agent

// Host lists that several rows share.
var (
	anthropicAPI = []string{"api.anthropic.com"}
	openaiAPI    = []string{"api.openai.com"}
	geminiAPI    = []string{"generativelanguage.googleapis.com"}
	githubAPI    = []string{"api.github.com", "github.com", "*.githubcopilot.com"}
)

// table was checked against the packages of each agent, run in a terminal with
// an empty home: versions 2.1.329 (Claude Code), 0.169.0 (Codex), 0.61.0
// (Gemini CLI), 1.0.102 (Copilot CLI), 1.18.33 (OpenCode).
var table = []Agent{
	{
		Name: "claude", Title: "Claude Code",
		Command: []string{"claude"}, Bypass: "--dangerously-skip-permissions",
		VersionArgs: []string{"--version"},
		Files: []File{
			{Path: ".claude.json", Mode: 0o600, Content: claudeState},
			{Path: ".claude/settings.json", Mode: 0o600, Content: claudeSettings},
		},
		Env: map[string]string{
			// Its folder is read-only; a new version comes with a new layer.
			"DISABLE_AUTOUPDATER": "1",
			// It is the one way to trust whatever folder it is started in.
			"CLAUDE_CODE_SANDBOXED": "1",
		},
		Credentials: []Credential{
			{"ANTHROPIC_API_KEY", anthropicAPI},
			{"ANTHROPIC_AUTH_TOKEN", anthropicAPI},
			{"CLAUDE_CODE_OAUTH_TOKEN", anthropicAPI},
		},
		Passed: []string{"ANTHROPIC_BASE_URL", "ANTHROPIC_MODEL", "ANTHROPIC_SMALL_FAST_MODEL", "ANTHROPIC_CUSTOM_HEADERS"},
		Hosts:  []string{"api.anthropic.com", "platform.claude.com", "claude.ai", "console.anthropic.com"},
		Recipe: &Recipe{
			Package: "@anthropic-ai/claude-code", Version: "latest",
			// The install script has made bin/claude.exe of it: a second name of
			// the same 360 MB, which would count twice where links are copied.
			Steps: []string{`rm -rf "$PREFIX"/lib/node_modules/@anthropic-ai/claude-code/node_modules/@anthropic-ai`},
		},
	},
	{
		Name: "codex", Title: "Codex",
		Command: []string{"codex"}, Bypass: "--dangerously-bypass-approvals-and-sandbox", BypassOnce: true,
		VersionArgs: []string{"--version"},
		Files:       []File{{Path: ".codex/config.toml", Mode: 0o600, Content: codexConfig}},
		Credentials: []Credential{{"OPENAI_API_KEY", openaiAPI}, {"CODEX_API_KEY", openaiAPI}},
		Passed:      []string{"OPENAI_BASE_URL"},
		Hosts:       []string{"api.openai.com", "auth.openai.com", "chatgpt.com"},
		Recipe:      &Recipe{Package: "@openai/codex", Version: "latest", Node: 16},
	},
	{
		Name: "gemini", Title: "Gemini CLI",
		Command: []string{"gemini"}, Bypass: "--yolo",
		VersionArgs: []string{"--version"},
		Files:       []File{{Path: ".gemini/settings.json", Mode: 0o600, Content: geminiSettings}},
		Env: map[string]string{
			"GEMINI_CLI_TRUST_WORKSPACE": "true",
			// A project may ask for Gemini's own container around its commands.
			"GEMINI_SANDBOX": "false",
			// It opens a browser only where it sees a desktop. Of the three that it
			// knows, nothing else looks at this one.
			"MIR_SOCKET": "/run/berth-opens-on-the-host",
		},
		Credentials: []Credential{
			{"GEMINI_API_KEY", geminiAPI},
			{"GOOGLE_API_KEY", []string{"generativelanguage.googleapis.com", "aiplatform.googleapis.com", "*.aiplatform.googleapis.com"}},
		},
		Passed: []string{"GEMINI_MODEL", "GOOGLE_GEMINI_BASE_URL", "GOOGLE_GENAI_USE_VERTEXAI", "GOOGLE_CLOUD_PROJECT", "GOOGLE_CLOUD_LOCATION"},
		Hosts: []string{"generativelanguage.googleapis.com", "cloudcode-pa.googleapis.com", "oauth2.googleapis.com",
			"accounts.google.com", "www.googleapis.com", "aiplatform.googleapis.com", "*.aiplatform.googleapis.com"},
		Recipe: &Recipe{Package: "@google/gemini-cli", Version: "latest", Node: 20},
	},
	{
		Name: "copilot", Title: "GitHub Copilot CLI",
		Command: []string{"copilot"}, Bypass: "--yolo",
		VersionArgs: []string{"--version"},
		Files: []File{
			{Path: ".copilot/config.json", Mode: 0o600, Content: copilotConfig},
			{Path: ".copilot/settings.json", Mode: 0o600, Content: copilotSettings},
		},
		Env: map[string]string{
			"COPILOT_AUTO_UPDATE": "false",
			// "true", and no other word for it, also trusts the working directory.
			"COPILOT_ALLOW_ALL": "true",
			// Where Recipe.Steps unpacks it.
			"COPILOT_PKG_CACHE_HOME": "/opt/berth/agent/copilot/cache",
		},
		Credentials: []Credential{
			{"COPILOT_GITHUB_TOKEN", githubAPI},
			{"GH_TOKEN", githubAPI},
			{"GITHUB_TOKEN", githubAPI},
		},
		Passed: []string{"COPILOT_MODEL", "GH_HOST", "COPILOT_GH_HOST"},
		Hosts:  githubAPI,
		Recipe: &Recipe{
			Package: "@github/copilot", Version: "latest", Node: 20,
			// On its first run it unpacks 235 MB of itself below the home, which
			// every sandbox would then keep and save.
			Steps: []string{`COPILOT_PKG_CACHE_HOME="$PREFIX/cache" COPILOT_SEA_EXTRACT_ONLY=1 "$PREFIX/bin/copilot" --version`},
		},
	},
	{
		Name: "opencode", Title: "OpenCode",
		Command: []string{"opencode"}, VersionArgs: []string{"--version"},
		Files: []File{{Path: ".config/opencode/opencode.json", Mode: 0o600, Content: opencodeConfig}},
		Env:   map[string]string{"OPENCODE_DISABLE_AUTOUPDATE": "true"},
		Credentials: []Credential{
			{"OPENCODE_API_KEY", []string{"opencode.ai", "*.opencode.ai"}},
			{"ANTHROPIC_API_KEY", anthropicAPI},
			{"OPENAI_API_KEY", openaiAPI},
			{"GEMINI_API_KEY", geminiAPI},
			{"GOOGLE_GENERATIVE_AI_API_KEY", geminiAPI},
			{"OPENROUTER_API_KEY", []string{"openrouter.ai"}},
		},
		Hosts: []string{"opencode.ai", "*.opencode.ai", "models.dev", "api.anthropic.com", "api.openai.com",
			"generativelanguage.googleapis.com", "openrouter.ai"},
		Recipe: &Recipe{
			Package: "opencode-ai", Version: "latest",
			// As with Claude Code, and of two builds for two kinds of CPU only one
			// was taken.
			Steps: []string{`rm -rf "$PREFIX"/lib/node_modules/opencode-ai/node_modules/opencode-*`},
		},
	},
	{
		Name: "shell", Title: "Shell",
		Command: []string{"bash", "-l"}, VersionArgs: []string{"--version"},
	},
}
