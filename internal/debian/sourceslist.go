package debian

import (
	"bytes"
	"fmt"
	"path"
	"slices"
	"strings"

	"berth.dev/internal/sandbox"
)

// aptSource is one archive and suite of a host's apt sources (sources.list(5)).
type aptSource struct {
	uri        string // as it stands there, without trailing slashes
	suite      string
	components []string
	archs      []string // empty: all that the host has
	signedBy   string   // paths, fingerprints or an inline key block; "" when absent
	file       string   // where it stands, for messages

	ignoreValidUntil bool
	ignoreDate       bool
}

// parseSourceLines reads the one-line format: deb [options] uri suite
// components. apt ignores what follows a '#' and so does this; a line that
// makes no sense is an error that names it.
func parseSourceLines(file string, data []byte) ([]aptSource, error) {
	var all []aptSource
	for i, line := range strings.Split(string(data), "\n") {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) == 0 || words[0] == "deb-src" {
			continue
		}
		bad := func(what string) error {
			return sandbox.Errorf(sandbox.ErrInvalid, "%s: line %d: %s", file, i+1, what)
		}
		if words[0] != "deb" {
			return nil, bad(fmt.Sprintf("type %q is not known", words[0]))
		}
		options, words, ok := cutOptions(words[1:])
		if !ok || len(words) < 2 {
			return nil, bad("not of the form deb [options] uri suite components")
		}
		src := aptSource{uri: strings.TrimRight(words[0], "/"), suite: words[1], components: words[2:], file: file}
		for _, o := range options {
			src.setOption(o)
		}
		all = append(all, src)
	}
	return all, nil
}

// cutOptions takes the "[a=b c=d]" off the front of a line's words; blanks may
// stand next to the brackets.
func cutOptions(words []string) (options, rest []string, ok bool) {
	if len(words) == 0 || !strings.HasPrefix(words[0], "[") {
		return nil, words, true
	}
	for i, w := range words {
		if i == 0 {
			w = w[1:]
		}
		last := strings.HasSuffix(w, "]")
		if w = strings.TrimSuffix(w, "]"); w != "" {
			options = append(options, w)
		}
		if last {
			return options, words[i+1:], true
		}
	}
	return nil, nil, false
}

// setOption takes over the options that say how an archive is trusted. The
// option trusted=yes is left out on purpose: nothing here is trusted without a
// signature.
func (s *aptSource) setOption(o string) {
	key, value, _ := strings.Cut(o, "=")
	switch strings.ToLower(key) {
	case "arch", "arch+":
		s.archs = append(s.archs, strings.Split(value, ",")...)
	case "signed-by":
		s.signedBy = strings.ReplaceAll(value, ",", " ")
	case "check-valid-until":
		s.ignoreValidUntil = isNo(value)
	case "check-date":
		s.ignoreDate = isNo(value)
	}
}

// parseSourceStanzas reads the deb822 format: one source for each URI and
// suite of each enabled stanza of type deb.
func parseSourceStanzas(file string, data []byte) ([]aptSource, error) {
	stanzas, err := parseStanzas(bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n")))
	if err != nil {
		return nil, sandbox.Errorf(sandbox.ErrInvalid, "%s: %w", file, err)
	}
	var all []aptSource
	for _, s := range stanzas {
		if isNo(s.get("Enabled")) || !slices.Contains(words(s.get("Types")), "deb") {
			continue
		}
		for _, uri := range words(s.get("URIs")) {
			for _, suite := range words(s.get("Suites")) {
				all = append(all, aptSource{
					uri: strings.TrimRight(uri, "/"), suite: suite, file: file,
					components:       words(s.get("Components")),
					archs:            words(s.get("Architectures")),
					signedBy:         s.get("Signed-By"),
					ignoreValidUntil: isNo(s.get("Check-Valid-Until")),
					ignoreDate:       isNo(s.get("Check-Date")),
				})
			}
		}
	}
	return all, nil
}

// readSources reads all sources of the host's apt, in apt's order. A file that
// cannot be parsed is an error only when there is nothing else: apt would
// refuse to work, but one broken third-party file is no reason for us to.
func (h host) readSources() ([]aptSource, error) {
	var all []aptSource
	var firstErr error
	note := func(s []aptSource, err error) {
		all = append(all, s...)
		if err != nil && firstErr == nil {
			firstErr = err
		}
	}
	if data, err := h.read("/etc/apt/sources.list"); err == nil {
		note(parseSourceLines("/etc/apt/sources.list", data))
	}
	for _, name := range h.list("/etc/apt/sources.list.d") {
		file := path.Join("/etc/apt/sources.list.d", name)
		parse := parseSourceLines
		switch path.Ext(name) {
		case ".list":
		case ".sources":
			parse = parseSourceStanzas
		default:
			continue
		}
		data, err := h.read(file)
		if err != nil {
			note(nil, err)
			continue
		}
		note(parse(file, data))
	}
	if len(all) == 0 {
		return nil, firstErr
	}
	return all, nil
}

// words splits a list field; deb822 lists may use commas too.
func words(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == '\t' || r == '\n' || r == ',' })
}

// isNo: the words by which apt turns a boolean off.
func isNo(s string) bool {
	switch strings.ToLower(strings.TrimSpace(s)) {
	case "no", "false", "without", "off", "disable", "0":
		return true
	}
	return false
}
