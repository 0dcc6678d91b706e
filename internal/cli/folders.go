package cli

import (
	"bufio"
	"errors"
	"fmt"
	"os/user"
	"path/filepath"
	"strings"

	"berth.dev/internal/sandbox"
	"berth.dev/internal/terminal"
	"berth.dev/internal/workspace"
)

// home is the user's home folder, which this shell need not say.
func (a *app) home() string {
	if home := a.getenv("HOME"); home != "" {
		return home
	}
	if u, err := user.Current(); err == nil {
		return u.HomeDir
	}
	return ""
}

// abs is a path as the user wrote it, absolute and clean; ~ is the home folder.
func (a *app) abs(p string) string {
	if home := a.home(); home != "" && (p == "~" || strings.HasPrefix(p, "~/")) {
		p = home + p[1:]
	}
	if !filepath.IsAbs(p) {
		p = filepath.Join(a.env.Dir, p)
	}
	return filepath.Clean(p)
}

// isWorkspace reports whether a word of `berth run` is a folder.
func (a *app) isWorkspace(word string) bool {
	return workspace.IsWorkspace(word, a.env.Dir, a.home())
}

// folders finds out what the named folders mean. What needs the user's word
// first is found as if they had given it, and returned as exposed: it is only
// asked for when a sandbox is really made.
func (a *app) folders(paths, volumes []string, force bool) (plan workspace.Plan, exposed, err error) {
	own, err := a.ownFolders()
	if err != nil {
		return plan, nil, err
	}
	req := workspace.Request{Cwd: a.env.Dir, Home: a.home(), Own: own, Paths: paths, Volumes: volumes, Force: force}
	plan, err = workspace.Resolve(req)
	if needsForce(err) {
		exposed = err
		req.Force = true
		plan, err = workspace.Resolve(req)
	}
	return plan, exposed, err
}

// ownFolders are Berth's own, which no sandbox may be shown.
func (a *app) ownFolders() ([]string, error) {
	if _, err := a.manager(); err != nil {
		return nil, err
	}
	var own []string
	for _, dir := range []func() (string, error){a.dirs.Data, a.dirs.Config, a.dirs.Run} {
		d, err := dir()
		if err != nil {
			return nil, err
		}
		own = append(own, d)
	}
	return own, nil
}

// confirm asks, where there is somebody to ask, before what is exposed is shown
// to an agent; nil needs no question.
func (a *app) confirm(exposed error) error {
	if exposed == nil {
		return nil
	}
	if !terminal.Is(a.In) || !terminal.Is(a.Err) {
		return exposed
	}
	fmt.Fprintf(a.Err, "berth: %s\nGo on? [y/N] ", plain(exposed.Error()))
	answer, err := bufio.NewReader(a.In).ReadString('\n')
	if err != nil {
		return exposed
	}
	if s := strings.ToLower(strings.TrimSpace(answer)); s != "y" && s != "yes" {
		return sandbox.Errorf(sandbox.ErrForbidden, "nothing was started").
			WithHint("%s", sandbox.HintOf(exposed))
	}
	return nil
}

func needsForce(err error) bool { return errors.Is(err, workspace.ErrNeedsForce) }
