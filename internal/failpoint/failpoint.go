// Package failpoint is named places in the code where a test can make things
// go wrong: an error, a pause, the death of the process. It owns the registry
// of what is armed; only tests arm anything, and it reads neither flags nor
// environment, so no user and no guest can reach it.
package failpoint

import "sync"

var (
	mu    sync.RWMutex
	armed map[string]func() error
)

// Hit is called by the code at the place called name. It returns nil at once
// unless a test armed that name. Safe for concurrent use.
func Hit(name string) error {
	mu.RLock()
	do := armed[name]
	mu.RUnlock()
	if do == nil {
		return nil
	}
	return do()
}

// Arm makes Hit(name) call do, until the returned function is called. For
// tests only: a test of this package holds that no other file calls it.
func Arm(name string, do func() error) (disarm func()) {
	mu.Lock()
	defer mu.Unlock()
	if armed == nil {
		armed = map[string]func() error{}
	}
	armed[name] = do
	return func() {
		mu.Lock()
		defer mu.Unlock()
		delete(armed, name)
	}
}
