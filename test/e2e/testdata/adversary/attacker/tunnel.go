package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"time"
)

// tunnel TIME READY URL COMMAND...: runs the client of a tunnel; once it has
// said that it is ready, fetches through it.
func tunnel(args []string) ([]byte, error) {
	bound, err := time.ParseDuration(args[0])
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[3], args[4:]...)
	r, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	go func() {
		_ = w.CloseWithError(cmd.Wait())
		close(ended)
	}()
	defer func() {
		cancel()
		<-ended
	}()
	var said bytes.Buffer
	for lines := bufio.NewReader(r); ; {
		line, err := lines.ReadString('\n')
		said.WriteString(line)
		if strings.Contains(line, args[1]) {
			go func() { _, _ = io.Copy(io.Discard, lines) }()
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %s", err, said.String())
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, args[2], nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, said.String())
	}
	defer resp.Body.Close()
	return io.ReadAll(io.LimitReader(resp.Body, 64<<10))
}
