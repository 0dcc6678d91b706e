package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"berth.dev/internal/engine/microvm/bootapi"
)

// system is the machine while it runs.
type system struct {
	control *os.File
	in      *json.Decoder
	index   *bootapi.Index
	layout  *layout

	mu     sync.Mutex // guards writes to control, and first
	first  *os.Process
	stdin  *stdin
	output chan struct{} // closed when all output has been carried

	frozen bool // only the request loop uses it
}

func run() error {
	// The machine's memory is the guest's; init is idle nearly always.
	debug.SetGCPercent(20)
	if err := early(); err != nil {
		return err
	}
	s := &system{output: make(chan struct{})}
	note("runs")
	var err error
	if s.index, err = readIndex(); err != nil {
		return err
	}
	if err := loadBase(s.index); err != nil {
		return err
	}
	note("base modules are loaded")
	if s.control, err = openPort(bootapi.PortControl); err != nil {
		return err
	}
	s.in = json.NewDecoder(s.control)
	s.send(bootapi.Event{Event: bootapi.Hello, Version: bootapi.Version, Kernel: s.index.Release})
	if err := s.boot(); err != nil {
		s.send(bootapi.Event{Event: bootapi.Failed, Error: err.Error()})
		// Whoever reads it ends the machine; off would be as good.
		time.Sleep(time.Second)
		return err
	}
	return s.serve()
}

// early makes the initramfs a place to work in.
func early() error {
	for _, m := range []struct{ fstype, target string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"},
	} {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.fstype, m.target, m.fstype, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	// The kernel's helper runs in this root, whatever the guest makes of its own.
	return os.WriteFile("/proc/sys/kernel/modprobe", []byte("/init"), 0o644)
}

// send writes an event; a broken port means that nobody is left to tell.
func (s *system) send(e bootapi.Event) {
	data, err := json.Marshal(e)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _ = s.control.Write(append(data, '\n'))
}

// boot takes the first request and starts the first process.
func (s *system) boot() error {
	var r bootapi.Request
	if err := s.in.Decode(&r); err != nil {
		return fmt.Errorf("read what to boot: %w", err)
	}
	b := r.Boot
	if r.Op != bootapi.OpBoot || b == nil {
		return fmt.Errorf("the first request is %q", r.Op)
	}
	setTime(b.UnixNS)
	if err := unix.Sethostname([]byte(b.Hostname)); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	sysctls()
	if err := network(b.Network); err != nil {
		return fmt.Errorf("configure the network: %w", err)
	}
	var err error
	note("network is up")
	if s.layout, err = assemble(b, s.index); err != nil {
		return err
	}
	note("root is assembled")
	return s.start(b)
}

// start runs the first process. It says what goes wrong before the execve on a
// pipe of its own, which the execve closes.
func (s *system) start(b *bootapi.Boot) error {
	in, err := openPort(bootapi.PortStdin)
	if err != nil {
		return err
	}
	out, err := openPort(bootapi.PortOutput)
	if err != nil {
		return err
	}
	childIn, feed, err := os.Pipe()
	if err != nil {
		return err
	}
	carry, childOut, err := os.Pipe()
	if err != nil {
		return err
	}
	failure, childFailure, err := os.Pipe()
	if err != nil {
		return err
	}
	spec, err := json.Marshal(b)
	if err != nil {
		return err
	}
	cmd := exec.Command("/proc/self/exe", enterArg, string(spec))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = childIn, childOut, childOut
	cmd.ExtraFiles = []*os.File{childFailure}
	cmd.Env = []string{}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS, Setsid: true}
	err = cmd.Start()
	for _, f := range []*os.File{childIn, childOut, childFailure} {
		f.Close()
	}
	if err != nil {
		return fmt.Errorf("start the first process: %w", err)
	}
	s.first = cmd.Process
	s.stdin = newStdin(in, feed)
	go s.stdin.carry()
	go func() { defer close(s.output); copyAll(out, carry) }()
	if text := readSome(failure, 4096); text != "" {
		return errors.New(text)
	}
	note("first process runs")
	s.send(bootapi.Event{Event: bootapi.Started})
	go loadLater(s.index)
	return nil
}

