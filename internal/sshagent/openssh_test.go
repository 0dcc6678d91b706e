package sshagent

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// sshd starts OpenSSH's server with a host key, for whoever runs the test; it
// runs nothing but "true" and "ssh". It returns its port.
func sshd(t *testing.T, host any, authorized ...ssh.PublicKey) int {
	t.Helper()
	path, err := exec.LookPath("sshd")
	if err != nil {
		path = "/usr/sbin/sshd" // not in the PATH of ordinary users
	}
	dir := t.TempDir()
	block, err := ssh.MarshalPrivateKey(host, "")
	if err != nil {
		t.Fatal(err)
	}
	var keys bytes.Buffer
	for _, k := range authorized {
		keys.Write(ssh.MarshalAuthorizedKey(k))
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	config := fmt.Sprintf("ListenAddress 127.0.0.1:%d\nHostKey %s/host\nAuthorizedKeysFile %s/authorized\nStrictModes no\nPidFile none\nPermitRootLogin yes\nUsePAM no\n", port, dir, dir)
	for name, data := range map[string][]byte{"host": pem.EncodeToMemory(block), "authorized": keys.Bytes(), "config": []byte(config)} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if os.Geteuid() == 0 {
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	log := &bytes.Buffer{}
	cmd := exec.Command(path, "-D", "-e", "-f", filepath.Join(dir, "config"))
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(log)
		}
	})
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			conn.Close()
			return port
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// socket serves the guard on a socket.
func (w *world) socket() string {
	w.t.Helper()
	dir, err := os.MkdirTemp("", "guard-")
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "guard")
	l, err := net.Listen("unix", path)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go w.guard.Serve(w.ctx, conn)
		}
	}()
	return path
}

// ssh runs OpenSSH's client with an agent.
func (w *world) ssh(sock string, port int, args ...string) (string, error) {
	w.t.Helper()
	all := append([]string{"-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
		"-o", "LogLevel=ERROR", "-o", "IdentityFile=none", "-p", fmt.Sprint(port)}, args...)
	cmd := exec.CommandContext(w.ctx, "ssh", all...)
	cmd.Env = append(os.Environ(), "SSH_AUTH_SOCK="+sock, "HOME="+w.t.TempDir())
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// add gives the user's agent one more key.
func (a userAgent) add(t *testing.T, priv any) ssh.PublicKey {
	t.Helper()
	conn, err := net.Dial("unix", a.path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := agent.NewClient(conn).Add(agent.AddedKey{PrivateKey: priv}); err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	return s.PublicKey()
}

// TestOpenSSH: the real client signs in to the real server through a guard, with
// keys and host keys of each type.
func TestOpenSSH(t *testing.T) {
	t.Parallel()
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := newPair()
	if err != nil {
		t.Fatal(err)
	}
	for name, host := range map[string]any{"ed25519": ed, "ecdsa": ec, "rsa": rs} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			signer, err := ssh.NewSignerFromKey(host)
			if err != nil {
				t.Fatal(err)
			}
			s := server{signer}
			w := newWorld(t, knows(s.known("forge.example")), approves("forge.example"))
			keys := []ssh.PublicKey{w.user.key, w.user.add(t, ec), w.user.add(t, rs)}
			for _, key := range keys {
				port := sshd(t, host, key)
				if out, err := w.ssh(w.socket(), port, "127.0.0.1", "echo in"); err != nil || out != "in\n" {
					t.Errorf("%s: %v, %s; %+v", key.Type(), err, out, w.last())
				}
				if u := w.last(); !u.Allowed || u.Fingerprint != ssh.FingerprintSHA256(key) {
					t.Errorf("%s: recorded as %+v", key.Type(), u)
				}
			}
		})
	}
}

// TestOpenSSHDenied: the same to a destination that the user does not want.
func TestOpenSSHDenied(t *testing.T) {
	t.Parallel()
	s, priv := keptServer(t)
	w := newWorld(t, knows(s.known("forge.example")))
	w.answer = func(Use) Answer { return Never }
	port := sshd(t, priv, w.user.key)
	if out, err := w.ssh(w.user.path, port, "127.0.0.1", "echo in"); err != nil || out != "in\n" {
		t.Fatalf("without a guard: %v, %s", err, out)
	}
	if out, err := w.ssh(w.socket(), port, "127.0.0.1", "echo in"); err == nil {
		t.Errorf("signed in: %s", out)
	}
	if u := w.last(); u.Allowed || u.Destination.Name != "forge.example" {
		t.Errorf("recorded as %+v", u)
	}
}

