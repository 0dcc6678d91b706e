package template

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// mirrors are the package mirrors that the host's pip and go are configured
// with. (npm's is npmScript's affair, apt's that of package debian.)
type mirrors struct {
	pip [][2]string // options of pip.conf
	go_ string      // GOPROXY, "" for Go's own
}

// pipOptions are what is taken over of pip's settings: where it looks.
var pipOptions = []string{"index-url", "extra-index-url"}

// maxSettings bounds a settings file of the host, in bytes.
const maxSettings = 1 << 20

// readMirrors reads the host's settings: pip's from its global and its user's
// file (https://pip.pypa.io, "Configuration") and PIP_INDEX_URL, Go's from the
// environment and `go env`'s file. Later ones win. root is "/" but in tests.
func readMirrors(root string, getenv func(string) string) mirrors {
	var m mirrors
	home := getenv("HOME")
	config := getenv("XDG_CONFIG_HOME")
	if config == "" {
		config = filepath.Join(home, ".config")
	}
	found := map[string]string{}
	for _, f := range []string{"/etc/pip.conf", filepath.Join(home, ".pip/pip.conf"), filepath.Join(config, "pip/pip.conf")} {
		readPip(readSettings(filepath.Join(root, f)), found)
	}
	for _, option := range pipOptions {
		if v := getenv("PIP_" + strings.ToUpper(strings.ReplaceAll(option, "-", "_"))); v != "" {
			found[option] = v
		}
		var kept []string
		for _, u := range strings.Fields(found[option]) {
			if u = mirrorURL(u); u != "" {
				kept = append(kept, u)
			}
		}
		if len(kept) > 0 {
			m.pip = append(m.pip, [2]string{option, strings.Join(kept, " ")})
		}
	}
	proxy := getenv("GOPROXY")
	if proxy == "" {
		proxy = goEnv(readSettings(filepath.Join(root, config, "go/env")))
	}
	m.go_ = goProxy(proxy)
	return m
}

// readSettings returns a host file's content; what cannot be read is not there.
func readSettings(path string) []byte {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSettings))
	if err != nil {
		return nil
	}
	return data
}

// readPip collects the options of pip.conf's section [global], each value with
// the lines that continue it.
func readPip(data []byte, found map[string]string) {
	section, option := "", ""
	for line := range strings.Lines(string(data)) {
		text := strings.TrimSpace(line)
		switch {
		case text == "" || text[0] == '#' || text[0] == ';':
			continue
		case text[0] == '[':
			section, option = strings.Trim(text, "[]"), ""
			continue
		case line[0] == ' ' || line[0] == '\t':
			if section == "global" && option != "" {
				found[option] += " " + text
			}
			continue
		}
		key, value, ok := strings.Cut(text, "=")
		option = strings.ReplaceAll(strings.ToLower(strings.TrimSpace(key)), "_", "-")
		if ok && section == "global" && slices.Contains(pipOptions, option) {
			found[option] = strings.TrimSpace(value)
		} else {
			option = ""
		}
	}
}

// goEnv returns GOPROXY of the file that `go env -w` writes.
func goEnv(data []byte) string {
	for line := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "GOPROXY="); ok {
			return v
		}
	}
	return ""
}

// goProxy keeps of a GOPROXY list what a guest may have. When nothing of it is
// left, or there was only what Go does anyway, it is "".
func goProxy(list string) string {
	var kept []string
	named := false
	for _, item := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == '|' }) {
		item = strings.TrimSpace(item)
		if item == "direct" || item == "off" {
			kept = append(kept, item)
		} else if u := mirrorURL(item); u != "" {
			kept, named = append(kept, u), true
		}
	}
	if !named {
		return ""
	}
	return strings.Join(kept, ",")
}

// files are the settings files of the guest.
func (m mirrors) files() []File {
	if len(m.pip) == 0 {
		return nil
	}
	var b bytes.Buffer
	b.WriteString("# Written by Berth: the mirrors that the host's pip uses.\n[global]\n")
	for _, o := range m.pip {
		fmt.Fprintf(&b, "%s = %s\n", o[0], o[1])
	}
	return []File{{"/etc/pip.conf", b.Bytes()}}
}

// env are the variables of the image.
func (m mirrors) env() []string {
	if m.go_ == "" {
		return nil
	}
	return []string{"GOPROXY=" + m.go_}
}
