package e2e

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	osuser "os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"berth.dev/internal/audit"
)

// Hosts of these tests: where the user works, and one that they do not want
// anything to sign in to.
const (
	forgeHost = "git.example"
	otherHost = "other.example"
)

// signer is a user with an SSH agent, a key in it, and forges that know the key.
type signer struct {
	*user
	sock   string
	public string // the key, as authorized_keys has it
	login  string // at the forges
	forges map[string]*forge
}

// forge is a real sshd that serves repositories.
type forge struct {
	port  int
	host  ssh.PublicKey
	repos string
}

// newSigner has a home and a BERTH_HOME of its own.
func newSigner(t *testing.T, u *user) *signer {
	t.Helper()
	home, err := os.MkdirTemp(u.home, "h-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	own := u.apart(t)
	own.home = home
	s := &signer{user: own, sock: filepath.Join(home, "agent"), forges: map[string]*forge{}}
	me, err := osuser.Current()
	if err != nil {
		t.Fatal(err)
	}
	s.login = me.Username

	key := filepath.Join(home, ".ssh", "id_ed25519")
	if err := os.Mkdir(filepath.Dir(key), 0o700); err != nil {
		t.Fatal(err)
	}
	s.own(t)
	s.host(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "the user's key", "-f", key)
	public, err := os.ReadFile(key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	s.public = string(public)
	agent := s.program(context.Background(), lookPath(t, "ssh-agent"), "", "-D", "-a", s.sock)
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = agent.Process.Kill()
		_ = agent.Wait()
	})
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if conn, err := net.Dial("unix", s.sock); err == nil {
			conn.Close()
			break
		}
		if time.Now().After(end) {
			t.Fatal("the SSH agent does not start")
		}
	}
	s.host(t, "ssh-add", "-q", key)

	var known, settings strings.Builder
	for _, name := range []string{forgeHost, otherHost} {
		f := newForge(t, s.public)
		s.forges[name] = f
		fmt.Fprintf(&known, "%s %s", name, ssh.MarshalAuthorizedKey(f.host))
		fmt.Fprintf(&settings, "[[upstream]]\nhost = %q\nport = 22\naddress = \"127.0.0.1:%d\"\n\n", name, f.port)
	}
	git := "[user]\n\tname = Ann\n\temail = ann@example.com\n\tsigningkey = ~/.ssh/id_ed25519\n[gpg]\n\tformat = ssh\n[commit]\n\tgpgsign = true\n"
	for name, text := range map[string]string{
		filepath.Join(home, ".ssh", "known_hosts"): known.String(), filepath.Join(home, ".gitconfig"): git,
		filepath.Join(own.berthHome, "config", "config.toml"): settings.String(),
	} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s.own(t)
	return s
}

