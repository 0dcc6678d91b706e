package policyfile

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"berth.dev/internal/atomicfile"
	"berth.dev/internal/policy"
	"berth.dev/internal/sandbox"
)

// approval is a file in the folder of approvals: what the user approved for
// one workspace. The content is kept, not only its hash, so that its denials
// outlast whatever becomes of the file in the workspace.
type approval struct {
	Version   int       `json:"version"`
	Workspace string    `json:"workspace"`
	Approved  time.Time `json:"approved"`
	SHA256    string    `json:"sha256"`
	Content   string    `json:"content"`
}

// approvalFile is where the approval for a workspace is. A workspace is known
// by its path with links resolved: the way in which it was named last does not
// matter.
func approvalFile(dir, workspace string) string {
	if real, err := filepath.EvalSymlinks(workspace); err == nil {
		workspace = real
	}
	return filepath.Join(dir, sum(filepath.Clean(workspace))+".json")
}

// readApproval returns nil when nothing was approved. A record that is broken
// is an error: without it, denials would be lost.
func readApproval(dir, workspace string) (*approval, error) {
	if dir == "" {
		return nil, nil
	}
	path := approvalFile(dir, workspace)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var a approval
	if err == nil {
		err = json.Unmarshal(data, &a)
	}
	switch {
	case err != nil:
	case a.Version > Version:
		return nil, sandbox.Errorf(sandbox.ErrPrecondition, "approval %s was written by a newer Berth", path).WithHint("use the newer berth")
	case a.SHA256 != sum(a.Content):
		err = errors.New("it does not match its checksum")
	}
	if err != nil {
		return nil, sandbox.Errorf(sandbox.ErrInvalid, "read approval %s: %w", path, err).
			WithHint("delete it, and approve the project's policy again with: berth policy approve")
	}
	return &a, nil
}

// Pending is a project's file beside what was approved of it, for the user to
// look at.
type Pending struct {
	Workspace string
	File      string
	// Present: there is a file. Approved: some content was approved; Current:
	// that of the file is.
	Present, Approved, Current bool
	// Preset is what the file asks for, "" for none. It acts only where it
	// narrows.
	Preset string
	// Rules are the file's. Added are those that the approved content lacks,
	// Removed those that only it has.
	Rules, Added, Removed []policy.Rule

	content string
}

// Look reads a project's file for approval. A file that makes no sense is an
// error: there is nothing to approve in it.
func Look(workspace, approvals string) (Pending, error) {
	p := Pending{Workspace: workspace, File: ProjectFile(workspace)}
	a, err := readApproval(approvals, workspace)
	if err != nil {
		return p, err
	}
	now, err := readProject(workspace)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return p, err
	}
	p.Present = err == nil
	p.content, p.Preset, p.Rules = now.content, now.file.Preset, now.file.Rules
	var old File
	if a != nil {
		p.Approved, p.Current = true, p.Present && a.Content == p.content
		if old, err = Parse(p.File, []byte(a.Content), policy.ScopeProject); err != nil {
			return p, fmt.Errorf("read what was approved: %w", err)
		}
	}
	p.Added, p.Removed = without(p.Rules, old.Rules), without(old.Rules, p.Rules)
	return p, nil
}

// without are the rules of a that b lacks.
func without(a, b []policy.Rule) []policy.Rule {
	return slices.DeleteFunc(slices.Clone(a), func(r policy.Rule) bool { return slices.ContainsFunc(b, r.Same) })
}

// Approve remembers the content that Look found as approved: that, and not
// what the file holds by now, as the guest may have changed it since. When
// there was no file, what was approved is forgotten.
func Approve(p Pending, approvals string) error {
	path := approvalFile(approvals, p.Workspace)
	if !p.Present {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("forget approval: %w", err)
		}
		return nil
	}
	data, err := json.MarshalIndent(approval{
		Version: Version, Workspace: p.Workspace, Approved: time.Now().UTC().Truncate(time.Second),
		SHA256: sum(p.content), Content: p.content,
	}, "", "  ")
	if err != nil {
		return fmt.Errorf("encode approval: %w", err)
	}
	if err := os.MkdirAll(approvals, 0o700); err != nil {
		return fmt.Errorf("write approval: %w", err)
	}
	if err := atomicfile.Write(path, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("write approval: %w", err)
	}
	return nil
}
