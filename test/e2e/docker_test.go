package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// dockerfile builds on an image that the test makes of the sandbox's own
// files, because no registry can be reached here.
const dockerfile = `FROM scratch
ADD root.tar /
RUN echo built > /built && id -u > /who
CMD ["sh", "-c", "cat /built"]
`

// TestDocker: the private daemon starts when it is first asked, builds, runs,
// binds the workspace, publishes ports, composes, and keeps its images.
func TestDocker(t *testing.T) {
	each(t, func(t *testing.T, u *user) {
		ws, name := u.workspace(t), u.fresh(t)
		u.must(t, ws, "create", "-q", "--name", name, "shell", ws)
		sh := func(script string) string {
			t.Helper()
			r := u.runDocker(t, ws, "exec", "-w", ws, name, "sh", "-ec", script)
			if r.code != 0 {
				t.Fatalf("%s\nstatus %d\n%s%s", script, r.code, r.out, r.err)
			}
			return r.out
		}
		sh(`mkdir -p /tmp/root/bin /tmp/root/etc /tmp/root/tmp
		for f in sh cat ls id curl python3 sleep; do p=$(readlink -f $(command -v $f)); mkdir -p /tmp/root$(dirname $p); cp $p /tmp/root$p; done
		for p in $(for f in sh cat ls id curl python3 sleep; do ldd $(readlink -f $(command -v $f)); done | grep -o '/[^ )]*' | sort -u); do mkdir -p /tmp/root$(dirname $p); cp -L $p /tmp/root$p; done
		ln -sf $(readlink -f $(command -v dash)) /tmp/root/bin/sh
		ln -sf $(readlink -f $(command -v python3)) /tmp/root/bin/python3
		mkdir -p /tmp/root/usr/bin; for f in cat ls id curl sleep; do [ -e /tmp/root/usr/bin/$f ] || cp $(command -v $f) /tmp/root/usr/bin/$f; done
		tar -C /tmp/root -cf root.tar .`)
		write(t, u, filepath.Join(ws, "Dockerfile"), dockerfile)
		sh("docker build -q -t made .")
		if out := sh("docker run --rm made"); out != "built\n" {
			t.Errorf("docker run prints %q", out)
		}
		sh("docker run --rm -v " + ws + ":/ws made sh -c 'echo nested > /ws/nested'")
		u.owns(t, filepath.Join(ws, "nested"))
		testCompose(t, u, ws, sh)
		u.must(t, ws, "stop", name)
		if out := sh("docker run --rm made"); out != "built\n" {
			t.Errorf("after a stop, docker run prints %q", out)
		}
		if out := sh("docker volume ls -q"); !strings.Contains(out, "kept") {
			t.Errorf("after a stop, the volumes are %q", out)
		}
	})
}

func testCompose(t *testing.T, u *user, ws string, sh func(string) string) {
	t.Helper()
	write(t, u, filepath.Join(ws, "compose.yaml"), `services:
  web:
    image: made
    command: ["python3", "-m", "http.server", "8000"]
    environment: {PYTHONHOME: /usr}
    volumes: ["/usr/lib:/usr/lib:ro", "kept:/kept"]
    ports: ["18080:8000"]
  client:
    image: made
    depends_on: [web]
    command: ["sh", "-c", "i=0; until curl -sf http://web:8000/built; do i=$$((i+1)); [ $$i -lt 100 ] || exit 1; sleep 0.1; done"]
volumes: {kept: {name: kept}}
`)
	out := sh("docker compose up -d web 2>&1; docker compose run --rm client; for i in $(seq 100); do curl -sf http://127.0.0.1:18080/built && break; sleep 0.1; done; docker compose down 2>&1")
	if strings.Count(out, "built\n") != 2 {
		t.Errorf("compose: the service by its name and by its published port: %q", out)
	}
}

// runDocker is run, once more where a container did not start for what
// docs/docker.md says of runc on gVisor. Nothing else is tried again.
func (u *user) runDocker(t *testing.T, dir string, args ...string) result {
	t.Helper()
	r := u.run(t, dir, nil, args...)
	if r.code != 0 && strings.Contains(r.err, "open exec fifo") && strings.Contains(r.err, "interrupted system call") {
		t.Logf("a container did not start, as docs/docker.md says: %s", r.err)
		r = u.run(t, dir, nil, args...)
	}
	return r
}

func write(t *testing.T, u *user, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, u.uid, u.uid); err != nil {
		t.Fatal(err)
	}
}
