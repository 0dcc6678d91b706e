package agent

import (
	"encoding/json"
	"errors"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"berth.dev/internal/sandbox"
)

func TestTable(t *testing.T) {
	if got := strings.Join(Names(), " "); got != "claude codex gemini copilot opencode shell" {
		t.Fatal(got)
	}
	host := regexp.MustCompile(`^(\*\.)?[a-z0-9-]+(\.[a-z0-9-]+)+$`)
	for _, a := range All() {
		if sandbox.CheckName(a.Name) != nil || a.Title == "" || len(a.Command) == 0 || len(a.VersionArgs) == 0 {
			t.Errorf("%s: incomplete", a.Name)
		}
		for _, c := range a.Credentials {
			if len(c.Hosts) == 0 {
				t.Errorf("%s: %s belongs nowhere", a.Name, c.Env)
			}
		}
		for _, h := range a.Hosts {
			if !host.MatchString(h) {
				t.Errorf("%s: host %q", a.Name, h)
			}
		}
		for _, f := range a.Files {
			if path.IsAbs(f.Path) || path.Clean(f.Path) != f.Path || strings.HasPrefix(f.Path, "..") || f.Mode != 0o600 {
				t.Errorf("%s: file %q mode %o", a.Name, f.Path, f.Mode)
			}
		}
		if vars := a.Variables(); len(vars) != len(slices.Compact(slices.Sorted(slices.Values(vars)))) {
			t.Errorf("%s: a variable twice in %v", a.Name, vars)
		}
		if a.Recipe != nil && (a.BinDir() != "/opt/berth/agent/"+a.Name+"/bin" || a.Recipe.Package == "") {
			t.Errorf("%s: %+v", a.Name, a.Recipe)
		}
	}
	if got := table[3].Env["COPILOT_PKG_CACHE_HOME"]; got != table[3].Dir()+"/cache" {
		t.Error(got)
	}
}

func TestFind(t *testing.T) {
	a, err := Find("claude")
	if err != nil || a.Recipe.Spec() != "@anthropic-ai/claude-code@latest" {
		t.Fatal(a, err)
	}
	_, err = Find("cluade")
	if !errors.Is(err, sandbox.ErrNotFound) || !strings.Contains(sandbox.HintOf(err), "claude, codex") {
		t.Fatal(err, sandbox.HintOf(err))
	}
}

func TestArgv(t *testing.T) {
	for _, c := range []struct {
		agent, args, want string
	}{
		{"claude", "", "claude --dangerously-skip-permissions"},
		{"claude", "--continue", "claude --dangerously-skip-permissions --continue"},
		{"claude", "-p --dangerously-skip-permissions", "claude --dangerously-skip-permissions -p --dangerously-skip-permissions"},
		{"codex", "exec hi", "codex --dangerously-bypass-approvals-and-sandbox exec hi"},
		{"codex", "exec --dangerously-bypass-approvals-and-sandbox hi", "codex --dangerously-bypass-approvals-and-sandbox exec hi"},
		{"codex", "-- --dangerously-bypass-approvals-and-sandbox", "codex --dangerously-bypass-approvals-and-sandbox -- --dangerously-bypass-approvals-and-sandbox"},
		{"gemini", "-p x", "gemini --yolo -p x"},
		{"copilot", "", "copilot --yolo"},
		{"opencode", "run x", "opencode run x"},
		{"shell", "-c true", "bash -l -c true"},
	} {
		a, err := Find(c.agent)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(a.Argv(strings.Fields(c.args)), " "); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
	// Argv must not write into the table.
	a, _ := Find("shell")
	a.Argv([]string{"x"})
	b, _ := Find("shell")
	if !reflect.DeepEqual(b.Command, []string{"bash", "-l"}) {
		t.Fatal(b.Command)
	}
}

// nasty holds everything that could break out of a string.
const nasty = "/w/my \"proj\"'s \\ \n\t\x7f ] = # <é> $HOME"

func facts() Facts {
	return Facts{Workspace: nasty, Env: map[string]string{"ANTHROPIC_API_KEY": "sk-ant-0123456789abcdefghij", "GEMINI_API_KEY": "k"}}
}

func decode(t *testing.T, data []byte) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatalf("%v in:\n%s", err, data)
	}
	return v
}

