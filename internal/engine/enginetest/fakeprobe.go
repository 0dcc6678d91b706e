package enginetest

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// run plays one command of the probe.
func (m *FakeMachine) run(w []string) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.command(w)
}

func (m *FakeMachine) command(w []string) (string, error) {
	t := m.files
	switch w[0] {
	case "hostname":
		return m.cfg.Hostname, nil
	case "id":
		return fmt.Sprint(m.uid, " ", 1000, " ", 1), nil
	case "setuid":
		uid, err := strconv.Atoi(w[1])
		m.uid = uid
		return "", err
	case "cpus":
		return strconv.Itoa(m.cfg.Resources.CPUs), nil
	case "memory":
		return strconv.FormatInt(m.cfg.Resources.Memory, 10), nil
	case "time":
		return strconv.FormatInt(time.Now().UnixMilli(), 10), nil
	case "exec": // as another process of the same user
		text, err := m.command(w[1:])
		if err != nil {
			return fmt.Sprintf("error %q", err.Error()), nil
		}
		return fmt.Sprintf("ok %q", text), nil
	case "mount":
		return "", nil // a remount changes the guest's view, and no guarantee hangs on it
	case "dial":
		return m.dial()
	case "addresses":
		addrs := []string{"127.0.0.1/8"}
		for _, p := range m.cfg.Network.Addrs {
			addrs = append(addrs, p.String())
		}
		return strings.Join(addrs, " "), nil
	case "read":
		return t.read(w[1])
	case "write":
		return "", t.write(w[1], w[2], int64(len(w[2])), 0o644, m.uid)
	case "fill":
		size, err := strconv.ParseInt(w[2], 10, 64)
		if err != nil {
			return "", err
		}
		return "", t.write(w[1], "", size, 0o644, m.uid)
	case "create":
		mode, err := strconv.ParseUint(w[2], 8, 32)
		if err != nil {
			return "", err
		}
		return "", t.write(w[1], "", 0, uint32(mode), m.uid)
	case "mkdir":
		return "", t.mkdir(w[1], m.uid)
	case "remove":
		return "", t.remove(w[1])
	case "ls":
		return strings.Join(t.list(w[1]), " "), nil
	case "chmod":
		mode, err := strconv.ParseUint(w[2], 8, 32)
		if err != nil {
			return "", err
		}
		return "", t.chmod(w[1], uint32(mode))
	case "chown":
		uid, err := strconv.Atoi(w[2])
		if err != nil {
			return "", err
		}
		return "", t.chown(w[1], uid)
	case "stat":
		return m.stat(w[1])
	}
	return "", fmt.Errorf("unknown command %q", w[0])
}

func (m *FakeMachine) stat(path string) (string, error) {
	p, err := m.files.find(path)
	if err != nil {
		return "", err
	}
	if p.host != "" {
		var st syscall.Stat_t
		err := syscall.Lstat(p.host, &st)
		return fmt.Sprintf("%o %d %d %d", st.Mode, st.Uid, st.Gid, st.Size), err
	}
	n := m.files.Nodes[p.node]
	if n == nil {
		return "", syscall.ENOENT
	}
	return fmt.Sprintf("%o %d %d %d", n.Mode, n.UID, n.GID, n.Size), nil
}

// dial sends a frame, as any connection does, and gets no answer.
func (m *FakeMachine) dial() (string, error) {
	if _, err := m.wire.Write(make([]byte, 64)); err != nil {
		return "", err
	}
	return "", syscall.ETIMEDOUT
}
