package template

// leanScript keeps documentation and translations out, which nobody reads in a
// sandbox and which are half of all files; licences stay.
const leanScript = `
mkdir -p /etc/dpkg/dpkg.cfg.d
cat >/etc/dpkg/dpkg.cfg.d/50-berth-lean <<'EOF'
force-unsafe-io
path-exclude=/usr/share/doc/*
path-include=/usr/share/doc/*/copyright
path-exclude=/usr/share/man/*
path-exclude=/usr/share/info/*
path-exclude=/usr/share/locale/*
path-exclude=/usr/share/gtk-doc/*
path-exclude=/usr/share/lintian/*
EOF
# Packages unpacked before base-files was configured made these as folders.
for d in run lock; do
	[ ! -d /var/$d ] || [ -L /var/$d ] && continue
	rm -rf /var/$d
done
mkdir -p /run/lock
ln -sfn /run /var/run
ln -sfn /run/lock /var/lock
`

// fromScript makes a base of an image that has apt. Releases differ in what
// they have: without the first few it is no base, without others it is a
// poorer one.
const fromScript = `
command -v apt-get >/dev/null || { echo "the image has no apt-get: a base can be built on Debian, Ubuntu and what is made of them"; exit 1; }
mkdir -p /etc/dpkg/dpkg.cfg.d
printf 'force-unsafe-io\n' >/etc/dpkg/dpkg.cfg.d/50-berth-lean
dpkg --configure -a
apt-get update -q
wanted="` + commonPackages + ` docker.io docker-cli docker-buildx docker-compose docker-compose-v2"
apt-cache show --no-all-versions $wanted 2>/dev/null | sed -n 's/^Package: //p' | sort -u >/tmp/berth-available
names=
for n in $wanted; do
	if [ $n = docker-compose ] && grep -qx docker-compose-v2 /tmp/berth-available; then
		continue
	fi
	if grep -qx $n /tmp/berth-available; then
		names="$names $n"
		continue
	fi
	case $n in
	git|nodejs|python3|make|curl|jq|sudo|ca-certificates) echo "the image's archive has no package $n"; exit 1 ;;
	esac
	echo "left out, because the image's archive does not have it: $n"
done
apt-get install -y -q --no-install-recommends $names
`

// userScript makes the guest's user, and takes over one that has its uid, as
// Ubuntu's images have. The PATH of a login shell is made by /etc/profile.
const userScript = `
other=$(getent passwd 1000 | cut -d: -f1) || other=
if [ -n "$other" ] && [ "$other" != agent ]; then
	userdel -r "$other" 2>/dev/null || userdel "$other"
fi
group=$(getent group 1000 | cut -d: -f1) || group=
if [ -z "$group" ]; then
	groupadd -g 1000 agent
elif [ "$group" != agent ]; then
	groupmod -n agent "$group"
fi
id agent >/dev/null 2>&1 || useradd -m -u 1000 -g 1000 -s /bin/bash agent
for g in sudo docker; do
	if getent group $g >/dev/null; then usermod -aG $g agent; fi
done
cat >/etc/sudoers.d/agent <<'EOF'
agent ALL=(ALL:ALL) NOPASSWD:ALL
Defaults env_keep += "NODE_EXTRA_CA_CERTS SSL_CERT_FILE REQUESTS_CA_BUNDLE"
EOF
chmod 0440 /etc/sudoers.d/agent
# The guest's kernel speaks the older of the two languages of packet filters,
# which Docker's resolver for user networks needs.
for t in iptables ip6tables; do
	[ ! -x /usr/sbin/$t-legacy ] || update-alternatives --set $t /usr/sbin/$t-legacy >/dev/null
done
ln -sf /usr/bin/python3 /usr/local/bin/python
# A login shell starts with a PATH of its own.
cat >/etc/profile.d/berth.sh <<'EOF'
PATH="` + guestPath + `"
for dir in /opt/berth/agent/*/bin; do
	[ -d "$dir" ] && PATH="$dir:$PATH"
done
[ -d "$HOME/.local/bin" ] && PATH="$HOME/.local/bin:$PATH"
[ -d "$HOME/go/bin" ] && PATH="$HOME/go/bin:$PATH"
unset dir
export PATH
EOF
# sudo tells first-time users about itself until this is there.
touch /home/agent/.sudo_as_admin_successful
chown -R agent:agent /home/agent
`

const cleanScript = `
apt-get clean
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/log/apt /var/log/dpkg.log /var/log/alternatives.log /root/.npm /root/.cache /tmp/* /var/tmp/*
rm -f /var/cache/debconf/*-old /var/lib/dpkg/*-old
`
