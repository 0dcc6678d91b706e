package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"time"

	"berth.dev/internal/control"
	"berth.dev/internal/sshagent"
	"berth.dev/internal/terminal"
)

// defaultAskpass is where distributions have the program that asks.
const defaultAskpass = "/usr/bin/ssh-askpass"

// maxAskpass bounds what that program says, in bytes.
const maxAskpass = 1 << 10

// ask asks the user in each way that there is, and takes the first answer:
// berth policy pending in another terminal, a window at a desktop, and this
// terminal when no session reads it.
func (f *forwarding) ask(ctx context.Context, use sshagent.Use) sshagent.Answer {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // withdraws the question everywhere
	wire := wireUse(use)
	ways := []func(context.Context, control.AgentUse) sshagent.Answer{f.askPending}
	if f.askpass() != "" {
		ways = append(ways, f.askWindow)
	}
	if f.prompt {
		ways = append(ways, f.askTerminal)
	}
	answers := make(chan sshagent.Answer, len(ways))
	for _, way := range ways {
		go func() { answers <- way(ctx, wire) }()
	}
	for range ways {
		select {
		case answer := <-answers:
			if answer != sshagent.Unanswered {
				return answer
			}
		case <-ctx.Done():
			return sshagent.Unanswered
		}
	}
	return sshagent.Unanswered
}

// askPending lists the question where those about the network are.
func (f *forwarding) askPending(ctx context.Context, use control.AgentUse) sshagent.Answer {
	answer, err := f.control.AgentAsk(ctx, use)
	if err != nil {
		return sshagent.Unanswered
	}
	return sshagent.Answer(answer)
}

// askpass is the program that asks at a desktop, chosen as ssh-add -c does; ""
// when there is none.
func (f *forwarding) askpass() string {
	a := f.a
	display := a.getenv("DISPLAY") != "" || a.getenv("WAYLAND_DISPLAY") != ""
	require := a.getenv("SSH_ASKPASS_REQUIRE")
	if require == "never" || !display && require != "force" {
		return ""
	}
	path := a.getenv("SSH_ASKPASS")
	if path == "" {
		path = defaultAskpass
	}
	if !isExecutable(path) {
		return ""
	}
	return path
}

// askWindow runs that program. Nothing or "yes" is a yes, for the session; an
// end in any other way is a no.
func (f *forwarding) askWindow(ctx context.Context, use control.AgentUse) sshagent.Answer {
	cmd := exec.CommandContext(ctx, f.askpass(), fmt.Sprintf("Sandbox %s wants to %s.\nAllow it, for this session?", f.b.Name(), describe(use)))
	cmd.Env = append(f.a.env.Vars, "SSH_ASKPASS_PROMPT=confirm")
	cmd.WaitDelay = time.Second
	out := &limitedBuffer{left: maxAskpass}
	cmd.Stdout = out
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil, err != nil && !errors.As(err, &exit):
		return sshagent.Unanswered
	case err != nil:
		return sshagent.Never
	}
	if text := strings.ToLower(strings.TrimSpace(out.String())); text != "" && text != "yes" {
		return sshagent.Never
	}
	return sshagent.Session
}

// limitedBuffer keeps the beginning of what is written.
type limitedBuffer struct {
	bytes.Buffer
	left int
}

// Write implements io.Writer.
func (b *limitedBuffer) Write(p []byte) (int, error) {
	keep := p[:min(len(p), b.left)]
	b.left -= len(keep)
	b.Buffer.Write(keep)
	return len(p), nil
}

// askTerminal asks on this terminal, one question after the other. Enter alone is
// a no, as the capital N says.
func (f *forwarding) askTerminal(ctx context.Context, use control.AgentUse) sshagent.Answer {
	f.typed.turn.Lock()
	defer f.typed.turn.Unlock()
	if ctx.Err() != nil {
		return sshagent.Unanswered // answered elsewhere meanwhile
	}
	a := f.a
	terminal.Forget(a.In)
	fmt.Fprintf(a.Err, "berth: %s wants to %s\n  allow [o]nce, in this [s]ession, [N]ever in it: ", f.b.Name(), describe(use))
	line, err := f.typed.line(ctx, a.In)
	if err != nil {
		fmt.Fprintln(a.Err)
		return sshagent.Unanswered
	}
	word := strings.ToLower(strings.TrimSpace(line))
	for _, answer := range sshagent.Answers() {
		if word != "" && strings.HasPrefix(string(answer), word) {
			return answer
		}
	}
	return sshagent.Never
}

// typed are lines that the user types. A read cannot be taken back, so that one
// goroutine reads for all questions, and what comes while none stands is the
// answer to none.
type typed struct {
	turn  sync.Mutex // one question at a time
	once  sync.Once
	lines chan string
}

func (t *typed) line(ctx context.Context, in io.Reader) (string, error) {
	t.once.Do(func() {
		t.lines = make(chan string)
		go t.read(in)
	})
	select {
	case line, open := <-t.lines:
		if !open {
			return "", io.EOF
		}
		return line, nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

func (t *typed) read(in io.Reader) {
	defer close(t.lines)
	for r := bufio.NewReader(in); ; {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		select {
		case t.lines <- line:
		default:
		}
	}
}
