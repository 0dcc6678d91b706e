package signin

import (
	"strings"

	"berth.dev/internal/service"
)

// Names of rows that others than the table know.
const copilot = "copilot"

// table was checked against the agents of the versions that package agent names.
var table = []*Provider{
	{
		Name: "claude", Title: "Claude", Agents: []string{"claude"},
		// The last is where remote MCP servers are reached.
		hosts: "api.anthropic.com platform.claude.com claude.ai mcp-proxy.anthropic.com",
		shape: service.Shape{Prefix: "sk-ant-oat01-", Suffix: "AA", Length: 108}, renews: service.Shape{Prefix: "sk-ant-ort01-", Suffix: "AA", Length: 108},
		tokens: []string{
			"platform.claude.com/v1/oauth/token", "console.anthropic.com/v1/oauth/token", "api.anthropic.com/v1/oauth/token",
		},
		revoke: []string{
			"platform.claude.com/v1/oauth/token/revoke", "console.anthropic.com/v1/oauth/token/revoke", "api.anthropic.com/v1/oauth/token/revoke",
		},
		pages: []string{
			"claude.com/cai/oauth/authorize", "claude.ai/oauth/authorize", "platform.claude.com/oauth/authorize", "console.anthropic.com/oauth/authorize",
		},
		ends:   []string{"platform.claude.com/oauth/code/callback", "console.anthropic.com/oauth/code/callback"},
		keep:   []string{"account", "organization", refreshLifeName},
		client: "9d1c250a-e61b-44d9-88ed-5944d1962f5e",
		rivals: map[string][]string{"claude": {"ANTHROPIC_API_KEY"}},
		files:  map[string]func(*Login, placeholders) []File{"claude": claudeFiles},
		host:   map[string]hostLogin{"claude": {path: ".claude/.credentials.json", read: readClaude, write: writeClaude, lock: ".claude/.oauth_refresh.lock"}},
	},
	{
		// To sign in to the Console is to have it make a key.
		Name: "anthropic-key", Title: "the Anthropic Console", Agents: []string{"claude"},
		hosts: "api.anthropic.com", shape: service.Shape{Prefix: "sk-ant-api03-", Suffix: "AA", Length: 108},
		schemes: []service.Scheme{{Kind: service.Header, Name: "X-Api-Key", Format: "{}"}},
		tokens:  []string{"api.anthropic.com/api/oauth/claude_cli/create_api_key"}, access: "raw_key",
		shared: true,
		files:  map[string]func(*Login, placeholders) []File{"claude": consoleFiles},
		host:   map[string]hostLogin{"claude": {path: ".claude.json", read: readConsole}},
	},
	{
		Name: "chatgpt", Title: "ChatGPT", Agents: []string{"codex", "opencode"},
		hosts: "chatgpt.com auth.openai.com api.openai.com", shape: service.Shape{Length: 120},
		tokens: []string{"auth.openai.com/oauth/token"}, revoke: []string{"auth.openai.com/oauth/revoke"},
		pages:  []string{"auth.openai.com/oauth/authorize", "auth.openai.com/codex/device"},
		ends:   []string{"auth.openai.com/deviceauth/callback"},
		needs:  []string{"id_token"},
		client: "app_EMoamEEZ73f0CkXaXp7hrann",
		rivals: map[string][]string{"codex": {"CODEX_API_KEY", "OPENAI_API_KEY"}},
		files:  map[string]func(*Login, placeholders) []File{"codex": codexFiles, "opencode": opencodeChatGPT},
		host: map[string]hostLogin{
			"codex":    {path: ".codex/auth.json", read: readCodex, write: writeCodex},
			"opencode": {path: ".local/share/opencode/auth.json", read: readOpenCode("openai"), write: writeOpenCode("openai")},
		},
	},
	{
		Name: "google", Title: "Google", Agents: []string{"gemini"},
		hosts: "cloudcode-pa.googleapis.com www.googleapis.com oauth2.googleapis.com", shape: service.Shape{Prefix: "ya29-", Length: 200},
		// The first are what agents use; the others are the same, of older documents.
		tokens: []string{
			"oauth2.googleapis.com/token", "www.googleapis.com/oauth2/v4/token", "www.googleapis.com/oauth2/v3/token", "accounts.google.com/o/oauth2/token",
		},
		revoke: []string{"oauth2.googleapis.com/revoke", "accounts.google.com/o/oauth2/revoke"},
		pages:  []string{"accounts.google.com/o/oauth2/v2/auth", "accounts.google.com/o/oauth2/auth"},
		client: "681255809395-oo8ft2oprdrnp9e3aqf6av3hmdib135j.apps.googleusercontent.com",
		ends:   []string{"codeassist.google.com/authcode"},
		form:   true,
		// In two, for searches that take any of this form for somebody's.
		clientSecret: "GOCSPX-" + "4uHgMPm-1o7Sk-geV6Cu5clXFsxl",
		rivals:       map[string][]string{"gemini": {"GEMINI_API_KEY", "GOOGLE_API_KEY"}},
		files:        map[string]func(*Login, placeholders) []File{"gemini": geminiFiles},
		host:         map[string]hostLogin{"gemini": {path: ".gemini/oauth_creds.json", read: readGemini, write: writeGemini}},
	},
	{
		Name: copilot, Title: "GitHub Copilot", Agents: []string{"copilot", "opencode"},
		hosts: "api.github.com github.com githubcopilot.com **.githubcopilot.com", shape: service.Shape{Prefix: "gho_", Length: 40},
		schemes: []service.Scheme{{Kind: service.Bearer}, {Kind: service.Header, Name: "Authorization", Format: "token {}"}},
		// Its variables come before what it has signed in with.
		env:    []service.Var{{Name: "COPILOT_GITHUB_TOKEN"}},
		tokens: []string{"github.com/login/oauth/access_token"},
		pages:  []string{"github.com/login/device", "github.com/login/oauth/authorize"},
		// Copilot CLI's, and OpenCode's.
		client: "Ov23ctDVkRmgkPke0Mmm", clients: []string{"Ov23li8tweQw6odWQebz"},
		shared: true, form: true,
		files: map[string]func(*Login, placeholders) []File{"opencode": opencodeCopilot},
		host: map[string]hostLogin{
			"copilot":  {path: ".copilot/config.json", read: readCopilot},
			"opencode": {path: ".local/share/opencode/auth.json", read: readOpenCode("github-copilot")},
		},
	},
}

// scopes are those of an answer.
func (l *Login) scopes() []string {
	return strings.FieldsFunc(fields{"": l.Answer["scope"]}.text(""), func(r rune) bool { return r == ' ' || r == ',' })
}
