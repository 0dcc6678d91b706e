package docker

import (
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"berth.dev/internal/guestapi"
)

// refuse answers whoever waits for a daemon that could not start, so that
// `docker ps` prints the reason instead of hanging, and so that the waiting
// does not start the next attempt at once.
func (a *Activator) refuse(reason string) {
	raw, err := a.socket.SyscallConn()
	if err != nil {
		return
	}
	var wg sync.WaitGroup
	for range 128 { // the length of the queue
		conn := -1
		cerr := raw.Control(func(fd uintptr) {
			conn, _, err = unix.Accept4(int(fd), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		})
		if cerr != nil || err != nil {
			break
		}
		f := os.NewFile(uintptr(conn), "docker client")
		wg.Go(func() {
			answer(f, reason)
			f.Close()
		})
	}
	wg.Wait()
}

// answer reads what fits of a request and sends the Engine API's form of an
// error, which every client prints.
func answer(f *os.File, reason string) {
	_ = f.SetDeadline(time.Now().Add(time.Second))
	buf := make([]byte, 8<<10)
	if n, _ := f.Read(buf); n == 0 {
		return
	}
	body, err := guestapi.Marshal(map[string]string{
		"message": "the sandbox's Docker daemon did not start: " + reason + " (see /var/log/dockerd.log)",
	})
	if err != nil {
		return
	}
	fmt.Fprintf(f, "HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\n"+
		"Content-Length: %d\r\nConnection: close\r\n\r\n%s", len(body), body)
}
