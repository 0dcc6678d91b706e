package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	if c, err := Load(dir); err != nil || c.Network.Ask || c.Network.Wait() != AskTime || !c.Network.Notifies() || !c.Secrets.UsesKeyring() {
		t.Errorf("no file: %+v, %v", c, err)
	}
	text := `
[network]
ask = true
ask_timeout = "90s"
notify = false

[secrets]
keyring = false

[[upstream]]
host = "api.example.com"
port = 443
address = "127.0.0.1:8443"
ca = "/etc/test-ca.pem"
`
	if err := os.WriteFile(filepath.Join(dir, Name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(dir)
	if err != nil || !c.Network.Ask || c.Network.Wait() != 90*time.Second || c.Network.Notifies() || c.Secrets.UsesKeyring() || len(c.Upstreams) != 1 || c.Upstreams[0].Port != 443 {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestMistakes(t *testing.T) {
	for text, want := range map[string]string{
		"[network]\naks = true":                                 "line 2: [network aks] is no setting",
		"[network]\nask = 7":                                    "line 2",
		"[network]\nask_timeout = \"soon\"":                     "not a duration",
		"[network]\nask_timeout = \"2h\"":                       "an hour",
		"[[upstream]]\naddress = \"1.2.3.4:5\"":                 "no host",
		"[[upstream]]\nhost=\"a\"\naddress = \"b\"":             "ADDRESS:PORT",
		"[[upstream]]\nhost=\"a\"\naddress = \"b:1\"\nca=\"c\"": "absolute path",
		"x": "line 1",
	} {
		if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want %q", text, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("[network]\nask = true\n"))
	f.Add([]byte("[[upstream]]\nhost=\"a\"\naddress=\"b:1\"\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if c, err := Parse(data); err == nil && c.check() != nil {
			t.Error("what was taken does not pass its own check")
		}
	})
}
