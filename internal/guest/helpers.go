package guest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/pkg/sftp"
)

// serveSFTP serves one client's files on standard input and output, as
// whoever this process runs as: the kernel decides what that may touch.
func serveSFTP(dir string) error {
	stdio := struct {
		io.Reader
		io.WriteCloser
	}{os.Stdin, os.Stdout}
	// The process's own working directory, not the library's option, which
	// would make the targets of relative symbolic links absolute.
	if err := os.Chdir(dir); err != nil {
		return fmt.Errorf("serve SFTP: %w", err)
	}
	server, err := sftp.NewServer(stdio)
	if err != nil {
		return fmt.Errorf("serve SFTP: %w", err)
	}
	if err := server.Serve(); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("serve SFTP: %w", err)
	}
	return nil
}

// execListen becomes another program that was handed a listening socket: the
// protocol wants LISTEN_PID to be that program's own pid (sd_listen_fds(3)),
// which only this process knows to be its own.
func execListen(argv []string) error {
	env := []string{"LISTEN_PID=" + strconv.Itoa(os.Getpid())}
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "LISTEN_PID=") {
			env = append(env, kv)
		}
	}
	return fmt.Errorf("exec %s: %w", argv[0], syscall.Exec(argv[0], argv, env))
}
