package bundle

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/gofrs/flock"

	"berth.dev/internal/sandbox"
)

// State is what became of a sandbox: the record that its supervisor keeps, so
// that whoever comes after a killed one knows what there is to undo.
type State struct {
	Format int            `json:"format"`
	Status sandbox.Status `json:"status"` // what the holder last said; Info says what is true
	// Supervisor is the process that runs the sandbox, or ran it last.
	Supervisor Process `json:"supervisor"`
	// Socket is where the supervisor listens, which the environment of another
	// shell might place elsewhere.
	Socket string `json:"socket,omitempty"`
	// Berth is the version of that supervisor.
	Berth   string    `json:"berth,omitempty"`
	Started time.Time `json:"started,omitzero"`
	Stopped time.Time `json:"stopped,omitzero"`
	// Exit is how the agent last ended; nil while it never did.
	Exit *Exit `json:"exit,omitempty"`
	// Failure says why the last run ended without being asked to, or "".
	Failure string `json:"failure,omitempty"`
	// Resources exist outside of the bundle, in the order of their making.
	Resources []Resource `json:"resources,omitempty"`
}

// Exit is the end of a session.
type Exit struct {
	Code int       `json:"code"`
	At   time.Time `json:"at"`
}

// Resource is something to undo: recorded before it is made, so it may not
// exist, and forgotten after it is undone.
type Resource struct {
	Kind    string  `json:"kind"` // its owner's word: "socket", "process", "engine"
	Name    string  `json:"name"` // what Kind needs to find it: a path, an ID
	Process Process `json:"process,omitzero"`
}

// Info is the truth about a sandbox at one moment.
type Info struct {
	// Status is Running only while a live supervisor holds the lock and says so.
	Status sandbox.Status
	// Leftover: a supervisor died without cleaning up. Lock the bundle, undo
	// State.Resources and call Held.Update.
	Leftover bool
	// Starting: a process holds the StartLock.
	Starting bool
	// NeverRan: no supervisor has ever written the state.
	NeverRan bool
	State    State
	// Save is the current save, nil when there is none.
	Save *Meta
}

// Info looks at the bundle; a broken record shows as a leftover, not as an
// error.
func (b *Bundle) Info() Info {
	st, readable := b.readState()
	in := Info{State: st, NeverRan: st.Status == "", Starting: b.isHeld(startFile), Status: sandbox.Stopped}
	if meta, ok := b.LastSave(); ok {
		in.Save = &meta
	}
	claims := st.Status == sandbox.Running || st.Status == sandbox.Creating
	switch alive := st.Supervisor.Alive() && b.isHeld(lockFile); {
	case claims && alive:
		in.Status = st.Status
	case claims, !readable, len(st.Resources) > 0 && !alive:
		in.Leftover = true
	case in.NeverRan && in.Starting:
		in.Status = sandbox.Creating
	}
	return in
}

// State is the record as it was last written; the zero State when there is
// none, or when it cannot be read.
func (b *Bundle) State() State {
	st, _ := b.readState()
	return st
}

func (b *Bundle) readState() (st State, readable bool) {
	data, err := os.ReadFile(filepath.Join(b.dir, stateFile))
	if err != nil {
		return State{}, os.IsNotExist(err)
	}
	if json.Unmarshal(data, &st) != nil || st.Format > Format {
		return State{}, false
	}
	return st, true
}

// Held is a bundle whose lock this process has. It is safe for concurrent use,
// but for saving, which one goroutine at a time may do.
type Held struct {
	*Bundle
	lock *flock.Flock

	mu    sync.Mutex
	state State
}

// State is the record as this holder last wrote it.
func (h *Held) State() State {
	h.mu.Lock()
	defer h.mu.Unlock()
	st := h.state
	st.Resources = slices.Clone(st.Resources)
	return st
}

// Update changes the record. The change is on disk when it returns, for every
// other process to see; it survives the death of any process. It need not
// survive a power cut, after which no supervisor runs whatever the record says
// and a torn record reads as a leftover: so it costs no fsync.
func (h *Held) Update(change func(*State)) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	st := h.state
	st.Resources = slices.Clone(st.Resources)
	change(&st)
	st.Format = Format
	data, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", stateFile, err)
	}
	tmp := filepath.Join(h.dir, "."+stateFile)
	if err := os.WriteFile(tmp, append(data, '\n'), 0o600); err != nil {
		return diskError("record state", err)
	}
	if err := os.Rename(tmp, filepath.Join(h.dir, stateFile)); err != nil {
		return diskError("record state", err)
	}
	h.state = st
	return nil
}

// Record notes a resource that is about to be made.
func (h *Held) Record(r Resource) error {
	return h.Update(func(st *State) { st.Resources = append(st.Resources, r) })
}

// Forget drops the resource of that kind and name, which was undone.
func (h *Held) Forget(kind, name string) error {
	return h.Update(func(st *State) {
		st.Resources = slices.DeleteFunc(st.Resources, func(r Resource) bool {
			return r.Kind == kind && r.Name == name
		})
	})
}

// Unlock gives the bundle back; h is of no use afterwards.
func (h *Held) Unlock() error { return h.lock.Close() }