// serve answers requests until the first process has ended.
func (s *system) serve() error {
	requests := make(chan bootapi.Request)
	go func() {
		for {
			var r bootapi.Request
			if err := s.in.Decode(&r); err != nil {
				return // the host is gone, and this machine with it
			}
			requests <- r
		}
	}()
	ended := make(chan int, 1)
	go func() { ended <- s.reap() }()
	for {
		select {
		case r := <-requests:
			s.handle(r)
		case status := <-ended:
			s.end(status)
			return nil
		}
	}
}

func (s *system) handle(r bootapi.Request) {
	var err error
	switch r.Op {
	case bootapi.OpSignal:
		err = s.first.Signal(syscall.Signal(r.Signal))
	case bootapi.OpStdinEnd:
		s.stdin.end(r.Count)
	case bootapi.OpTime:
		setTime(r.UnixNS)
	case bootapi.OpSync:
		err = s.layout.sync()
	case bootapi.OpFreeze:
		if err = s.layout.freeze(); err == nil {
			s.frozen = true
		}
	case bootapi.OpThaw:
		s.frozen = false
		err = s.layout.thaw()
	case bootapi.OpLayer:
		go func() { s.done(r.ID, s.layer()) }()
		return
	default:
		err = fmt.Errorf("request %q is not known", r.Op)
	}
	s.done(r.ID, err)
}

func (s *system) done(id int, err error) {
	e := bootapi.Event{Event: bootapi.Done, ID: id}
	if err != nil {
		e.Error = err.Error()
	}
	s.send(e)
}

func (s *system) layer() error {
	out, err := openPort(bootapi.PortLayer)
	if err != nil {
		return err
	}
	w := bootapi.NewChunkWriter(out)
	return errors.Join(s.layout.writeLayer(w), w.Close(), out.Close())
}

// reap waits for the first process and buries what else comes by: the kernel's
// helpers are not init's children, so that is little.
func (s *system) reap() int {
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 255
		case pid != s.first.Pid:
		case ws.Signaled():
			return 128 + int(ws.Signal())
		default:
			return ws.ExitStatus()
		}
	}
}

// end leaves the disk clean and reports. The namespace's other processes ended
// with the first.
func (s *system) end(status int) {
	if s.frozen {
		_ = s.layout.thaw()
	}
	select {
	case <-s.output:
	case <-time.After(outputTime):
	}
	e := bootapi.Event{Event: bootapi.Exited, Status: status}
	if err := s.layout.close(); err != nil {
		e.Error = err.Error()
	}
	s.send(e)
}

// outputTime is how long the last of the output may take to be read.
const outputTime = 2 * time.Second

// timeSlack is how wrong the guest's clock may be before it is set.
const timeSlack = 50 * time.Millisecond

func setTime(unixNS int64) {
	if unixNS == 0 {
		return
	}
	if d := time.Since(time.Unix(0, unixNS)); d > -timeSlack && d < timeSlack {
		return
	}
	ts := unix.NsecToTimespec(unixNS)
	_ = unix.ClockSettime(unix.CLOCK_REALTIME, &ts)
}

// sysctls are what a machine for one developer wants and no distribution's init
// is there to set.
func sysctls() {
	for name, value := range map[string]string{
		"fs/inotify/max_user_watches":     "1048576", // what watches a large project
		"fs/inotify/max_user_instances":   "1024",
		"vm/max_map_count":                "1048576",
		"net/ipv4/ping_group_range":       "0 2147483647", // ping without root
		"net/ipv6/conf/all/accept_ra":     "0",
		"net/ipv6/conf/default/accept_ra": "0",
		"kernel/printk":                   "1 4 1 7",
	} {
		_ = os.WriteFile("/proc/sys/"+name, []byte(value), 0o644)
	}
}
