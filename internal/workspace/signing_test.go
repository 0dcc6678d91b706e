package workspace

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestGitSigning(t *testing.T) {
	p := newPlace(t)
	work := p.root + "/work/repo"
	mkdir(t, work)
	git(t, p.home, work, "init", "-q")
	key := p.home + "/id"
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "a comment", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	data, err := os.ReadFile(key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	pub := strings.TrimSuffix(strings.TrimSpace(string(data)), " a comment")
	private, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(key+".pub", p.home+"/link.pub"); err != nil {
		t.Fatal(err)
	}
	const on = "[gpg]\n\tformat = ssh\n[commit]\n\tgpgsign\n"
	for name, c := range map[string]struct {
		config string
		want   Signing
		says   string
	}{
		"nothing":       {"[user]\n\tname = a\n", Signing{}, ""},
		"OpenPGP":       {"[user]\n\tsigningkey = ABCD\n[commit]\n\tgpgsign = true\n", Signing{}, ""},
		"no key":        {on, Signing{}, ""},
		"literal":       {on + "[user]\n\tsigningkey = \"key::" + pub + "\"\n", Signing{pub, true, false}, ""},
		"old literal":   {on + "[user]\n\tsigningkey = " + pub + "\n[tag]\n\tgpgsign = yes\n", Signing{pub, true, true}, ""},
		"public file":   {"[gpg]\n\tformat = ssh\n[user]\n\tsigningkey = " + key + ".pub\n", Signing{pub, false, false}, ""},
		"in the home":   {on + "[user]\n\tsigningkey = ~/id.pub\n", Signing{pub, true, false}, ""},
		"private file":  {on + "[user]\n\tsigningkey = ~/id\n", Signing{pub, true, false}, ""},
		"link":          {on + "[user]\n\tsigningkey = ~/link.pub\n", Signing{pub, true, false}, ""},
		"missing":       {on + "[user]\n\tsigningkey = ~/none\n", Signing{}, "none.pub"},
		"no key inside": {on + "[user]\n\tsigningkey = ~/.gitconfig.pub\n", Signing{}, ".gitconfig.pub"},
		"relative":      {on + "[user]\n\tsigningkey = id\n", Signing{}, "absolute"},
	} {
		write(t, p.home+"/.gitconfig", c.config)
		write(t, p.home+"/.gitconfig.pub", "[user]\n")
		got, err := GitSigning(t.Context(), work, p.home, host(p.home))
		if got != c.want || (err != nil) != (c.says != "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if strings.Contains(string(got.Config("/etc/gitconfig")), string(private)) {
			t.Errorf("%s: the private key is in it", name)
		}
	}
	// What the guest's Git understands, and in which order.
	write(t, p.root+"/included", "[user]\n\tname = included\n\tsigningkey = other\n")
	write(t, p.root+"/config", string(Signing{pub, true, false}.Config(p.root+"/included")))
	for setting, want := range map[string]string{"user.signingkey": "key::" + pub, "commit.gpgsign": "true", "tag.gpgsign": "false", "gpg.format": "ssh", "user.name": "included"} {
		if got := git(t, p.home, work, "config", "-f", p.root+"/config", "--includes", "--get", setting); got != want {
			t.Errorf("%s is %q", setting, got)
		}
	}
}

// TestHostileSigning: a repository that a guest prepared chooses no file.
func TestHostileSigning(t *testing.T) {
	p := newPlace(t)
	git(t, p.home, p.project, "init", "-q")
	write(t, p.root+"/other.pub", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJGsO3ovZqZhsteRmtaUNn3LxCp20vaHotm8gh+xlpKS\n")
	settings := "[gpg]\n\tformat = ssh\n[user]\n\tsigningkey = " + p.root + "/other.pub\n"
	write(t, p.home+"/.gitconfig", settings)
	if s, err := GitSigning(t.Context(), p.project, p.home, host(p.home)); err != nil || s.Key == "" {
		t.Fatalf("as the user's own: %+v, %v", s, err)
	}
	write(t, p.home+"/.gitconfig", "")
	write(t, p.project+"/more", settings)
	for name, config := range map[string]string{"set": settings, "included": "[include]\n\tpath = ../more\n", "worktree": "[extensions]\n\tworktreeConfig = true\n"} {
		write(t, p.project+"/.git/config", config)
		write(t, p.project+"/.git/config.worktree", settings)
		if s, err := GitSigning(t.Context(), p.project, p.home, host(p.home)); err != nil || s != (Signing{}) {
			t.Errorf("%s: %+v, %v", name, s, err)
		}
	}
	// A key's file that is none does not hold Berth up.
	if err := unix.Mkfifo(p.root+"/fifo.pub", 0o600); err != nil {
		t.Fatal(err)
	}
	write(t, p.home+"/.gitconfig", "[gpg]\n\tformat = ssh\n[user]\n\tsigningkey = "+p.root+"/fifo.pub\n")
	begun := time.Now()
	if s, err := GitSigning(t.Context(), p.project, p.home, host(p.home)); err == nil || time.Since(begun) > gitTimeout {
		t.Errorf("%+v, %v after %s", s, err, time.Since(begun))
	}
}