func TestClaudeState(t *testing.T) {
	got := decode(t, claudeState(facts(), nil))
	want := map[string]any{
		"hasCompletedOnboarding": true,
		"projects":               map[string]any{nasty: map[string]any{"hasTrustDialogAccepted": true}},
		"customApiKeyResponses":  map[string]any{"approved": []any{"0123456789abcdefghij"}, "rejected": []any{}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%v", got)
	}
	if strings.Contains(string(claudeState(facts(), nil)), "sk-ant") {
		t.Fatal("more of the key than its end")
	}
	if got := decode(t, claudeState(Facts{Workspace: "/w"}, nil)); got["customApiKeyResponses"] != nil {
		t.Fatal(got)
	}
}

func TestWhatIsThereStays(t *testing.T) {
	old := []byte(`{"theme":"light","big":12345678901234567890,"hasCompletedOnboarding":false,
		"customApiKeyResponses":{"approved":["mine"]},"projects":{"/other":{"x":1}}}`)
	once := claudeState(facts(), old)
	got := decode(t, once)
	if got["theme"] != "light" || got["hasCompletedOnboarding"] != false || !strings.Contains(string(once), "12345678901234567890") {
		t.Fatalf("%s", once)
	}
	approved := got["customApiKeyResponses"].(map[string]any)["approved"]
	if !reflect.DeepEqual(approved, []any{"mine", "0123456789abcdefghij"}) {
		t.Fatal(approved)
	}
	if projects := got["projects"].(map[string]any); len(projects) != 2 {
		t.Fatal(projects)
	}
	if twice := claudeState(facts(), once); string(twice) != string(once) {
		t.Fatal("a second time changes something")
	}
}

// TestEveryFileTwice: no file changes when nothing changed, and none of what
// the guest may have put there is lost or fatal.
func TestAddJSON(t *testing.T) {
	const add = `{"auths":{"a.example":{"auth":"x"}}}`
	for old, want := range map[string]string{
		`{"auths":{"b.example":{"auth":"y"}},"n":1}`: `{"auths":{"a.example":{"auth":"x"},"b.example":{"auth":"y"}},"n":1}`,
		`{"auths":{"a.example":{"auth":"mine"}}}`:    `{"auths":{"a.example":{"auth":"mine"}}}`,
		`not JSON`: `not JSON`,
	} {
		got := strings.Join(strings.Fields(string(AddJSON([]byte(old), []byte(add)))), "")
		if got != strings.Join(strings.Fields(want), "") {
			t.Errorf("%s became %s", old, got)
		}
	}
	if got := string(AddJSON(nil, []byte(add))); got != add {
		t.Error(got)
	}
}

func TestEveryFileTwice(t *testing.T) {
	for _, a := range All() {
		for _, f := range a.Files {
			first := f.Content(facts(), nil)
			if again := f.Content(facts(), first); string(again) != string(first) {
				t.Errorf("%s %s: not stable", a.Name, f.Path)
			}
			for _, old := range []string{"", "null", "[]", "1", "// comment\n{}", "{", "\x00", `{"projects":7,"security":[],"trustedFolders":{},"permission":null}`} {
				got := string(f.Content(facts(), []byte(old)))
				if !strings.HasPrefix(old, `{"`) && got != old {
					t.Errorf("%s %s: %q became %q", a.Name, f.Path, old, got)
				}
			}
		}
	}
}

func TestOthers(t *testing.T) {
	gem := decode(t, geminiSettings(facts(), nil))["security"].(map[string]any)
	if gem["auth"].(map[string]any)["selectedType"] != "gemini-api-key" || gem["folderTrust"].(map[string]any)["enabled"] != false {
		t.Error(gem)
	}
	vertex := decode(t, geminiSettings(Facts{Env: map[string]string{"GOOGLE_GENAI_USE_VERTEXAI": "true"}}, nil))["security"].(map[string]any)
	if vertex["auth"].(map[string]any)["selectedType"] != "vertex-ai" {
		t.Error(vertex)
	}
	if cop := decode(t, copilotConfig(facts(), nil)); !reflect.DeepEqual(cop["trustedFolders"], []any{nasty}) {
		t.Error(cop)
	}
	if oc := decode(t, opencodeConfig(facts(), nil)); oc["autoupdate"] != false || oc["permission"] != "allow" {
		t.Error(oc)
	}
	toml := string(codexConfig(facts(), nil))
	want := `[projects."/w/my \"proj\"'s \\ \u000A\u0009\u007F ] = # <é> $HOME"]`
	if !strings.Contains(toml, "\n"+want+"\n") {
		t.Errorf("%s", toml)
	}
	if strings.Contains(toml, "model_provider") {
		t.Errorf("without a key: %s", toml)
	}
	keyed := string(codexConfig(Facts{Workspace: "/w", Env: map[string]string{"OPENAI_API_KEY": "x", "OPENAI_BASE_URL": "https://gw.example/v1"}}, nil))
	top, table, _ := strings.Cut(keyed, "\n[features]\n")
	if !strings.Contains(top, "model_provider = \"openai-key\"\n") || !strings.Contains(table, "\n[model_providers.openai-key]\n") ||
		!strings.Contains(table, "env_key = \"OPENAI_API_KEY\"\n") || !strings.Contains(table, "base_url = \"https://gw.example/v1\"\n") {
		t.Errorf("with a key: %s", keyed)
	}
	if got := tomlString("a\xffb"); got != `"a\uFFFDb"` {
		t.Error(got)
	}
}

func FuzzContent(f *testing.F) {
	f.Add("/w", []byte(`{"projects":{"/w":{}}}`))
	f.Add(nasty, []byte(`{"customApiKeyResponses":{"approved":[1,null,"x"]}}`))
	f.Fuzz(func(t *testing.T, workspace string, old []byte) {
		facts := Facts{Workspace: workspace, Env: map[string]string{"ANTHROPIC_API_KEY": workspace, "GEMINI_API_KEY": "x"}}
		for _, a := range All() {
			for _, file := range a.Files {
				once := file.Content(facts, old)
				if twice := file.Content(facts, once); len(once) < maxOld && string(twice) != string(once) {
					t.Fatalf("%s: not stable:\n%s\n%s", file.Path, once, twice)
				}
				if json.Valid(old) && strings.HasSuffix(file.Path, ".json") && !json.Valid(once) {
					t.Fatalf("%s: %s", file.Path, once)
				}
			}
		}
	})
}
