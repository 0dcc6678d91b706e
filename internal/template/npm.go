package template

import (
	"context"
	"net/url"
	"os/exec"
	"strings"
	"time"
)

// npmStep returns the script that installs npm beside the distribution's
// Node.js, or says that the distribution's own package of it has to do. That
// package is several hundred packages; the registry's is one file. Which
// registry that is, the host's npm says.
func (b *Builder) npmStep() (script string, withPackage bool) {
	registry := hostRegistry()
	if registry == "" {
		return "", true
	}
	return `
set -o pipefail 2>/dev/null || true
registry='` + registry + `'
# The newest npm of the line that goes with this Node.js: 11 needs 20.17, 12 needs 22.
tarball=$(curl -fsSL --retry 3 -H 'Accept: application/vnd.npm.install-v1+json' "$registry/npm" | jq -r --argjson node "$(node -p 'process.versions.node.split(".")[0]')" '
  (if $node >= 20 then "11" else "10" end) as $line
  | .versions | to_entries | map(select(.key | test("^" + $line + "\\.[0-9]+\\.[0-9]+$")))
  | sort_by(.key | split(".") | map(tonumber)) | last | .value.dist.tarball')
dir=/usr/local/lib/node_modules/npm
rm -rf $dir; mkdir -p $dir
curl -fsSL --retry 3 "$tarball" -o /tmp/npm.tgz
tar -xzf /tmp/npm.tgz -C $dir --strip-components=1 --no-same-owner
ln -sf ../lib/node_modules/npm/bin/npm-cli.js /usr/local/bin/npm
ln -sf ../lib/node_modules/npm/bin/npx-cli.js /usr/local/bin/npx
chmod +x $dir/bin/npm-cli.js $dir/bin/npx-cli.js
npm config set --global registry "$registry"
npm config set --global update-notifier false
rm -f /tmp/npm.tgz
npm --version`, false
}

// hostRegistry asks the host's npm which registry it uses; "" when there is no
// npm, or its answer is no plain address. Credentials in it are not taken over.
func hostRegistry() string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "npm", "config", "get", "registry")
	cmd.Dir = "/"
	out, err := cmd.Output()
	if err != nil {
		return ""
	}
	u, err := url.Parse(strings.TrimSpace(string(out)))
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") {
		return ""
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	s := strings.TrimSuffix(u.String(), "/")
	if strings.ContainsAny(s, "'\\\n\r ") {
		return ""
	}
	return s
}
