package policyfile

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Stamp is a cheap fingerprint of the sources: it changes when a file was
// changed, replaced, made or removed. What it is made of means nothing.
func Stamp(src Sources) string {
	var b strings.Builder
	for _, path := range []string{src.User, src.Sandbox} {
		stamp(&b, path, os.Stat) // a link of the user's counts by what it points to
	}
	if src.Project != "" {
		// Of the folder only what it is: its times change with every file in it.
		kind(&b, filepath.Join(src.Project, projectDir))
		stamp(&b, ProjectFile(src.Project), os.Lstat)
		if src.Approvals != "" {
			stamp(&b, approvalFile(src.Approvals, src.Project), os.Lstat)
		}
	}
	return b.String()
}

func stamp(b *strings.Builder, path string, stat func(string) (fs.FileInfo, error)) {
	info, err := stat(path)
	if err != nil {
		b.WriteString("-;")
		return
	}
	// A writer can set a file's modification time, and cannot its change time.
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		fmt.Fprintf(b, "%d.%d.%d.%d.%d;", s.Dev, s.Ino, s.Ctim.Sec, s.Ctim.Nsec, s.Size)
		return
	}
	fmt.Fprintf(b, "%d.%d;", info.ModTime().UnixNano(), info.Size())
}

func kind(b *strings.Builder, path string) {
	if info, err := os.Lstat(path); err == nil {
		fmt.Fprintf(b, "%s;", info.Mode().Type())
		return
	}
	b.WriteString("-;")
}