// own gives the home to its user.
func (s *signer) own(t *testing.T) {
	t.Helper()
	if out, err := exec.Command("chown", "-R", fmt.Sprint(s.uid, ":", s.uid), s.home).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func lookPath(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil && name == "sshd" {
		return "/usr/sbin/sshd" // not in the PATH of ordinary users
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// host runs a program of the host's with the user's agent. It is the test that
// runs it: some of OpenSSH's want to find who they run as in /etc/passwd.
func (s *signer) host(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, lookPath(t, name), args...)
	cmd.Dir, cmd.Env = s.home, []string{"HOME=" + s.home, "PATH=" + os.Getenv("PATH"), "SSH_AUTH_SOCK=" + s.sock}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return string(out)
}

// inside runs a script in the sandbox with the agent, as the flag has it.
func (s *signer) inside(t *testing.T, ws, name, flag, script string, more ...string) result {
	t.Helper()
	args := append([]string{"exec", flag, "-w", ws}, more...)
	return s.run(t, ws, []string{"SSH_AUTH_SOCK=" + s.sock}, append(args, name, "sh", "-ec", script)...)
}

// sandbox makes one that may connect to the forges.
func (s *signer) sandbox(t *testing.T) (ws, name string) {
	t.Helper()
	ws, name = s.workspace(t), s.fresh(t)
	s.must(t, ws, "create", "-q", "--name", name, "shell", ws)
	s.must(t, ws, "policy", "allow", "--sandbox", name, forgeHost+":22", otherHost+":22")
	return ws, name
}

// url is a repository as git has it.
func (s *signer) url(host string) string {
	return s.login + "@" + host + ":" + s.forges[host].repos + "/app.git"
}

// newForge starts OpenSSH's server for one key, with one repository of one
// commit.
func newForge(t *testing.T, authorized string) *forge {
	t.Helper()
	dir := t.TempDir()
	f := &forge{repos: filepath.Join(dir, "repos")}
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if f.host, err = ssh.NewPublicKey(pub); err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(priv, "")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.port = l.Addr().(*net.TCPAddr).Port
	l.Close()
	config := fmt.Sprintf("ListenAddress 127.0.0.1:%d\nHostKey %s/host\nAuthorizedKeysFile %s/authorized\nStrictModes no\nPidFile none\nPermitRootLogin yes\nUsePAM no\n", f.port, dir, dir)
	for name, data := range map[string][]byte{"host": pem.EncodeToMemory(block), "authorized": []byte(authorized), "config": []byte(config)} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if os.Geteuid() == 0 {
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	seed := filepath.Join(dir, "seed")
	for _, args := range [][]string{
		{"init", "-q", "-b", "main", seed},
		{"-C", seed, "-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false", "commit", "-q", "--allow-empty", "-m", "first"},
		{"clone", "-q", "--bare", seed, filepath.Join(f.repos, "app.git")},
	} {
		cmd := exec.Command("git", args...)
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	var log bytes.Buffer
	cmd := exec.Command(lookPath(t, "sshd"), "-D", "-e", "-f", filepath.Join(dir, "config"))
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("sshd says\n%s", log.String())
		}
	})
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", f.port)); err == nil {
			conn.Close()
			return f
		}
		if time.Now().After(end) {
			t.Fatal("sshd does not start")
		}
	}
}

// uses are the lines of the record about the agent, without its beginning.
func (s *signer) uses(t *testing.T, name string) []string {
	t.Helper()
	events, _ := s.events(t, name, "--secrets")
	var lines []string
	for _, e := range events {
		if e.Protocol == audit.SSHAgent && e.Method != "forward" {
			lines = append(lines, fmt.Sprintf("%s %s %s@%s: %s", e.Verdict, e.Method, e.Detail, e.Name, e.Reason))
		}
	}
	return lines
}

