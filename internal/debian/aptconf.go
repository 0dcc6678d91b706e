package debian

import (
	"path"
	"strings"

	"berth.dev/internal/sandbox"
)

// Bounds of apt.conf files.
const (
	maxConfDepth   = 32
	maxConfInclude = 8
)

// aptConf holds apt's configuration: full names in lower case ("a::b::c") to
// the value that was set last (apt.conf(5)).
type aptConf map[string]string

func (c aptConf) get(name string) string { return c[strings.ToLower(name)] }

// readAptConf reads the host's configuration in apt's order. A file that
// cannot be parsed counts as far as it could be read: what matters here are
// proxies and certificates, and an archive that is then not reached says so.
func (h host) readAptConf() aptConf {
	c := aptConf{}
	for _, name := range h.list("/etc/apt/apt.conf.d") {
		if ext := path.Ext(name); ext == "" || ext == ".conf" {
			h.addConf(c, path.Join("/etc/apt/apt.conf.d", name), 0)
		}
	}
	h.addConf(c, "/etc/apt/apt.conf", 0)
	return c
}

func (h host) addConf(c aptConf, file string, depth int) {
	data, err := h.read(file)
	if err != nil || depth > maxConfInclude {
		return
	}
	_ = parseAptConf(data, c, func(included string) { h.addConf(c, included, depth+1) })
}

// parseAptConf adds the settings of one file to c. include is called for each
// "#include" line.
func parseAptConf(data []byte, c aptConf, include func(file string)) error {
	p := confParser{rest: string(data), conf: c, include: include}
	return p.block("", 0)
}

type confParser struct {
	rest    string
	conf    aptConf
	include func(string)
}

// block reads statements up to the '}' that closes it, or the end of the file:
//
//	Name "value";  Name { ... };  "value";  #clear Name;  #include "file";
func (p *confParser) block(scope string, depth int) error {
	if depth > maxConfDepth {
		return sandbox.Errorf(sandbox.ErrInvalid, "apt configuration nests deeper than %d", maxConfDepth)
	}
	for {
		words, end, err := p.statement()
		if err != nil {
			return err
		}
		switch end {
		case '{':
			if err := p.block(joinConf(scope, words), depth+1); err != nil {
				return err
			}
		case ';', 0:
			p.set(scope, words)
			if end == 0 {
				return nil
			}
		case '}':
			p.set(scope, words)
			return nil
		}
	}
}

// statement reads words up to '{', '}', ';' or the end of the file (0).
func (p *confParser) statement() (words []string, end byte, err error) {
	for {
		p.skipBlanks()
		if p.rest == "" {
			return words, 0, nil
		}
		switch c := p.rest[0]; c {
		case '{', '}', ';':
			p.rest = p.rest[1:]
			return words, c, nil
		case '"':
			value, rest, ok := strings.Cut(p.rest[1:], `"`)
			if !ok {
				return nil, 0, sandbox.Errorf(sandbox.ErrInvalid, "apt configuration: quote is not closed")
			}
			words, p.rest = append(words, value), rest
		default:
			i := strings.IndexAny(p.rest, " \t\r\n{};\"")
			if i < 0 {
				i = len(p.rest)
			}
			words, p.rest = append(words, p.rest[:i]), p.rest[i:]
		}
	}
}

// skipBlanks passes blanks and comments; '#' begins one too unless it is a
// directive.
func (p *confParser) skipBlanks() {
	for {
		p.rest = strings.TrimLeft(p.rest, " \t\r\n")
		lower := strings.ToLower(p.rest[:min(len(p.rest), 9)])
		switch {
		case strings.HasPrefix(p.rest, "/*"):
			_, rest, ok := strings.Cut(p.rest[2:], "*/")
			if p.rest = rest; !ok {
				p.rest = ""
			}
		case strings.HasPrefix(p.rest, "//"),
			strings.HasPrefix(p.rest, "#") && !strings.HasPrefix(lower, "#clear") && !strings.HasPrefix(lower, "#include"):
			_, p.rest, _ = strings.Cut(p.rest, "\n")
		default:
			return
		}
	}
}

func (p *confParser) set(scope string, words []string) {
	if len(words) == 0 {
		return
	}
	switch strings.ToLower(words[0]) {
	case "#include":
		if len(words) > 1 {
			p.include(words[1])
		}
	case "#clear":
		for _, w := range words[1:] {
			name := strings.ToLower(w)
			for k := range p.conf {
				if k == name || strings.HasPrefix(k, name+"::") {
					delete(p.conf, k)
				}
			}
		}
	default:
		// A lone word is an element of a list; none of those matters here.
		if len(words) > 1 {
			p.conf[joinConf(scope, words[:1])] = words[1]
		}
	}
}

func joinConf(scope string, words []string) string {
	name := scope
	if len(words) > 0 {
		if name != "" {
			name += "::"
		}
		name += words[0]
	}
	return strings.ToLower(name)
}
