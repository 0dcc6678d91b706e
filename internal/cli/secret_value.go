package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"berth.dev/internal/sandbox"
	"berth.dev/internal/secret"
	"berth.dev/internal/terminal"
)

// maxSecret bounds what is read as a value, in bytes; the store has the same.
const maxSecret = 64 << 10

// maxLine is what a terminal takes for one line while it does not show it
// (N_TTY_BUF_SIZE of Linux); what is longer is cut without a word.
const maxLine = 4095

// secretValue reads the value of a secret from where the user says.
func (a *app) secretValue(ctx context.Context, name string, o *secretSetOptions) (secret.Value, error) {
	var text string
	var err error
	switch {
	case o.FromEnv != "":
		var ok bool
		if text, ok = a.shell(o.FromEnv); !ok || text == "" {
			return secret.Value{}, sandbox.Errorf(sandbox.ErrNotFound, "there is no variable of that name in this shell, or it is empty").
				WithHint("export it first, and give its name and not its value: --from-env VAR")
		}
	case o.File != "" && o.File != "-":
		text, err = readSecretFile(a.abs(o.File))
	case terminal.Is(a.In) && o.File == "":
		text, err = a.askSecret(ctx, name)
	default:
		text, err = readSecret(a.In)
	}
	if err != nil {
		return secret.Value{}, err
	}
	// Editors and echo end the last line.
	if text = strings.TrimRight(text, "\r\n"); text == "" {
		return secret.Value{}, sandbox.Errorf(sandbox.ErrInvalid, "nothing was given as the value of secret %s", name)
	}
	return secret.NewValue(text), nil
}

func readSecretFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", sandbox.Errorf(sandbox.ErrNotFound, "read the value: %w", err)
	}
	defer f.Close()
	return readSecret(f)
}

func readSecret(r io.Reader) (string, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxSecret+1))
	if err != nil {
		return "", sandbox.Errorf(sandbox.ErrInvalid, "read the value: %w", err)
	}
	if len(data) > maxSecret {
		return "", sandbox.Errorf(sandbox.ErrInvalid, "the value is longer than %d bytes", maxSecret)
	}
	return string(data), nil
}

// askSecret asks on the terminal, which does not show what is typed, and is as
// before afterwards, when the user interrupts too.
func (a *app) askSecret(ctx context.Context, name string) (string, error) {
	fd := int(a.In.(*os.File).Fd())
	before, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return "", fmt.Errorf("ask for the value: %w", err)
	}
	silent := *before
	silent.Lflag &^= unix.ECHO
	silent.Lflag |= unix.ICANON | unix.ISIG
	silent.Iflag |= unix.ICRNL
	// Flushing: what was typed too early has been seen.
	if err := unix.IoctlSetTermios(fd, unix.TCSETSF, &silent); err != nil {
		return "", fmt.Errorf("ask for the value: %w", err)
	}
	defer func() {
		_ = unix.IoctlSetTermios(fd, unix.TCSETS, before)
		fmt.Fprintln(a.Err)
	}()
	fmt.Fprintf(a.Err, "Value of %s (it is not shown): ", name)
	text, err := readLine(ctx, fd)
	if err != nil {
		return "", fmt.Errorf("ask for the value: %w", err)
	}
	if len(text) >= maxLine {
		return "", sandbox.Errorf(sandbox.ErrInvalid, "that is too long for a line of the terminal").WithHint("give it by --file, or on standard input")
	}
	return string(text), nil
}

// readLine reads a line of a terminal, as long as ctx lives; "" at its end. No
// read is left behind that would take what is typed later.
func readLine(ctx context.Context, fd int) ([]byte, error) {
	line := make([]byte, maxLine+1)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 50)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case n == 0 || errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, err
		}
		n, err = unix.Read(fd, line)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			continue
		}
		return line[:max(n, 0)], err
	}
}