// TestSSHAgent: git clones, commits with a signature and pushes over SSH, with
// the user's key, which stays outside.
func TestSSHAgent(t *testing.T) {
	each(t, func(t *testing.T, u *user) {
		s := newSigner(t, u)
		ws, name := s.sandbox(t)
		r := s.inside(t, ws, name, "--ssh-agent="+forgeHost+",commits", `
			cd "$(mktemp -d)"
			git clone -q `+s.url(forgeHost)+` app
			cd app
			git commit -q --allow-empty -m signed
			git push -q origin HEAD:main
			git rev-parse HEAD
			ssh-add -L
			stat -c '%a %U' "$SSH_AUTH_SOCK" "$(dirname "$SSH_AUTH_SOCK")"
			echo "$SSH_AUTH_SOCK"`)
		lines := strings.Split(strings.TrimSpace(r.out), "\n")
		if r.code != 0 || len(lines) != 5 {
			t.Fatalf("%+v\n%s", r, strings.Join(s.uses(t, name), "\n"))
		}
		commit, sock := lines[0], lines[4]
		if lines[1] != strings.TrimSpace(s.public) || lines[2] != "600 agent" || lines[3] != "700 agent" {
			t.Errorf("the key and the socket: %q", lines[1:4])
		}
		// The forge has it, and the user's Git finds the signature good.
		signers := filepath.Join(s.home, "signers")
		if err := os.WriteFile(signers, []byte("ann@example.com "+s.public), 0o644); err != nil {
			t.Fatal(err)
		}
		verify := exec.Command("git", "-C", filepath.Join(s.forges[forgeHost].repos, "app.git"), "-c", "gpg.ssh.allowedSignersFile="+signers, "verify-commit", "-v", commit)
		if out, err := verify.CombinedOutput(); err != nil || !strings.Contains(string(out), `Good "git" signature for ann@example.com`) || !strings.Contains(string(out), "author Ann <ann@example.com>") {
			t.Errorf("verify-commit: %v\n%s", err, out)
		}
		// The record: two sign-ins and a commit, by which key.
		want := []string{
			"allow sign-in " + s.login + "@" + forgeHost + ": approved by --ssh-agent",
			"allow commit @commits: approved by --ssh-agent",
			"allow sign-in " + s.login + "@" + forgeHost + ": approved by --ssh-agent",
		}
		if got := s.uses(t, name); strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("the record says\n%s", strings.Join(got, "\n"))
		}
		table := s.must(t, ws, "log", "--secrets", name)
		fingerprint := strings.Fields(s.host(t, "ssh-add", "-l"))[1]
		for _, text := range []string{"the user's key " + fingerprint + " for " + s.login + "@" + forgeHost, "for a commit", "approved: " + forgeHost + ", commits"} {
			if !strings.Contains(table, text) {
				t.Errorf("log --secrets lacks %q:\n%s", text, table)
			}
		}
		// All of it ended with the command; what is written stays harmless.
		r = s.run(t, ws, []string{"SSH_AUTH_SOCK=" + s.sock}, "exec", "-w", ws, name, "sh", "-c",
			`test ! -e "$(dirname `+sock+`)" && echo "<$SSH_AUTH_SOCK$GIT_CONFIG_SYSTEM>"; cd "$(mktemp -d)"; git init -q; git commit -q --allow-empty -m plain && git cat-file -p HEAD`)
		if r.code != 0 || !strings.HasPrefix(r.out, "<>\n") || strings.Contains(r.out, "SIGNATURE") {
			t.Errorf("afterwards: %+v", r)
		}
		if r := s.inside(t, ws, name, "-q", "ssh -o BatchMode=yes "+s.login+"@"+forgeHost+" true"); r.code == 0 {
			t.Error("it signs in without --ssh-agent")
		}
		// The key's own bytes are nowhere inside, and cannot be brought there.
		for _, v := range []string{s.home + "/.ssh:/mnt/ssh:ro", s.home + "/.ssh/id_ed25519:/mnt/key:ro"} {
			if r := s.run(t, ws, nil, "create", "--force", "--name", s.fresh(t), "-v", v, "shell", ws); r.code == 0 || !strings.Contains(r.err, "--ssh-agent") {
				t.Errorf("-v %s: %+v", v, r)
			}
		}
	})
}

