package runc

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"berth.dev/internal/guestapi"
)

// TestMain lets the test binary be what Docker finds as runc.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == Name {
		fmt.Fprintln(os.Stderr, Exec(os.Args[1:]))
		os.Exit(125)
	}
	os.Exit(m.Run())
}

var environ = []string{
	"PATH=/bin", "SSL_CERT_FILE=" + guestapi.TrustBundle, "PIP_CERT=" + guestapi.TrustBundle,
	"NODE_EXTRA_CA_CERTS=" + guestapi.TrustFile, "AWS_CA_BUNDLE=/the/users/own",
}

const (
	pemHead, pemTail = "-----BEGIN CERTIFICATE-----\n", "\n-----END CERTIFICATE-----\n"
	authority        = pemHead + "YXV0aG9yaXR5" + pemTail
	sandboxes        = pemHead + "c2FuZGJveA==" + pemTail
	images           = pemHead + "aW1hZ2Vz" + pemTail
)

// spec is a bundle's config.json in the form that Docker 26 writes.
const spec = `{"ociVersion":"1.2.0","process":{"args":["sh"],"env":["PATH=/bin","PIP_CERT=/mine"],"cwd":"/","extra":12345678901234567890},
"root":{"path":"rootfs"},"mounts":[
{"destination":"/proc","type":"proc","source":"proc"},
{"destination":"/dev","type":"tmpfs","source":"tmpfs","options":["nosuid","strictatime","mode=755","size=65536k"]},
{"destination":"/dev/pts","type":"devpts","source":"devpts"}],
"linux":{"namespaces":[{"type":"mount"}]},"annotations":{"a":"<b>"}}`

// makeBundle makes a bundle, and the sandbox's files beside it.
func makeBundle(t *testing.T, spec string) (system, string) {
	t.Helper()
	dir := t.TempDir()
	s := system{filepath.Join(dir, "authority"), filepath.Join(dir, "bundle")}
	put(t, s.authority, authority)
	put(t, s.bundle, sandboxes)
	bundle := filepath.Join(dir, "container")
	put(t, filepath.Join(bundle, "config.json"), spec)
	if err := os.Mkdir(filepath.Join(bundle, "rootfs"), 0o755); err != nil {
		t.Fatal(err)
	}
	return s, bundle
}

