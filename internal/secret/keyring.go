package secret

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"

	"berth.dev/internal/failpoint"
)

// The desktop's keyring, by the Secret Service API (draft 0.2): gnome-keyring,
// KWallet, KeePassXC. A general library for it waits without an end for a
// service that hangs; here each call has a deadline.

// Names of the Secret Service.
const (
	ssName       = "org.freedesktop.secrets"
	ssPath       = dbus.ObjectPath("/org/freedesktop/secrets")
	ssService    = "org.freedesktop.Secret.Service"
	ssCollection = "org.freedesktop.Secret.Collection"
	ssItem       = "org.freedesktop.Secret.Item"
	ssPrompt     = "org.freedesktop.Secret.Prompt"
	busName      = "org.freedesktop.DBus"
	properties   = "org.freedesktop.DBus.Properties"
)

// noPath is the object path that stands for none.
const noPath = dbus.ObjectPath("/")

// errNoKeyring: this is no desktop with a keyring, which is nothing to mention.
var errNoKeyring = errors.New("there is no keyring")

// errDeclined: the user was asked, and gave no password.
var errDeclined = errors.New("it is locked, and its password was not given")

// Times of the keyring's.
const (
	callTime   = 2 * time.Second  // one call, and opening as a whole
	promptTime = 90 * time.Second // the user types a password
	hungTime   = time.Minute      // one that did not answer is left alone
)

// keyring knows how to get to the desktop's keyring. It is safe for concurrent
// use, and holds no connection.
type keyring struct {
	getenv   func(string) string
	callTime time.Duration

	mu       sync.Mutex
	hung     time.Time // when it last did not answer
	declined bool      // the user was asked for its password, and did not want to
}