// TestOpenSSHForwardedOn: a sandbox that signs in with -A lets nobody on the
// other side go on from there.
func TestOpenSSHForwardedOn(t *testing.T) {
	t.Parallel()
	s, priv := keptServer(t)
	w := newWorld(t, knows(s.known("forge.example")), approves("forge.example"))
	port := sshd(t, priv, w.user.key)
	next := fmt.Sprintf("ssh -F none -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -p %d 127.0.0.1 echo further", port)
	if out, err := w.ssh(w.user.path, port, "-A", "127.0.0.1", next); err != nil || out != "further\n" {
		t.Fatalf("without a guard: %v, %s", err, out)
	}
	if out, err := w.ssh(w.socket(), port, "-A", "127.0.0.1", next); err == nil || strings.Contains(out, "further") {
		t.Errorf("went on: %s", out)
	}
	found := false
	for _, u := range w.uses {
		found = found || !u.Allowed && strings.Contains(u.Reason, "forwarded on")
	}
	if !found {
		t.Errorf("the record has %+v", w.uses)
	}
}

// TestOpenSSHOldServer: a server that does not know how to bind, as many forges,
// lets in who signs in to it, when its key is known.
func TestOpenSSHOldServer(t *testing.T) {
	t.Parallel()
	s, _ := keptServer(t)
	for _, known := range []bool{true, false} {
		w := newWorld(t, approves("forge.example", ssh.FingerprintSHA256(s.PublicKey())))
		if known {
			knows(s.known("forge.example"))(&w.guard.cfg)
		}
		port := goServer(t, s, w.user.key)
		out, err := w.ssh(w.socket(), port, "127.0.0.1", "echo in")
		if (err == nil) != known {
			t.Errorf("known %v: %v, %s; %+v", known, err, out, w.last())
		}
		if u := w.last(); u.Allowed != known || !known && !strings.Contains(u.Reason, "not in your known_hosts") {
			t.Errorf("known %v: recorded as %+v", known, u)
		}
	}
}

// TestOpenSSHRestricted: keys that the user restricted to a host work, since the
// agent is told of the session.
func TestOpenSSHRestricted(t *testing.T) {
	t.Parallel()
	s, priv := keptServer(t)
	w := newWorld(t, knows(s.known("forge.example")), approves("forge.example"))
	dir := t.TempDir()
	known, key := filepath.Join(dir, "known"), filepath.Join(dir, "key")
	if err := os.WriteFile(known, []byte(s.known("forge.example")), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	add := exec.Command("ssh-add", "-q", "-h", "forge.example", "-H", known, key)
	add.Env = append(os.Environ(), "SSH_AUTH_SOCK="+w.user.path)
	if out, err := add.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	text, err := os.ReadFile(key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	pub, _, _, _, err := ssh.ParseAuthorizedKey(text)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := w.ssh(w.socket(), sshd(t, priv, pub), "127.0.0.1", "echo in"); err != nil || out != "in\n" {
		t.Errorf("%v, %s; %+v", err, out, w.last())
	}
}

// TestSSHKeygen signs as git does, and what git does not.
func TestSSHKeygen(t *testing.T) {
	t.Parallel()
	w := newWorld(t, approves(Commits))
	dir := t.TempDir()
	key, file := filepath.Join(dir, "key.pub"), filepath.Join(dir, "file")
	for name, data := range map[string][]byte{key: ssh.MarshalAuthorizedKey(w.user.key), file: []byte("text")} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	sign := func(sock, namespace string) (string, error) {
		os.Remove(file + ".sig")
		cmd := exec.CommandContext(w.ctx, "ssh-keygen", "-Y", "sign", "-n", namespace, "-f", key, file)
		cmd.Env = append(os.Environ(), "SSH_AUTH_SOCK="+sock)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	sock := w.socket()
	if out, err := sign(sock, "git"); err != nil {
		t.Errorf("%v, %s; %+v", err, out, w.last())
	}
	if out, err := sign(w.user.path, "file"); err != nil {
		t.Fatalf("without a guard: %v, %s", err, out)
	}
	if out, err := sign(sock, "file"); err == nil {
		t.Errorf("signed a file: %s", out)
	}
}

// keptServer is a server and its private key.
func keptServer(t *testing.T) (server, any) {
	t.Helper()
	_, priv, err := newPair()
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	return server{s}, priv
}

// goServer is a server of golang.org/x/crypto/ssh's, which knows no
// publickey-hostbound. It lets key in and says goodbye.
func goServer(t *testing.T, host server, key ssh.PublicKey) int {
	t.Helper()
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, k ssh.PublicKey) (*ssh.Permissions, error) {
		if !bytes.Equal(k.Marshal(), key.Marshal()) {
			return nil, fmt.Errorf("another key")
		}
		return nil, nil
	}}
	config.AddHostKey(host)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer nc.Close()
				_, chans, reqs, err := ssh.NewServerConn(nc, config)
				if err != nil {
					return
				}
				go ssh.DiscardRequests(reqs)
				for nch := range chans {
					ch, reqs, err := nch.Accept()
					if err != nil {
						return
					}
					for r := range reqs {
						_ = r.Reply(true, nil)
						if r.Type == "exec" {
							_, _ = ch.SendRequest("exit-status", false, []byte{0, 0, 0, 0})
							ch.Close()
						}
					}
				}
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}
