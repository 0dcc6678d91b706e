package session

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"berth.dev/internal/guest/reap"
	"berth.dev/internal/guest/ring"
	"berth.dev/internal/guestapi"
	"berth.dev/internal/guestapi/termmode"
)

// terminalPatience is how long a client of a terminal that reads nothing at
// all may hold the terminal's program back before it loses output.
const terminalPatience = 2 * time.Second

// Session is a process and what is known of it. Its methods are safe for
// concurrent use.
type Session struct {
	store   *Store
	spec    guestapi.SessionSpec
	user    string
	dir     string
	started time.Time
	proc    *reap.Proc
	master  *os.File // of a terminal session, else nil
	stdin   *os.File // write end of a pipe session's input, nil when it has none
	streams []*stream
	modes   termmode.Tracker // of the terminal; guarded by its stream's buffer
	done    chan struct{}

	lastActive atomic.Int64 // Unix nanoseconds

	mu      sync.Mutex
	size    guestapi.Size
	clients []*Client // the one that was active last comes last
	ended   time.Time
	result  *guestapi.Result
}

// stream is one of the outputs: where its bytes come from and where they are
// kept.
type stream struct {
	src *os.File
	buf *ring.Buffer
}

func newSession(st *Store, spec guestapi.SessionSpec, cmd *command) *Session {
	s := &Session{
		store: st, spec: spec, user: cmd.who.Name, dir: cmd.dir, size: spec.Size,
		started: time.Now(), done: make(chan struct{}),
	}
	if s.user == "" {
		s.user = fmt.Sprint(cmd.who.UID)
	}
	s.lastActive.Store(s.started.UnixNano())
	if spec.TTY {
		tap := func(p []byte) { _, _ = s.modes.Write(p) }
		s.streams = []*stream{{buf: ring.New(st.cfg.Ring, tap)}}
	} else {
		s.streams = []*stream{{buf: ring.New(st.cfg.Ring, nil)}, {buf: ring.New(st.cfg.Ring, nil)}}
	}
	return s
}

// start runs the command. When it fails nothing is left behind.
func (s *Session) start(cmd *command, modes func(*unix.Termios)) error {
	if s.spec.TTY {
		return s.startTerminal(cmd, modes)
	}
	return s.startPipes(cmd)
}

func (s *Session) startTerminal(cmd *command, modes func(*unix.Termios)) error {
	gid := cmd.who.GID
	if tty, err := s.store.cfg.Accounts.Group("tty"); err == nil && os.Geteuid() == 0 {
		gid = tty
	}
	t, err := openTerminal(s.spec.Size, cmd.who.UID, gid, modes)
	if err != nil {
		return guestapi.Errorf(guestapi.Internal, "make a terminal: %v", err)
	}
	defer t.closeSlave()
	fd := uintptr(t.slave)
	sys := &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0, Credential: cmd.cred}
	if err := s.exec(cmd, []uintptr{fd, fd, fd}, sys); err != nil {
		t.close()
		return err
	}
	s.master, s.streams[0].src = t.master, t.master
	return nil
}

func (s *Session) startPipes(cmd *command) (err error) {
	var theirs, ours [3]int
	for i := range theirs {
		theirs[i], ours[i] = -1, -1
	}
	defer func() {
		closeAll(theirs[:])
		if err != nil {
			closeAll(ours[:])
		}
	}()
	for i := range theirs {
		if i == 0 && !s.spec.Stdin {
			theirs[0], err = unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		} else {
			theirs[i], ours[i], err = pipe(i == 0)
		}
		if err != nil {
			return guestapi.Errorf(guestapi.Internal, "make a pipe: %v", err)
		}
	}
	sys := &syscall.SysProcAttr{Setsid: true, Credential: cmd.cred}
	if err := s.exec(cmd, []uintptr{uintptr(theirs[0]), uintptr(theirs[1]), uintptr(theirs[2])}, sys); err != nil {
		return err
	}
	if s.spec.Stdin {
		s.stdin = os.NewFile(uintptr(ours[0]), "stdin")
	}
	s.streams[0].src = os.NewFile(uintptr(ours[1]), "stdout")
	s.streams[1].src = os.NewFile(uintptr(ours[2]), "stderr")
	return nil
}

