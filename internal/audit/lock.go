package audit

import (
	"context"
	"errors"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
)

// retryLock is how often a lock that is held is asked for.
const retryLock = 5 * time.Millisecond

// waitLock waits for a lock up to the given time.
func waitLock(lock *flock.Flock, wait time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	_, err := lock.TryLockContext(ctx, retryLock)
	if errors.Is(err, context.DeadlineExceeded) {
		return busy(filepath.Dir(lock.Path()))
	}
	return err
}
