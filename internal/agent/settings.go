package agent

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"
)

// maxOld bounds what is read of a file that the guest may have written.
const maxOld = 4 << 20

// claudeState is ~/.claude.json: what Claude Code remembers to have asked.
func claudeState(f Facts, old []byte) []byte {
	add := object{
		"hasCompletedOnboarding": true, // else: theme, and a check of the API host
		"projects":               object{text(f.Workspace): object{"hasTrustDialogAccepted": true}},
	}
	// A key in the environment has to be approved, by its last 20 characters.
	if key := f.Env["ANTHROPIC_API_KEY"]; key != "" {
		add["customApiKeyResponses"] = object{"approved": []any{text(key[max(0, len(key)-20):])}, "rejected": []any{}}
	}
	return addMissing(old, add)
}

func claudeSettings(_ Facts, old []byte) []byte {
	return addMissing(old, object{"skipDangerousModePermissionPrompt": true})
}

// codexConfig is ~/.codex/config.toml. But for codexChoice it is written once: to
// change TOML that somebody edited, and keep their comments, is more than it is
// worth, since the bypass flag alone keeps Codex from asking whether it may trust
// a folder.
func codexConfig(f Facts, old []byte) []byte {
	first, last := codexProvider(f)
	if old != nil {
		return codexChoice(old, first, last)
	}
	return fmt.Appendf(nil, `# Its folder is read-only; a new version comes with a new layer.
check_for_update_on_startup = false
%s
[features]
# The background server copies Codex, 400 MB, into the home.
daemon_auto_start = false

[projects.%s]
trust_level = "trusted"
%s`, first, tomlString(f.Workspace), last)
}

// codexChoice has what Codex is paid by follow what it is signed in with today.
// Nothing is changed but Berth's own two pieces of the file: the line that makes
// the choice, and, at its end, what that line names.
func codexChoice(old []byte, first, last string) []byte {
	text := string(old)
	switch {
	case first == "":
		return []byte(strings.Replace(text, codexKeyLine, "", 1))
	case codexChosen.MatchString(text):
		return old
	case strings.Contains(text, "[model_providers.openai-key]"):
		return []byte(first + text)
	}
	return []byte(first + strings.TrimRight(text, "\n") + "\n" + last)
}

const codexKeyLine = "model_provider = \"openai-key\"\n"

var codexChosen = regexp.MustCompile(`(?m)^\s*model_provider\s*=`)

// codexProvider makes a key in the environment count: OpenAI as Codex has it
// built in sends only what a login left in auth.json, and asks for one.
func codexProvider(f Facts) (first, last string) {
	for _, name := range []string{"CODEX_API_KEY", "OPENAI_API_KEY"} {
		if f.Env[name] == "" {
			continue
		}
		return codexKeyLine, fmt.Sprintf(`
[model_providers.openai-key]
name = "OpenAI"
base_url = %s
env_key = %q
wire_api = "responses"
`, tomlString(cmp.Or(f.Env["OPENAI_BASE_URL"], "https://api.openai.com/v1")), name)
	}
	return "", ""
}

func geminiSettings(f Facts, old []byte) []byte {
	security := object{"folderTrust": object{"enabled": false}}
	// Without a choice it asks how to sign in, even when a key is there.
	choice := ""
	switch {
	case f.Env["GEMINI_API_KEY"] != "":
		choice = geminiKey
	case f.Env["GOOGLE_GENAI_USE_VERTEXAI"] == "true":
		choice = "vertex-ai"
	case f.Login:
		choice = geminiLogin
	}
	if choice != "" {
		security["auth"] = object{"selectedType": choice}
	}
	// Between a key and a login it follows what there is today.
	if was := geminiChoice(old); choice != was && (was == geminiKey || was == geminiLogin) && (choice == geminiKey || choice == geminiLogin) {
		b, _ := json.Marshal(object{"security": object{"auth": object{"selectedType": choice}}})
		old = Override(old, b)
	}
	return addMissing(old, object{
		"security": security,
		"general":  object{"enableAutoUpdate": false, "enableAutoUpdateNotification": false},
	})
}

// What Gemini CLI calls its ways to sign in.
const (
	geminiKey   = "gemini-api-key"
	geminiLogin = "oauth-personal"
)

// geminiChoice is the way that a file of settings has.
func geminiChoice(old []byte) string {
	var s struct {
		Security struct {
			Auth struct {
				Type string `json:"selectedType"`
			} `json:"auth"`
		} `json:"security"`
	}
	if len(old) > maxOld || json.Unmarshal(old, &s) != nil {
		return ""
	}
	return s.Security.Auth.Type
}

