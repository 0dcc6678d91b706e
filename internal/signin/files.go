package signin

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"
	"unicode"

	"berth.dev/internal/secret"
)

// File is a JSON file in the home of the guest's user, by which an agent is
// signed in.
type File struct {
	Path string // relative to the home
	// Content are the members that it has to have, whatever they are now.
	Content []byte
	// Mark is a text that the file has when nothing is to be done.
	Mark string
}

// object is a JSON object.
type object = map[string]any

func file(path, mark string, content object) File {
	b, _ := json.Marshal(content) // of strings and numbers
	return File{path, b, mark}
}

// Files are what the guest's home has to hold for the logins that are bound.
func (k *Keeper) Files(ctx context.Context) []File {
	var list []File
	for _, p := range k.providers {
		ph := k.placeholders(p)
		agents := []string{k.cfg.Agent}
		if k.cfg.Agent == shell {
			agents = p.Agents
		}
		l, _, err := k.load(ctx, p)
		if err != nil || ph.access == "" {
			continue
		}
		for _, a := range agents {
			if fill := p.files[a]; fill != nil {
				list = append(list, fill(l, ph)...)
			}
		}
	}
	return list
}

// printable is a provider's text for a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
}

// claudeFiles: Claude Code renews a token that has run out at its start, which is
// answered here, and asks for the account's profile with it.
func claudeFiles(l *Login, ph placeholders) []File {
	if !slices.Contains(l.scopes(), "user:inference") {
		return nil // signed in to have a key made
	}
	list := []File{file(".claude/.credentials.json", ph.access, object{"claudeAiOauth": object{
		"accessToken": ph.access, "refreshToken": ph.refresh, "expiresAt": time.Now().Add(-time.Hour).UnixMilli(), "scopes": l.scopes(),
		"subscriptionType": l.Answer["subscription_type"], "rateLimitTier": nil,
	}})}
	var account struct {
		UUID  string `json:"uuid"`
		Email string `json:"email_address"`
	}
	var org struct {
		UUID string `json:"uuid"`
		Name string `json:"name"`
	}
	if json.Unmarshal(l.Answer["account"], &account) == nil && account.UUID != "" {
		_ = json.Unmarshal(l.Answer["organization"], &org)
		list = append(list, file(".claude.json", account.UUID, object{"oauthAccount": object{
			"accountUuid": account.UUID, "emailAddress": account.Email, "organizationUuid": org.UUID, "organizationName": org.Name,
		}}))
	}
	return list
}

func consoleFiles(_ *Login, ph placeholders) []File {
	return []File{file(".claude.json", ph.access, object{"primaryApiKey": ph.access})}
}

func codexFiles(l *Login, ph placeholders) []File {
	account, _ := l.chatGPT()
	return []File{file(".codex/auth.json", ph.access, object{
		"auth_mode": "chatgpt", "OPENAI_API_KEY": nil, "last_refresh": time.Now().UTC().Format(time.RFC3339Nano),
		"tokens": object{"id_token": l.idToken(ph.id), "access_token": ph.access, "refresh_token": ph.refresh, "account_id": account},
	})}
}

// chatGPT is the account that an id_token of OpenAI's is for.
func (l *Login) chatGPT() (string, bool) {
	claims, ok := l.claims()
	var auth struct {
		Account string `json:"chatgpt_account_id"`
	}
	if !ok || json.Unmarshal(claims["https://api.openai.com/auth"], &auth) != nil {
		return "", false
	}
	return auth.Account, auth.Account != ""
}

func geminiFiles(l *Login, ph placeholders) []File {
	creds := object{
		"access_token": ph.access, "refresh_token": ph.refresh, "token_type": "Bearer", "scope": l.Answer["scope"],
		"expiry_date": time.Now().Add(guestLife * time.Second).UnixMilli(),
	}
	if !l.ID.IsZero() {
		creds["id_token"] = l.idToken(ph.id)
	}
	list := []File{file(".gemini/oauth_creds.json", ph.access, creds)}
	if l.Person != "" {
		list = append(list, file(".gemini/google_accounts.json", l.Person, object{"active": l.Person}))
	}
	return list
}

const opencodeFile = ".local/share/opencode/auth.json"

func opencodeChatGPT(l *Login, ph placeholders) []File {
	entry := object{
		"type": "oauth", "access": ph.access, "refresh": ph.refresh, "expires": time.Now().Add(guestLife * time.Second).UnixMilli(),
	}
	if account, ok := l.chatGPT(); ok {
		entry["accountId"] = account
	}
	return []File{file(opencodeFile, ph.access, object{"openai": entry})}
}

func opencodeCopilot(_ *Login, ph placeholders) []File {
	return []File{file(opencodeFile, ph.access, object{"github-copilot": object{
		"type": "oauth", "access": ph.access, "refresh": ph.access, "expires": 0,
	}})}
}

// PersonOf is whom a login that is kept is for, by the provider's own word, for
// people; "" when that is not known.
func PersonOf(v secret.Value) string {
	l, err := parseLogin(v)
	if err != nil {
		return ""
	}
	return printable(l.Person)
}

// Account is who is signed in, for people; "" when that is not known.
func (k *Keeper) Account(ctx context.Context, login string) string {
	for _, p := range k.providers {
		if p.Secret() == login {
			if l, _, err := k.load(ctx, p); err == nil {
				return printable(l.Person)
			}
		}
	}
	return ""
}
