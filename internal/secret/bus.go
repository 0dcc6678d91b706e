package secret

import (
	"context"
	"errors"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
)

// errDeadline: a call took too long.
var errDeadline = errors.New("it does not answer")

// errBroke: the other side closed the connection.
var errBroke = errors.New("the connection to it broke")

// bus is a connection to the session bus on which nothing waits for long: not
// the calls, and neither the handshake, for which the library has no deadline.
type bus struct {
	conn     *dbus.Conn
	net      net.Conn
	callTime time.Duration
	late     func() // is told of each call that was not answered in time
}

// busAddress finds the session bus without starting one, which libraries do;
// "" when there is none.
func busAddress(getenv func(string) string) string {
	if a := getenv("DBUS_SESSION_BUS_ADDRESS"); a != "" && !strings.HasPrefix(a, "autolaunch:") {
		return a
	}
	path := filepath.Join(getenv("XDG_RUNTIME_DIR"), "bus")
	if info, err := os.Stat(path); err == nil && filepath.IsAbs(path) && info.Mode()&os.ModeSocket != 0 {
		return "unix:path=" + url.PathEscape(path)
	}
	return ""
}

// dialBus connects to the first of the addresses that answers, as this user.
func dialBus(ctx context.Context, addresses string, callTime time.Duration) (*bus, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	var nc net.Conn
	err := errNoKeyring
	for address := range strings.SplitSeq(addresses, ";") {
		name := unixName(address)
		if name == "" {
			continue // a bus in the network has no keyring of this desktop
		}
		var d net.Dialer
		if nc, err = d.DialContext(ctx, "unix", name); err == nil {
			break
		}
		err = errNoKeyring // left over from a session that ended
	}
	if err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	_ = nc.SetDeadline(deadline)
	conn, err := dbus.NewConn(nc)
	if err != nil {
		nc.Close()
		return nil, err
	}
	b := &bus{conn: conn, net: nc, callTime: callTime, late: func() {}}
	// EXTERNAL alone: the library would also try cookies in the home folder. It
	// names no user, so the bus takes the one that the kernel says; in the user
	// namespace of root's supervisor any that we could name would be wrong.
	if err := conn.Auth([]dbus.Auth{dbus.AuthExternal("")}); err != nil {
		b.close()
		return nil, timely(err)
	}
	if err := conn.Hello(); err != nil {
		b.close()
		return nil, timely(err)
	}
	return b, nil
}

// unixName is the socket of one address (D-Bus specification, "Server
// addresses"), "" when it is not one.
func unixName(address string) string {
	rest, ok := strings.CutPrefix(address, "unix:")
	if !ok {
		return ""
	}
	for pair := range strings.SplitSeq(rest, ",") {
		key, value, _ := strings.Cut(pair, "=")
		value, err := url.PathUnescape(value)
		switch {
		case err != nil:
		case key == "path":
			return value
		case key == "abstract":
			return "@" + value
		}
	}
	return ""
}

func (b *bus) close() { _ = b.conn.Close() }

// call calls a method. Each has a time of its own.
func (b *bus) call(ctx context.Context, dest string, path dbus.ObjectPath, method string, args ...any) *dbus.Call {
	ctx, cancel := context.WithTimeout(ctx, b.callTime)
	defer cancel()
	// A peer that does not read would block the write, whatever the context says.
	deadline, _ := ctx.Deadline()
	_ = b.net.SetDeadline(deadline.Add(time.Second))
	call := b.conn.Object(dest, path).CallWithContext(ctx, method, 0, args...)
	_ = b.net.SetDeadline(time.Time{})
	if call.Err = timely(call.Err); errors.Is(call.Err, errDeadline) {
		b.late()
	}
	return call
}

// signals returns the signals of one name that an object sends from now on.
func (b *bus) signals(ctx context.Context, path dbus.ObjectPath, iface, member string) (<-chan *dbus.Signal, error) {
	all := make(chan *dbus.Signal, 16)
	b.conn.Signal(all)
	rule := "type='signal',sender='" + ssName + "',path='" + string(path) + "',interface='" + iface + "',member='" + member + "'"
	if err := b.call(ctx, busName, "/org/freedesktop/DBus", busName+".AddMatch", rule).Err; err != nil {
		return nil, err
	}
	wanted := make(chan *dbus.Signal, 1)
	go func() {
		defer close(wanted)
		for sig := range all { // closed with the connection
			if sig.Path == path && sig.Name == iface+"."+member {
				wanted <- sig
				return
			}
		}
	}()
	return wanted, nil
}

// timely gives all ways to be too late one name.
func timely(err error) error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, dbus.ErrClosed) {
		return errDeadline
	}
	if errors.Is(err, io.EOF) {
		return errBroke
	}
	return err
}