// open connects to the keyring and makes sure that it can be used. With prompt
// the desktop may ask for its password, once; say is called before. The items are
// those of the store with that ID.
func (k *keyring) open(ctx context.Context, store string, prompt bool, say func(format string, args ...any)) (*keyringSession, error) {
	address := busAddress(k.getenv)
	if address == "" {
		return nil, errNoKeyring
	}
	k.mu.Lock()
	hung := !k.hung.IsZero() && time.Since(k.hung) < hungTime
	prompt = prompt && !k.declined
	k.mu.Unlock()
	if hung {
		return nil, errors.New("it does not answer")
	}
	s, err := k.connect(ctx, address, store)
	if err == nil {
		if err = s.unlock(ctx, prompt, say); err != nil {
			s.close()
		}
	}
	switch {
	case errors.Is(err, errDeadline):
		k.late()
	case errors.Is(err, errDeclined):
		k.mu.Lock()
		k.declined = true
		k.mu.Unlock()
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (k *keyring) late() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.hung = time.Now()
}

func (k *keyring) connect(ctx context.Context, address, store string) (*keyringSession, error) {
	c, err := dialBus(ctx, address, k.callTime)
	if err != nil {
		return nil, err
	}
	c.late = k.late
	s := &keyringSession{bus: c, store: store}
	if err := s.begin(ctx); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// keyringSession is a connection to an unlocked keyring. It is not for
// concurrent use.
type keyringSession struct {
	bus        *bus
	session    dbus.ObjectPath
	cipher     cipherOf
	collection dbus.ObjectPath
	store      string // the ID of the store whose items are meant
}

func (s *keyringSession) close() { s.bus.close() }

// begin agrees on how secrets travel, and finds the default collection.
func (s *keyringSession) begin(ctx context.Context) error {
	if err := s.agree(ctx); err != nil {
		return err
	}
	if err := s.bus.call(ctx, ssName, ssPath, ssService+".ReadAlias", "default").Store(&s.collection); err != nil {
		return explainBus(err)
	}
	if s.collection == noPath {
		// To make one takes a prompt, and is for the desktop to do.
		return errNoKeyring
	}
	return nil
}

// agree opens a session in which secrets are encrypted on the bus, which any
// program of the user's may listen to; plain when the service cannot do that.
func (s *keyringSession) agree(ctx context.Context) error {
	var answer dbus.Variant
	dh, err := newDH()
	if err != nil {
		return err
	}
	err = s.bus.call(ctx, ssName, ssPath, ssService+".OpenSession", dhAlgorithm, dbus.MakeVariant(dh.public())).Store(&answer, &s.session)
	if err == nil {
		peer, ok := answer.Value().([]byte)
		if !ok {
			return errors.New("it answers with no key")
		}
		s.cipher, err = dh.agree(peer)
		return err
	}
	var named dbus.Error
	if !errors.As(err, &named) || named.Name != "org.freedesktop.DBus.Error.NotSupported" && named.Name != "org.freedesktop.DBus.Error.InvalidArgs" {
		return explainBus(err)
	}
	s.cipher = plain{}
	return explainBus(s.bus.call(ctx, ssName, ssPath, ssService+".OpenSession", "plain", dbus.MakeVariant("")).Store(&answer, &s.session))
}

// unlock makes sure that the collection is unlocked.
func (s *keyringSession) unlock(ctx context.Context, prompt bool, say func(string, ...any)) error {
	locked, err := s.locked(ctx)
	if err != nil || !locked {
		return err
	}
	var done []dbus.ObjectPath
	var ask dbus.ObjectPath
	if err := s.bus.call(ctx, ssName, ssPath, ssService+".Unlock", []dbus.ObjectPath{s.collection}).Store(&done, &ask); err != nil {
		return explainBus(err)
	}
	if ask != noPath {
		if !prompt {
			s.dismiss(ctx, ask)
			return errors.New("it is locked")
		}
		say("the desktop asks for the password of its keyring")
		if err := s.prompt(ctx, ask); err != nil {
			return err
		}
	}
	if locked, err = s.locked(ctx); err == nil && locked {
		err = errors.New("it is locked")
	}
	return err
}

func (s *keyringSession) locked(ctx context.Context) (bool, error) {
	var v dbus.Variant
	if err := s.bus.call(ctx, ssName, s.collection, properties+".Get", ssCollection, "Locked").Store(&v); err != nil {
		return false, explainBus(err)
	}
	locked, ok := v.Value().(bool)
	if !ok {
		return false, errors.New("it does not say whether it is locked")
	}
	return locked, nil
}

// prompt has the desktop ask the user, and waits for the end of that.
func (s *keyringSession) prompt(ctx context.Context, path dbus.ObjectPath) error {
	ctx, cancel := context.WithTimeout(ctx, promptTime)
	defer cancel()
	completed, err := s.bus.signals(ctx, path, ssPrompt, "Completed")
	if err != nil {
		return err
	}
	if err := s.bus.call(ctx, ssName, path, ssPrompt+".Prompt", "").Err; err != nil {
		return explainBus(err)
	}
	select {
	case sig, ok := <-completed:
		if !ok {
			return errBroke
		}
		if dismissed, isBool := first(sig.Body).(bool); !isBool || dismissed {
			return errDeclined
		}
		return nil
	case <-ctx.Done():
		s.dismiss(context.WithoutCancel(ctx), path)
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return errDeclined
		}
		return ctx.Err()
	}
}

func (s *keyringSession) dismiss(ctx context.Context, path dbus.ObjectPath) {
	_ = s.bus.call(ctx, ssName, path, ssPrompt+".Dismiss").Err
}

// ssSecret is how a secret travels: (oayays).
type ssSecret struct {
	Session     dbus.ObjectPath
	Parameters  []byte
	Value       []byte
	ContentType string
}

// attributes mark an item; they are not secret.
func (s *keyringSession) attributes(id string) map[string]string {
	return map[string]string{"xdg:schema": "dev.berth.Secret", "application": "berth", "store": s.store, "id": id}
}

// put makes an item.
func (s *keyringSession) put(ctx context.Context, id, label string, v Value) error {
	iv, text, err := s.cipher.seal([]byte(v.Reveal()))
	if err != nil {
		return err
	}
	props := map[string]dbus.Variant{
		ssItem + ".Label":      dbus.MakeVariant("Berth: " + label),
		ssItem + ".Attributes": dbus.MakeVariant(s.attributes(id)),
	}
	sec := ssSecret{Session: s.session, Parameters: iv, Value: text, ContentType: "text/plain; charset=utf8"}
	var item, ask dbus.ObjectPath
	if err := s.bus.call(ctx, ssName, s.collection, ssCollection+".CreateItem", props, sec, true).Store(&item, &ask); err != nil {
		return explainBus(err)
	}
	if item == noPath {
		s.dismiss(ctx, ask)
		return errors.New("it is locked")
	}
	return failpoint.Hit("secret.put")
}

// find returns the paths of the items with an ID; there is at most one, unless
// some other program copied it.
func (s *keyringSession) find(ctx context.Context, id string) ([]dbus.ObjectPath, error) {
	var unlocked, locked []dbus.ObjectPath
	if err := s.bus.call(ctx, ssName, ssPath, ssService+".SearchItems", s.attributes(id)).Store(&unlocked, &locked); err != nil {
		return nil, explainBus(err)
	}
	if len(unlocked) == 0 && len(locked) > 0 {
		return nil, errors.New("the part of it that has the secret is locked")
	}
	return unlocked, nil
}

// get reads an item, or says errGone.
func (s *keyringSession) get(ctx context.Context, id string) (Value, error) {
	items, err := s.find(ctx, id)
	if err != nil {
		return Value{}, err
	}
	if len(items) == 0 {
		return Value{}, errGone
	}
	var sec ssSecret
	if err := s.bus.call(ctx, ssName, items[0], ssItem+".GetSecret", s.session).Store(&sec); err != nil {
		return Value{}, explainBus(err)
	}
	text, err := s.cipher.open(sec.Parameters, sec.Value)
	if err != nil {
		return Value{}, err
	}
	return NewValue(string(text)), nil
}

// drop deletes an item; one that is not there is deleted already.
func (s *keyringSession) drop(ctx context.Context, id string) error {
	items, err := s.find(ctx, id)
	if err != nil {
		return err
	}
	for _, item := range items {
		var ask dbus.ObjectPath
		if err := s.bus.call(ctx, ssName, item, ssItem+".Delete").Store(&ask); err != nil {
			return explainBus(err)
		}
		if ask != noPath {
			s.dismiss(ctx, ask)
			return errors.New("it asks before it deletes")
		}
	}
	return nil
}

// explainBus says what an answer of the bus means. An error's text is the
// service's, and never has a secret in it: errors name what was asked, by path.
func explainBus(err error) error {
	var named dbus.Error
	if !errors.As(err, &named) {
		return err
	}
	switch named.Name {
	case "org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner":
		return errNoKeyring
	case "org.freedesktop.Secret.Error.IsLocked":
		return errors.New("it is locked")
	case "org.freedesktop.DBus.Error.NoReply", "org.freedesktop.DBus.Error.TimedOut", "org.freedesktop.DBus.Error.Timeout":
		return errDeadline
	}
	return fmt.Errorf("it says: %s", clip(named.Error(), 200))
}

func first(body []any) any {
	if len(body) == 0 {
		return nil
	}
	return body[0]
}