// pipe makes a pipe: the end for the child, which blocks, and the one for
// this process, which does not.
func pipe(childReads bool) (theirs, ours int, err error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return -1, -1, err
	}
	theirs, ours = p[1], p[0]
	if childReads {
		theirs, ours = p[0], p[1]
	}
	if err := unix.SetNonblock(ours, true); err != nil {
		closeAll(p[:])
		return -1, -1, err
	}
	return theirs, ours, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// exec starts the process; a file without a known format is a shell script,
// as execvp(3) has it.
func (s *Session) exec(cmd *command, files []uintptr, sys *syscall.SysProcAttr) error {
	attr := &syscall.ProcAttr{Dir: cmd.dir, Env: cmd.env, Files: files, Sys: sys}
	p, err := s.store.cfg.Reaper.Start(cmd.path, cmd.argv, attr)
	if errors.Is(err, unix.ENOEXEC) && isScript(cmd.path) {
		argv := append([]string{"/bin/sh", cmd.path}, cmd.argv[1:]...)
		p, err = s.store.cfg.Reaper.Start("/bin/sh", argv, attr)
	}
	if err != nil {
		return startError(cmd, err)
	}
	s.proc = p
	return nil
}

// isScript reports whether a file that is no program looks like text, so that
// a program of another machine is not fed to a shell.
func isScript(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	b := make([]byte, 128)
	n, _ := f.Read(b)
	for _, c := range b[:n] {
		if c == 0 {
			return false
		}
	}
	return true
}

// Done is closed when the process has ended and its output is in.
func (s *Session) Done() <-chan struct{} { return s.done }

// ID is the session's id.
func (s *Session) ID() string { return s.spec.ID }

// Kind is what the session is for.
func (s *Session) Kind() guestapi.Kind { return s.spec.Kind }

// TTY reports whether the session has a terminal.
func (s *Session) TTY() bool { return s.spec.TTY }

// exited is closed when the process has ended.
func (s *Session) exited() <-chan struct{} { return s.proc.Done() }

// Info describes the session as it is now.
func (s *Session) Info() guestapi.SessionInfo {
	s.mu.Lock()
	i := guestapi.SessionInfo{
		ID: s.spec.ID, Kind: s.spec.Kind, Args: cut(s.spec.Args, 4<<10), User: s.user, Dir: s.dir,
		TTY: s.spec.TTY, Size: s.size, PID: s.proc.Pid(), Started: s.started,
		LastActive: time.Unix(0, s.lastActive.Load()), Clients: len(s.clients), Ended: s.ended,
	}
	if s.result != nil {
		r := *s.result
		i.Result = &r
	}
	s.mu.Unlock()
	i.Kept.Stdout, i.End.Stdout = s.streams[0].buf.Range()
	if len(s.streams) > 1 {
		i.Kept.Stderr, i.End.Stderr = s.streams[1].buf.Range()
	}
	return i
}

// cut shortens a list of arguments to n bytes in all.
func cut(args []string, n int) []string {
	var out []string
	for _, a := range args {
		if len(a) > n {
			return append(out, a[:n]+"...")
		}
		out, n = append(out, a), n-len(a)-1
		if n <= 0 {
			break
		}
	}
	return out
}

// Result is how the session ended; valid once Done is closed.
func (s *Session) Result() guestapi.Result {
	s.mu.Lock()
	defer s.mu.Unlock()
	return *s.result
}

// Reader reads one output stream from an offset on; it is nil when the session
// has no such stream. The caller closes it.
func (s *Session) Reader(st guestapi.Stream, off int64, patience time.Duration) *ring.Reader {
	switch {
	case st == guestapi.Stdout:
		return s.streams[0].buf.NewReader(off, patience)
	case st == guestapi.Stderr && len(s.streams) > 1:
		return s.streams[1].buf.NewReader(off, patience)
	}
	return nil
}

// kept is how many bytes of output are in memory.
func (s *Session) kept() int {
	n := 0
	for _, st := range s.streams {
		start, end := st.buf.Range()
		n += int(end - start)
	}
	return n
}

// drop forgets the output of a session that has ended and returns its size;
// not while a client still reads it.
func (s *Session) drop() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	if len(s.clients) > 0 {
		return n
	}
	for _, st := range s.streams {
		n += st.buf.Drop()
	}
	return n
}

func (s *Session) touch() {
	s.lastActive.Store(time.Now().UnixNano())
	s.store.touch()
}