func copilotConfig(f Facts, old []byte) []byte {
	return addMissing(old, object{"trustedFolders": []any{text(f.Workspace)}, "banner": "never"})
}

// copilotSettings lets Copilot CLI keep what it signs in with, a placeholder, in a
// file: there is no keyring in a sandbox, and it would ask.
func copilotSettings(_ Facts, old []byte) []byte {
	return addMissing(old, object{"storeTokenPlaintext": true})
}

func opencodeConfig(_ Facts, old []byte) []byte {
	return addMissing(old, object{
		"$schema":    "https://opencode.ai/config.json",
		"autoupdate": false,
		"permission": "allow",
	})
}

// text is s as JSON can hold it. A path may be any bytes; were they left to
// the encoder, what is read back would never be what was asked for.
func text(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// object is a JSON object to add.
type object = map[string]any

// addMissing returns the JSON file old with those members of add that it lacks:
// objects are merged at every depth, strings join the arrays that lack them,
// and any other value that is there stays. What is not JSON (some agents allow
// comments in it) is returned as it is.
func addMissing(old []byte, add object) []byte {
	if old == nil {
		return render(add)
	}
	if len(old) > maxOld {
		return old
	}
	merged, changed, ok := mergeInto(old, add)
	if !ok || !changed {
		return old
	}
	return render(merged)
}

// AddJSON returns the JSON file old with those members of the object add that it
// lacks, as settings of agents are joined; old is nil for no file. What is no
// object stays.
func AddJSON(old, add []byte) []byte {
	if old == nil {
		return add
	}
	var members object
	if json.Unmarshal(add, &members) != nil {
		return old
	}
	return addMissing(old, members)
}

// Override returns the JSON file old with the members of add, whatever they were:
// objects are merged at every depth. What is not JSON is replaced by add.
func Override(old, add []byte) []byte {
	var members object
	if json.Unmarshal(add, &members) != nil || len(old) > maxOld {
		return old
	}
	merged, ok := override(old, members)
	if !ok {
		return add
	}
	return render(merged)
}

func override(raw json.RawMessage, add object) (object, bool) {
	var have map[string]json.RawMessage
	if len(raw) > 0 && json.Unmarshal(raw, &have) != nil {
		return nil, false
	}
	out := object{}
	for name, v := range have {
		out[name] = v
	}
	for name, v := range add {
		out[name] = v
		if inner, ok := v.(object); ok {
			if merged, ok := override(have[name], inner); ok {
				out[name] = merged
			}
		}
	}
	return out, true
}

// mergeInto merges one object, keeping what it does not touch byte for byte,
// numbers of any size included. ok is false when raw is no object.
func mergeInto(raw json.RawMessage, add object) (merged map[string]any, changed, ok bool) {
	var have map[string]json.RawMessage
	if json.Unmarshal(raw, &have) != nil || have == nil {
		return nil, false, false
	}
	merged = make(map[string]any, len(have)+len(add))
	for k, v := range have {
		merged[k] = v
	}
	for k, v := range add {
		old, there := have[k]
		if !there {
			merged[k], changed = v, true
			continue
		}
		switch v := v.(type) {
		case object:
			if m, c, ok := mergeInto(old, v); ok && c {
				merged[k], changed = m, true
			}
		case []any:
			if m, c := joinInto(old, v); c {
				merged[k], changed = m, true
			}
		}
	}
	return merged, changed, true
}

// joinInto appends those strings that an array lacks.
func joinInto(raw json.RawMessage, add []any) (joined []any, changed bool) {
	var have []json.RawMessage
	if json.Unmarshal(raw, &have) != nil || have == nil {
		return nil, false
	}
	for _, v := range have {
		joined = append(joined, v)
	}
	for _, v := range add {
		found := false
		for _, raw := range have {
			var s string
			found = found || json.Unmarshal(raw, &s) == nil && s == v
		}
		if !found {
			joined, changed = append(joined, v), true
		}
	}
	return joined, changed
}

// render writes what always can be encoded: strings, booleans, and raw JSON
// that was just read.
func render(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		panic("agent: settings cannot be encoded: " + err.Error())
	}
	return b.Bytes()
}

// tomlString is s as a basic string of TOML 1.0, whatever s holds. TOML has no
// way to write bytes that are not UTF-8; these become U+FFFD.
func tomlString(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < 0x20 || r == 0x7f || r == utf8.RuneError:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
