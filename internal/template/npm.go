package template

import (
	"context"
	"net"
	"net/url"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

const (
	// minNode is the lowest major version of Node.js that a base is left with:
	// the highest that a row of the agents' table asks for.
	minNode = 20
	// newNode is the major version that takes the place of an older one, and
	// that images which have none are given.
	newNode = 22
)

// npmScript installs npm beside the distribution's Node.js, and a newer Node.js
// where that one is too old. The distribution's own package of npm is an old
// npm and several hundred packages; the registry's is one file. Which registry
// that is the host's npm says; where there is none ("" here), the
// distribution's package is looked into for the default that it has, and only
// when that does not help is it installed.
func npmScript(registry string) string {
	return strings.NewReplacer(
		"@REGISTRY@", registry, "@MIN@", strconv.Itoa(minNode), "@NODE@", strconv.Itoa(newNode),
	).Replace(npmTemplate)
}

const npmTemplate = `
registry='@REGISTRY@'
configured=$registry
work=/tmp/berth-npm
rm -rf $work
mkdir -p $work
cd $work
if [ -z "$registry" ]; then
	apt-get update -q
	apt-get download -q npm
	dpkg-deb -x npm_*.deb deb
	registry=$(cat deb/usr/share/nodejs/npm/lib/utils/config/definitions.js deb/usr/share/nodejs/@npmcli/config/lib/definitions/definitions.js 2>/dev/null |
		sed -n "s/^ *default: '\(https:[^']*\)',*$/\1/p" | head -n 1)
	registry=${registry%/}
fi
install_npm() {
	# The newest npm of the line that goes with this Node.js, as their
	# engines fields say.
	curl -fsSL --retry 3 -H 'Accept: application/vnd.npm.install-v1+json' "$registry/npm" -o versions.json
	jq -er --arg node "$(node -p process.versions.node)" '
		($node | split(".") | map(tonumber)) as $have
		| (if $have >= [20, 17] then "11" elif $have >= [18, 17] then "10" else "8" end) as $line
		| .versions | to_entries | map(select(.key | test("^" + $line + "\\.[0-9]+\\.[0-9]+$")))
		| sort_by(.key | split(".") | map(tonumber)) | last | .value.dist | .tarball, .integrity' versions.json >found
	{ read -r tarball; read -r integrity; } <found
	curl -fsSL --retry 3 "$tarball" -o npm.tgz
	sum=$(openssl dgst -sha512 -binary npm.tgz | openssl base64 -A)
	if [ "sha512-$sum" != "$integrity" ]; then
		echo "npm.tgz has the digest sha512-$sum, the registry says $integrity"
		exit 1
	fi
	dir=/usr/local/lib/node_modules/npm
	rm -rf $dir
	mkdir -p $dir
	tar -xzf npm.tgz -C $dir --strip-components=1 --no-same-owner
	rm -rf $dir/docs $dir/man
	chmod +x $dir/bin/npm-cli.js $dir/bin/npx-cli.js
	ln -sf ../lib/node_modules/npm/bin/npm-cli.js /usr/local/bin/npm
	ln -sf ../lib/node_modules/npm/bin/npx-cli.js /usr/local/bin/npx
}
if [ -n "$registry" ]; then
	install_npm
else
	apt-get install -y -q --no-install-recommends npm
fi
npm config set --global prefix /usr/local
npm config set --global update-notifier false
[ -z "$configured" ] || npm config set --global registry "$configured"
if [ "$(node -p 'process.versions.node.split(".")[0]')" -lt @MIN@ ]; then
` + nodeInstall + `
	install_node /usr/local
	hash -r
	[ -z "$registry" ] || install_npm
fi
cd /
rm -rf $work
node --version
npm --version
`

// nodeInstall defines install_node PREFIX: a Node.js out of the npm registry.
// It is npm that checks its digest.
const nodeInstall = `
install_node() {
	case $(uname -m) in
	x86_64) cpu=x64 ;;
	aarch64) cpu=arm64 ;;
	*) echo "there is no Node.js for $(uname -m)"; exit 1 ;;
	esac
	npm install -g --no-fund --no-audit --prefix "$1" "node-linux-$cpu@@NODE@"
	at=lib/node_modules/node-linux-$cpu
	rm -rf "$1/$at/include" "$1/$at/share" "$1/$at/CHANGELOG.md"
	mkdir -p "$1/bin"
	ln -sf "../$at/bin/node" "$1/bin/node"
}`

// nodeScript installs a Node.js in a folder of its own.
func nodeScript(prefix string) string {
	return strings.ReplaceAll(nodeInstall, "@NODE@", strconv.Itoa(newNode)) +
		"\nmkdir -p " + prefix + "\ninstall_node " + prefix + "\n" + prefix + "/bin/node --version\n"
}

// askTime bounds a question to a program of the host.
const askTime = 10 * time.Second

// hostRegistry asks the host's npm which registry it uses; "" when there is no
// npm, or its answer is of no use in a guest.
func hostRegistry(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "npm", "config", "get", "registry")
	cmd.Dir = "/" // not a project's own settings
	out, err := cmd.Output()
	if err != nil {
		return ""
	}
	return mirrorURL(string(out))
}

// mirrorURL returns an address out of the host's configuration as a guest may
// have it, with no slash at its end. It is "" for what is no http address, for
// one on the host's loopback, which the guest does not reach, and for one with
// a user or password in it: secrets stay on the host, and without them it
// would not answer.
func mirrorURL(s string) string {
	u, err := url.Parse(strings.TrimSpace(s))
	if err != nil || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" ||
		(u.Scheme != "https" && u.Scheme != "http") || isLoopback(u.Hostname()) {
		return ""
	}
	text := strings.TrimSuffix(u.String(), "/")
	// It becomes part of scripts and settings files.
	if strings.ContainsAny(text, "'\"\\`$ \t\r\n") {
		return ""
	}
	return text
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || ip != nil && ip.IsLoopback()
}
