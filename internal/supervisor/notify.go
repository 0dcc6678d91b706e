package supervisor

import (
	"context"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"

	"berth.dev/internal/config"
)

// notifyTime bounds a call of the desktop's.
const notifyTime = 5 * time.Second

// notifier tells the desktop of a question (Desktop Notifications
// Specification 1.2), or is nil where there is no desktop or it is not wanted.
func notifier(settings config.Network, name string, log *slog.Logger) func(what string) {
	if !settings.Notifies() || os.Getenv("DBUS_SESSION_BUS_ADDRESS") == "" {
		return nil
	}
	return func(what string) {
		ctx, cancel := context.WithTimeout(context.Background(), notifyTime)
		defer cancel()
		if err := notify(ctx, "Sandbox "+name, what+"\nberth policy pending"); err != nil {
			log.Debug("tell the desktop", "error", err)
		}
	}
}

func notify(ctx context.Context, title, body string) error {
	conn, err := dbus.ConnectSessionBus(dbus.WithContext(ctx))
	if err != nil {
		return err
	}
	defer conn.Close()
	const id = "org.freedesktop.Notifications"
	return conn.Object(id, "/org/freedesktop/Notifications").CallWithContext(ctx, id+".Notify", 0,
		"berth", uint32(0), "", title, markup.Replace(body), []string{}, map[string]dbus.Variant{}, int32(-1)).Err
}

// markup keeps what a guest named from being read as markup.
var markup = strings.NewReplacer("<", "&lt;", ">", "&gt;", "&", "&amp;")