func put(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// written is config.json as it is afterwards.
func written(t *testing.T, bundle string) (env []string, mounts []mount, all object) {
	t.Helper()
	all, err := readObject(filepath.Join(bundle, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	var process struct{ Env []string }
	if err := all.get("process", &process); err != nil {
		t.Fatal(err)
	}
	if err := all.get("mounts", &mounts); err != nil {
		t.Fatal(err)
	}
	return process.Env, mounts, all
}

// TestContainer: the folder, the variables, and nothing else.
func TestContainer(t *testing.T) {
	s, bundle := makeBundle(t, spec)
	put(t, filepath.Join(bundle, "rootfs/etc/ssl/certs/ca-certificates.crt"), images)
	put(t, filepath.Join(bundle, "rootfs/etc/wgetrc"), "tries = 3")
	if err := s.prepare([]string{"--root", "/r", "--log-format=json", "create", "--bundle", bundle, "--pid-file", "/p", "id"}, environ); err != nil {
		t.Fatal(err)
	}
	env, mounts, all := written(t, bundle)
	want := []string{
		"PATH=/bin", "PIP_CERT=/mine", "APT_CONFIG=/dev/.berth/apt.conf", "NODE_EXTRA_CA_CERTS=/dev/.berth/ca.crt",
		"SSL_CERT_FILE=/dev/.berth/ca-bundle.crt", "SYSTEM_WGETRC=/dev/.berth/wgetrc",
	}
	if !slices.Equal(env, want) {
		t.Errorf("the environment is %q", env)
	}
	folder := filepath.Join(bundle, folder)
	if m := mounts[len(mounts)-1]; len(mounts) != 4 || m.Destination != "/dev/.berth" || m.Source != folder || !slices.Contains(m.Options, "ro") {
		t.Errorf("the mounts are %+v", mounts)
	}
	for name, want := range map[string]string{"ca.crt": authority, "wgetrc": "tries = 3" + wgetConfiguration, "apt.conf": aptConfiguration} {
		if got := get(t, filepath.Join(folder, name)); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	// The image trusts whom it did, and the authority.
	got := get(t, filepath.Join(folder, "ca-bundle.crt"))
	if !strings.HasPrefix(got, images) || !strings.Contains(got, authority) || strings.Contains(got, sandboxes) {
		t.Errorf("the bundle is %q", got)
	}
	if _, err := os.Stat(filepath.Join(folder, keyStore)); err == nil {
		t.Error("there is a key store for an image without Java")
	}
	// Everything else is as it was written.
	var before object
	if err := json.Unmarshal([]byte(spec), &before); err != nil {
		t.Fatal(err)
	}
	for name := range before {
		if name != "process" && name != "mounts" && string(before[name]) != string(all[name]) && !reflect.DeepEqual(decoded(t, before[name]), decoded(t, all[name])) {
			t.Errorf("%s was %s and is %s", name, before[name], all[name])
		}
	}
	if !strings.Contains(string(all["process"]), "12345678901234567890") {
		t.Errorf("the process is %s", all["process"])
	}
}

func decoded(t *testing.T, raw json.RawMessage) (v any) {
	t.Helper()
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// TestImageWithout: an image without authorities has the sandbox's; one of
// Java's a key store.
func TestImageWithout(t *testing.T) {
	s, bundle := makeBundle(t, strings.Replace(spec, `"PATH=/bin"`, `"PATH=/bin","JAVA_HOME=/java"`, 1))
	if err := s.prepare([]string{"run", "--keep", "-b", bundle, "id"}, environ); err != nil {
		t.Fatal(err)
	}
	env, _, _ := written(t, bundle)
	if !slices.Contains(env, "JAVA_TOOL_OPTIONS="+javaOption) {
		t.Errorf("the environment is %q", env)
	}
	if got := get(t, filepath.Join(bundle, folder, "ca-bundle.crt")); !strings.HasPrefix(got, sandboxes) || !strings.Contains(got, authority) {
		t.Errorf("the bundle is %q", got)
	}
	if got := get(t, filepath.Join(bundle, folder, keyStore)); !strings.Contains(got, "authority") || !strings.Contains(got, "sandbox") {
		t.Errorf("the key store is %q", got)
	}
}

// TestLinksStayInside: an image whose bundle is a link to somewhere else gets
// what is there in the image, not in the sandbox.
func TestLinksStayInside(t *testing.T) {
	s, bundle := makeBundle(t, spec)
	secret := filepath.Join(t.TempDir(), "secret")
	put(t, secret, "secret")
	root := filepath.Join(bundle, "rootfs")
	put(t, filepath.Join(root, "etc/ssl/x"), "")
	for link, target := range map[string]string{
		"etc/ssl/certs": "/real", "etc/ssl/cert.pem": secret, "etc/ssl/ca-bundle.pem": "../../../../../../../.." + secret, "etc/loop": "loop",
	} {
		if err := os.Symlink(target, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"/etc/ssl/cert.pem", "/etc/ssl/ca-bundle.pem", "/etc/loop", "/etc/ssl", "/etc/none", "/etc/ssl/x/y"} {
		if got, err := inRoot(root, name); err == nil {
			t.Errorf("%s: %q", name, got)
		}
	}
	put(t, filepath.Join(root, "real/ca-certificates.crt"), images)
	if err := s.prepare([]string{"run", "--bundle=" + bundle, "id"}, environ); err != nil {
		t.Fatal(err)
	}
	if got := get(t, filepath.Join(bundle, folder, "ca-bundle.crt")); !strings.HasPrefix(got, images) {
		t.Errorf("the bundle is %q", got)
	}
}

// TestLeftAlone: what is not as it should be, or could fail by it, stays.
func TestLeftAlone(t *testing.T) {
	for name, spec := range map[string]string{
		"the sandbox's /dev":   strings.Replace(spec, `"/dev","type":"tmpfs"`, `"/dev","type":"bind"`, 1),
		"no /dev":              strings.Replace(spec, `"/dev",`, `"/other",`, 1),
		"a /dev over that":     strings.Replace(spec, `"/dev/pts","type":"devpts"`, `"/dev/","type":"bind"`, 1),
		"the place is taken":   strings.Replace(spec, `"/dev/pts"`, `"/dev/.berth"`, 1),
		"users of its own":     strings.Replace(spec, `[{"type":"mount"}]`, `[{"type":"user"}]`, 1),
		"no process":           strings.Replace(spec, `"process"`, `"none"`, 1),
		"no mounts":            strings.Replace(spec, `"mounts"`, `"none"`, 1),
		"an environment odd":   strings.Replace(spec, `["PATH=/bin","PIP_CERT=/mine"]`, `{}`, 1),
		"a mount odd":          strings.Replace(spec, `{"destination":"/proc"`, `[], {"destination":"/proc"`, 1),
		"nothing":              "",
		"null":                 "null",
		"another form":         "[]",
		"more than is allowed": strings.Repeat(" ", maxSpec) + "{}",
	} {
		s, bundle := makeBundle(t, spec)
		_ = s.prepare([]string{"run", "--bundle", bundle, "id"}, environ)
		if got := get(t, filepath.Join(bundle, "config.json")); got != spec {
			t.Errorf("%s: %.500s", name, got)
		}
	}
	// A daemon that has no authority.
	s, bundle := makeBundle(t, spec)
	if err := s.prepare([]string{"run", "--bundle", bundle, "id"}, []string{"SSL_CERT_FILE=/own"}); err != nil || get(t, filepath.Join(bundle, "config.json")) != spec {
		t.Errorf("without an authority: %v", err)
	}
}

// TestProcess: what is run in a container later has the variables too, where
// the container has the folder.
func TestProcess(t *testing.T) {
	const process = `{"args":["sh"],"env":["PATH=/bin","SSL_CERT_FILE=/own"],"cwd":"/"}`
	dir := t.TempDir()
	file := filepath.Join(dir, "process.json")
	for id, state := range map[string]string{
		"with":    `{"id":"with","config":{"mounts":[{"destination":"/dev"},{"destination":"/dev/.berth"}]}}`,
		"without": `{"id":"without","config":{"mounts":[{"destination":"/dev"}]}}`,
	} {
		put(t, filepath.Join(dir, id, "state.json"), state)
		put(t, file, process)
		if err := running().prepare([]string{"--root", dir, "exec", "--process", file, "--detach", "--pid-file", "/p", id}, environ); err != nil {
			t.Fatal(err)
		}
		got := get(t, file)
		if id == "without" {
			if got != process {
				t.Errorf("a container without the folder: %s", got)
			}
			continue
		}
		if !strings.Contains(got, `"SSL_CERT_FILE=/own","APT_CONFIG=`) || !strings.Contains(got, `"PIP_CERT=/dev/.berth/ca-bundle.crt"`) || strings.Count(got, "SSL_CERT_FILE") != 1 {
			t.Errorf("the process is %s", got)
		}
	}
	for _, args := range [][]string{{"exec", "id", "sh"}, {"exec", "-p", file, "../id"}, {"exec", "-p", file}} {
		if err := running().prepare(args, environ); err != nil {
			t.Errorf("%q: %v", args, err)
		}
	}
}

func TestParse(t *testing.T) {
	for line, want := range map[string]command{
		"":                            {root: "/run/runc", bundle: "."},
		"--version":                   {root: "/run/runc", bundle: "."},
		"--log run create --bundle b": {name: "create", root: "/run/runc", bundle: "b"},
		"--debug --root=/r -systemd-cgroup run -b b -d -- id": {name: "run", root: "/r", bundle: "b", id: "id"},
		"run --keep id --bundle b":                            {name: "run", root: "/run/runc", bundle: ".", id: "id"},
		"exec -t -e A=b -p p id sh":                           {name: "exec", root: "/run/runc", bundle: ".", process: "p", id: "id"},
		"run --bundle":                                        {name: "run", root: "/run/runc"},
	} {
		if got := parse(strings.Fields(line)); got != want {
			t.Errorf("%q: %+v", line, got)
		}
	}
}

// TestExec: the real runc is executed in its place, whatever happens, with the
// arguments as they were.
func TestExec(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	first, second := t.TempDir(), t.TempDir()
	shim := filepath.Join(first, Name)
	if err := os.Symlink(self, shim); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) (string, error) {
		cmd := exec.Command(shim, args...)
		cmd.Env = append([]string{"PATH=" + first + ":relative:" + second}, environ[1:]...)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := run("--version"); err == nil || !strings.Contains(out, "no other runc") {
		t.Errorf("with no other: %s, %v", out, err)
	}
	script := "#!/bin/sh\necho \"real: $*\"\nexit 7\n"
	if err := os.WriteFile(filepath.Join(second, Name), []byte(script), fs.FileMode(0o755)); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"--version"}, {"run", "--bundle", "/nowhere", "id"}, {"exec", "-p", "/nowhere", "id"}, {"delete", "id"}} {
		out, err := run(args...)
		if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != 7 || !strings.Contains(out, "real: "+strings.Join(args, " ")+"\n") {
			t.Errorf("%q: %s, %v", args, out, err)
		}
	}
}

// FuzzSpec: a specification is changed into one that can be read, or left.
func FuzzSpec(f *testing.F) {
	f.Add([]byte(spec))
	f.Add([]byte(`{"mounts":[{"destination":"/dev","type":"tmpfs"}],"process":null,"root":{},"linux":{}}`))
	dir := f.TempDir()
	s := system{filepath.Join(dir, "authority"), filepath.Join(dir, "bundle")}
	for _, name := range []string{s.authority, s.bundle} {
		if err := os.WriteFile(name, []byte(authority), 0o600); err != nil {
			f.Fatal(err)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		bundle := t.TempDir()
		file := filepath.Join(bundle, "config.json")
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		err := s.prepare([]string{"run", "--bundle", bundle, "id"}, environ)
		if err != nil {
			if strings.HasPrefix(err.Error(), "panic: ") {
				t.Error(err)
			}
			if got, _ := os.ReadFile(file); string(got) != string(data) {
				t.Errorf("left and changed: %q", got)
			}
			return
		}
		if got, err := os.ReadFile(file); err != nil || !json.Valid(got) {
			t.Errorf("it is %q, %v", got, err)
		}
	})
}