// TestSSHAgentAsks: each destination waits for the user's word in another
// terminal, and a no holds.
func TestSSHAgentAsks(t *testing.T) {
	least(t, func(t *testing.T, u *user) {
		s := newSigner(t, u)
		// As distributions hash it: the names are those that the guest looked up.
		s.host(t, "ssh-keygen", "-q", "-H", "-f", filepath.Join(s.home, ".ssh", "known_hosts"))
		s.own(t)
		ws, name := s.sandbox(t)
		asked := s.watch(t, ws, name)
		done := make(chan result, 1)
		go func() {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			cmd := s.command(ctx, ws, "exec", "--ssh-agent", "-w", ws, name, "sh", "-c", `
				cd "$(mktemp -d)"
				for host in `+forgeHost+" "+otherHost+`; do
					for n in 1 2; do
						ssh -o BatchMode=yes `+s.login+`@$host echo in to $host || echo not in to $host
					done
				done
				git init -q; git commit -q --allow-empty -m signed && echo committed`)
			cmd.Env = append(cmd.Env, "SSH_AUTH_SOCK="+s.sock)
			var out, errs bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &errs
			err := cmd.Run()
			done <- result{out.String(), fmt.Sprint(errs.String(), err), 0}
		}()
		for _, step := range []struct{ host, answer string }{{forgeHost, "session"}, {otherHost, "never"}, {"commits", "once"}} {
			select {
			case q := <-asked:
				if q.Host != step.host || q.Sandbox != name {
					t.Fatalf("asked about %+v", q)
				}
				if step.host == forgeHost {
					if r := s.run(t, ws, nil, "policy", "answer", q.ID, "always"); r.code == 0 {
						t.Errorf("an answer about the network: %+v", r)
					}
					if out := s.must(t, ws, "policy", "pending", name); !strings.Contains(out, "to sign in to "+forgeHost+" as \""+s.login+"\" with your SSH key the user's key") {
						t.Errorf("pending prints\n%s", out)
					}
				}
				s.must(t, ws, "policy", "answer", q.ID, step.answer)
			case r := <-done:
				t.Fatalf("not asked about %s: %+v\n%s", step.host, r, strings.Join(s.uses(t, name), "\n"))
			}
		}
		r := <-done
		want := "in to " + forgeHost + "\nin to " + forgeHost + "\nnot in to " + otherHost + "\nnot in to " + otherHost + "\ncommitted\n"
		if r.out != want {
			t.Errorf("%+v", r)
		}
		got := strings.Join(s.uses(t, name), "\n")
		if strings.Count(got, "allow sign-in") != 2 || strings.Count(got, "deny sign-in "+s.login+"@"+otherHost+": you did not allow it") != 2 || !strings.Contains(got, "allow commit") {
			t.Errorf("the record says\n%s", got)
		}
		if _, text := s.events(t, name, "--kind", "decision"); !strings.Contains(text, "never: the user's key") {
			t.Errorf("the record of the answers:\n%s", text)
		}
		// Asked at a desktop, as ssh-add -c does.
		askpass := filepath.Join(s.home, "askpass")
		script := "#!/bin/sh\necho \"$SSH_ASKPASS_PROMPT $1\" >> " + s.home + "/asked\ncase $1 in *" + otherHost + "*) exit 1;; esac\n"
		if err := os.WriteFile(askpass, []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		r = s.run(t, ws, []string{"SSH_AUTH_SOCK=" + s.sock, "SSH_ASKPASS=" + askpass, "SSH_ASKPASS_REQUIRE=force"}, "exec", "--ssh-agent", name, "sh", "-c",
			"ssh -o BatchMode=yes "+s.login+"@"+forgeHost+" echo in; ssh -o BatchMode=yes "+s.login+"@"+otherHost+" echo in")
		text, err := os.ReadFile(filepath.Join(s.home, "asked"))
		if r.out != "in\n" || err != nil || strings.Count(string(text), "confirm Sandbox "+name+" wants to sign in to") != 2 {
			t.Errorf("%+v; %v, asked\n%s", r, err, text)
		}
	})
}

// TestSSHAgentTerminal: a command that reads nothing leaves the terminal free for
// questions; one that does is not disturbed.
func TestSSHAgentTerminal(t *testing.T) {
	least(t, func(t *testing.T, u *user) {
		s := newSigner(t, u)
		ws, name := s.sandbox(t)
		signIn := func(host string) string {
			return "ssh -n -o BatchMode=yes " + s.login + "@" + host + " echo in to " + host + " || echo not in to " + host
		}
		env := []string{"SSH_AUTH_SOCK=" + s.sock}
		screen := s.openWith(t, ws, env, "exec", "--ssh-agent", name, "sh", "-c", signIn(forgeHost)+";"+signIn(otherHost)+";"+signIn(forgeHost)+"; echo the end")
		screen.keys("never\r") // before there is a question, so the answer to none
		screen.see("wants to sign in to " + forgeHost + " as \"" + s.login + "\" with your SSH key the user's key\r\n  allow [o]nce, in this [s]ession, [N]ever in it: ")
		screen.keys("s\r")
		screen.see("\nin to " + forgeHost)
		screen.see("wants to sign in to " + otherHost)
		screen.keys("\r")
		screen.see("not in to " + otherHost)
		screen.see("the end\r\n")
		if err := screen.wait(); err != nil {
			t.Errorf("%v\n%s", err, screen.text())
		}
		if got := screen.text(); strings.Count(got, "wants to sign in") != 2 || strings.Count(got, "\nin to "+forgeHost) != 2 {
			t.Errorf("on the terminal:\n%s", got)
		}

		// An agent's own terminal stays its own.
		screen = s.openWith(t, ws, env, "run", "--ssh-agent", name)
		screen.see("berth policy pending --watch " + name)
		asked := s.watch(t, ws, name)
		screen.keys("PS1='$((6*7))> '; clear\r")
		screen.see("42> ")
		screen.keys(signIn(forgeHost) + "\r")
		q := <-asked
		screen.keys("echo free-$((1+1))\r") // what is typed is the shell's
		s.must(t, ws, "policy", "answer", q.ID, "session")
		screen.see("\nin to " + forgeHost)
		screen.see("free-2")
		if strings.Contains(screen.text(), "wants to sign in") {
			t.Errorf("asked in the session's terminal:\n%s", screen.text())
		}
		// Left running, it has the agent no longer.
		screen.keys("\x10\x11") // ctrl-p ctrl-q
		screen.see("it can no longer use your SSH agent")
		if err := screen.wait(); err != nil {
			t.Errorf("leaving: %v", err)
		}
		again := s.openWith(t, ws, env, "run", "--ssh-agent", name)
		again.see("still running here")
		if err := again.wait(); err == nil {
			t.Error("a session that runs is given an agent")
		}
		back := s.open(t, ws, "attach", name)
		back.keys("\r" + signIn(forgeHost) + "\r")
		back.see("\nnot in to " + forgeHost)
		back.keys("exit\r")
		_ = back.wait()
	})
}

// TestAdversarySSHAgent: programs inside try to have more of the agent than what
// was approved, each of which the agent itself would do.
func TestAdversarySSHAgent(t *testing.T) {
	least(t, func(t *testing.T, u *user) {
		s := newSigner(t, u)
		ws, name := s.sandbox(t)
		for _, tt := range []struct{ what, script, why string }{
			{"a signature of a file", `echo x > f; ssh-add -L > k.pub; ssh-keygen -q -Y sign -n file -f k.pub f; test -s f.sig`, `namespace "file"`},
			{"all keys removed", `ssh-add -q -D; ! ssh-add -l | grep -q "the user's key"`, "to remove all keys"},
			{"a key added", `ssh-keygen -q -t ed25519 -N "" -C "the guest's" -f k; ssh-add -q k; ssh-add -l | grep -q "the guest's"`, "to add a key"},
			{"the agent locked", `python3 -c '
import os, socket
s = socket.socket(socket.AF_UNIX); s.connect(os.environ["SSH_AUTH_SOCK"]); s.sendall(b"\0\0\0\7\26\0\0\0\2pw"); assert s.recv(9)[4] == 6'`, "to lock the agent"},
			{"any data signed", `python3 -c '
import os, socket, base64, struct, subprocess
key = base64.b64decode(subprocess.check_output(["ssh-add", "-L"]).split()[1])
s = socket.socket(socket.AF_UNIX); s.connect(os.environ["SSH_AUTH_SOCK"])
p = lambda b: struct.pack(">I", len(b)) + b
s.sendall(p(b"\15" + p(key) + p(b"anything") + p(b"")[:4])); assert s.recv(9)[4] == 14'`, "neither a sign-in nor a commit"},
			// A client of SSH that says for itself which session it is in.
			{"a session that is not bound", `SSH_AUTH_SOCK="$SSH_AUTH_SOCK" python3 -c '
import os, socket, base64, struct, subprocess
key = base64.b64decode(subprocess.check_output(["ssh-add", "-L"]).split()[1])
s = socket.socket(socket.AF_UNIX); s.connect(os.environ["SSH_AUTH_SOCK"])
p = lambda b: struct.pack(">I", len(b)) + b
data = p(b"s" * 32) + b"\62" + p(b"git") + p(b"ssh-connection") + p(b"publickey") + b"\1" + p(b"ssh-ed25519") + p(key)
s.sendall(p(b"\15" + p(key) + p(data) + p(b"")[:4])); assert s.recv(9)[4] == 14'`, "did not say which server"},
		} {
			script := `cd "$(mktemp -d)"; ` + tt.script
			if r := s.inside(t, ws, name, "--ssh-agent="+forgeHost+","+otherHost+",commits", script); r.code == 0 {
				t.Errorf("%s: it worked inside: %+v", tt.what, r)
			}
			if got := s.uses(t, name); len(got) == 0 || !strings.Contains(strings.Join(got, "\n"), tt.why) || strings.Contains(strings.Join(got, "\n"), "allow") {
				t.Errorf("%s: the record says\n%s", tt.what, strings.Join(got, "\n"))
			}
			if out := s.host(t, "ssh-add", "-l"); !strings.Contains(out, "the user's key") || strings.Contains(out, "the guest's") {
				t.Errorf("%s: afterwards the agent has\n%s", tt.what, out)
			}
		}
		// On the host, with the agent itself, each of them does; the last ones to
		// come are those that change it.
		for _, script := range []string{
			`echo x > f; ssh-add -L > k.pub; ssh-keygen -q -Y sign -n file -f k.pub f; test -s f.sig`,
			`ssh-keygen -q -t ed25519 -N "" -C "the guest's" -f k; ssh-add -q k; ssh-add -l | grep -q "the guest's"`,
			`ssh-add -q -D; ! ssh-add -l | grep -q "the user's key"`,
		} {
			s.host(t, "sh", "-ec", `cd "$(mktemp -d -p "$HOME")"; `+script)
		}
	})
}

// TestSSHAgentErrors: what cannot be is said before anything starts.
func TestSSHAgentErrors(t *testing.T) {
	least(t, func(t *testing.T, u *user) {
		ws, name := u.workspace(t), u.fresh(t)
		u.must(t, ws, "create", "-q", "--name", name, "shell", ws)
		for _, tt := range []struct {
			env, args []string
			says      string
		}{
			{nil, []string{"exec", "--ssh-agent", name, "true"}, "SSH_AUTH_SOCK is not set"},
			{[]string{"SSH_AUTH_SOCK=/nowhere/agent"}, []string{"exec", "--ssh-agent", name, "true"}, "does not answer"},
			{[]string{"SSH_AUTH_SOCK=/nowhere/agent"}, []string{"run", "--ssh-agent", name, "--", "-c", "true"}, "does not answer"},
			{[]string{"SSH_AUTH_SOCK=/nowhere/agent"}, []string{"exec", "-d", "--ssh-agent", name, "true"}, "-d ends it at once"},
			{nil, []string{"exec", "--ssh-agent=*.example", name, "true"}, "is no host"},
		} {
			if r := u.run(t, ws, tt.env, tt.args...); r.code == 0 || !strings.Contains(r.err, tt.says) {
				t.Errorf("%v: %+v", tt.args, r)
			}
		}
	})
}
