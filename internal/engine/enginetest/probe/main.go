// Command probe is the first process of the guests that the conformance suite
// makes: it reads commands from its standard input, one JSON array a line, and
// answers each with one line, "ok TEXT" or "error TEXT".
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 2 && os.Args[1] == "run" { // a child process of the probe's own
		text, err := run(os.Args[2:])
		report(text, err)
		return
	}
	terms := make(chan os.Signal, 1)
	signal.Notify(terms, syscall.SIGTERM)
	go func() { <-terms; os.Exit(7) }()
	fmt.Println("ok ready")
	in := bufio.NewReader(os.Stdin)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			select {} // stay up: the suite ends the machine
		}
		var words []string
		if err := json.Unmarshal(line, &words); err != nil || len(words) == 0 {
			report("", fmt.Errorf("bad command %q", line))
			continue
		}
		text, err := run(words)
		report(text, err)
	}
}

func report(text string, err error) {
	if err != nil {
		fmt.Printf("error %q\n", err.Error())
		return
	}
	fmt.Printf("ok %q\n", text)
}

func run(w []string) (string, error) {
	switch w[0] {
	case "exit":
		code, _ := strconv.Atoi(w[1])
		os.Exit(code)
	case "hostname":
		return os.Hostname()
	case "id":
		return fmt.Sprint(os.Getuid(), " ", os.Getgid(), " ", os.Getpid()), nil
	case "setuid":
		uid, _ := strconv.Atoi(w[1])
		return "", syscall.Setuid(uid)
	case "cpus":
		return strconv.Itoa(runtime.NumCPU()), nil
	case "memory":
		var info syscall.Sysinfo_t
		err := syscall.Sysinfo(&info)
		return strconv.FormatUint(info.Totalram*uint64(info.Unit), 10), err
	case "time":
		return strconv.FormatInt(time.Now().UnixMilli(), 10), nil
	case "read":
		data, err := os.ReadFile(w[1])
		return string(data), err
	case "write":
		return "", os.WriteFile(w[1], []byte(w[2]), 0o644)
	case "fill":
		return "", fill(w[1], w[2])
	case "mkdir":
		return "", os.MkdirAll(w[1], 0o755)
	case "remove":
		return "", os.Remove(w[1])
	case "ls":
		return list(w[1])
	case "chown":
		uid, _ := strconv.Atoi(w[2])
		return "", os.Chown(w[1], uid, uid)
	case "chmod":
		mode, _ := strconv.ParseUint(w[2], 8, 32)
		return "", syscall.Chmod(w[1], uint32(mode))
	case "create": // with a mode, bypassing the umask
		return "", create(w[1], w[2])
	case "stat":
		return stat(w[1])
	case "mount":
		flags, _ := strconv.ParseUint(w[5], 0, 64)
		return "", syscall.Mount(w[1], w[2], w[3], uintptr(flags), w[4])
	case "exec": // as another process
		out, err := exec.Command("/proc/self/exe", append([]string{"run"}, w[1:]...)...).Output()
		return strings.TrimSpace(string(out)), err
	case "dial":
		return dial(w[1], w[2])
	case "addresses":
		return addresses()
	}
	return "", fmt.Errorf("unknown command %q", w[0])
}

func fill(path, size string) error {
	n, _ := strconv.ParseInt(size, 10, 64)
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 1<<20)
	for i := range buf {
		buf[i] = byte(i)
	}
	for ; n > 0; n -= int64(len(buf)) {
		if _, err := f.Write(buf[:min(n, int64(len(buf)))]); err != nil {
			return err
		}
	}
	return nil
}

func list(dir string) (string, error) {
	entries, err := os.ReadDir(dir)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " "), err
}

func create(path, mode string) error {
	m, _ := strconv.ParseUint(mode, 8, 32)
	syscall.Umask(0)
	fd, err := syscall.Open(path, syscall.O_CREAT|syscall.O_EXCL|syscall.O_WRONLY, uint32(m))
	if err != nil {
		return err
	}
	return syscall.Close(fd)
}

func stat(path string) (string, error) {
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil {
		return "", err
	}
	return fmt.Sprintf("%o %d %d %d", st.Mode, st.Uid, st.Gid, st.Size), nil
}

func dial(network, addr string) (string, error) {
	c, err := net.DialTimeout(network, addr, 5*time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if _, err := io.WriteString(c, "hello\n"); err != nil {
		return "", err
	}
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	return bufio.NewReader(c).ReadString('\n')
}

func addresses() (string, error) {
	addrs, err := net.InterfaceAddrs()
	var all []string
	for _, a := range addrs {
		all = append(all, a.String())
	}
	sort.Strings(all)
	return strings.Join(all, " "), err
}
