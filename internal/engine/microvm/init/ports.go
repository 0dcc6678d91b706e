package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// deviceTime is how long a device may take to appear.
const deviceTime = 10 * time.Second

// openPort opens a serial port by its name.
func openPort(name string) (*os.File, error) {
	path, err := find("/sys/class/virtio-ports/*/name", name)
	if err != nil {
		return nil, fmt.Errorf("find the port %s: %w", name, err)
	}
	// Blocking, which keeps it out of the runtime's poller: an end of file there
	// means that the host has not opened its side yet.
	fd, err := unix.Open(filepath.Join("/dev", filepath.Base(filepath.Dir(path))), unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the port %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// disk finds a block device by its serial number.
func disk(serial string) (string, error) {
	path, err := find("/sys/block/*/serial", serial)
	if err != nil {
		return "", fmt.Errorf("find the disk %s: %w", serial, err)
	}
	return filepath.Join("/dev", filepath.Base(filepath.Dir(path))), nil
}

// find waits for a file that holds a word, among those that match a pattern.
func find(pattern, word string) (string, error) {
	for deadline := time.Now().Add(deviceTime); ; time.Sleep(time.Millisecond) {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			return "", err
		}
		for _, p := range paths {
			data, err := os.ReadFile(p)
			if err == nil && strings.TrimSpace(string(data)) == word {
				return p, nil
			}
		}
		if time.Now().After(deadline) {
			return "", errors.New("it did not appear")
		}
	}
}

// copyAll carries bytes until the source ends. A port that does not take them
// any more must not keep the writer, so the source is then read into nothing.
func copyAll(dst io.Writer, src *os.File) {
	defer src.Close()
	if _, err := io.Copy(onlyWriter{dst}, onlyReader{src}); err != nil {
		_, _ = io.Copy(io.Discard, src)
	}
}

// onlyWriter and onlyReader hide what io.Copy would try splice(2) with.
type onlyWriter struct{ io.Writer }
type onlyReader struct{ io.Reader }

// readSome reads until the end, at most n bytes.
func readSome(f *os.File, n int64) string {
	defer f.Close()
	data, _ := io.ReadAll(io.LimitReader(f, n))
	return string(data)
}

// stdin feeds the first process. A serial port knows no end of file, so the
// host says after how many bytes it is.
type stdin struct {
	port io.Reader
	feed *os.File

	mu      sync.Mutex
	carried int64
	last    int64 // -1: not known
	open    bool
}

func newStdin(port io.Reader, feed *os.File) *stdin {
	return &stdin{port: port, feed: feed, last: -1, open: true}
}

func (s *stdin) carry() {
	buf := make([]byte, 32<<10)
	for {
		n, err := s.port.Read(buf)
		if n > 0 {
			_, werr := s.feed.Write(buf[:n]) // EPIPE: nobody reads it; go on counting
			_ = werr
			s.mu.Lock()
			s.carried += int64(n)
			s.finish()
			s.mu.Unlock()
		}
		if n == 0 && (err == nil || errors.Is(err, io.EOF)) {
			time.Sleep(10 * time.Millisecond) // the host's side is not open
			continue
		}
		if err != nil {
			return
		}
	}
}

// end says how many bytes there are in all.
func (s *stdin) end(count int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = count
	s.finish()
}

func (s *stdin) finish() {
	if s.open && s.last >= 0 && s.carried >= s.last {
		s.open = false
		s.feed.Close()
	}
}
