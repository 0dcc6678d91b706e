package guestapi

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// EventType says what an Event reports.
type EventType string

// The types of events. Per session they come in this order: Started, then its
// Output, then Ended. At the start of a stream every session that the guest
// still knows is reported as Started, ended ones as Ended too, and Synced
// follows once all of those have been Started.
const (
	Started  EventType = "started"  // Session
	Output   EventType = "output"   // ID, Stream, Offset, Data
	Ended    EventType = "ended"    // Session, with its Result
	Activity EventType = "activity" // Time: there was input, output or a connection; at most one every 5 s
	Synced   EventType = "synced"
)

// Stream is one of the two output streams.
type Stream string

// The streams.
const (
	Stdout Stream = "stdout" // a terminal's output too
	Stderr Stream = "stderr"
)

// Event is one frame of the event stream.
type Event struct {
	Type    EventType    `json:"type"`
	Time    time.Time    `json:"time"`
	Session *SessionInfo `json:"session,omitempty"`
	ID      string       `json:"id,omitempty"`
	Stream  Stream       `json:"stream,omitempty"`
	// Offset is the position of Data's first byte in the stream. When it lies
	// beyond the end of the previous event's, the bytes between were lost: the
	// reader did not keep up.
	Offset int64  `json:"offset,omitempty"`
	Data   []byte `json:"-"`
}

// Bounds of a frame.
const (
	MaxFrameHead = MaxInfo + 4<<10
	MaxFrameData = 64 << 10
)

// WriteFrame writes an event in one Write: the lengths of head and data as two
// big-endian uint32, the head as JSON, the data. It is not safe for concurrent
// use on one writer.
func WriteFrame(w io.Writer, e *Event) error {
	head, err := Marshal(e)
	if err != nil {
		return fmt.Errorf("encode event: %w", err)
	}
	if len(head) > MaxFrameHead || len(e.Data) > MaxFrameData {
		return fmt.Errorf("encode event: head of %d and data of %d bytes", len(head), len(e.Data))
	}
	b := make([]byte, 8, 8+len(head)+len(e.Data))
	binary.BigEndian.PutUint32(b, uint32(len(head)))
	binary.BigEndian.PutUint32(b[4:], uint32(len(e.Data)))
	b = append(append(b, head...), e.Data...)
	_, err = w.Write(b)
	return err
}

// ReadFrame reads the next event. It allocates no more than the bounds,
// whatever the lengths claim, and io.EOF only means the end between frames.
func ReadFrame(r io.Reader) (*Event, error) {
	var l [8]byte
	if _, err := io.ReadFull(r, l[:]); err != nil {
		return nil, err
	}
	head, data := binary.BigEndian.Uint32(l[:]), binary.BigEndian.Uint32(l[4:])
	if head > MaxFrameHead || data > MaxFrameData {
		return nil, Errorf(Invalid, "event with a head of %d and data of %d bytes", head, data)
	}
	b := make([]byte, int(head)+int(data))
	if _, err := io.ReadFull(r, b); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	var e Event
	if err := json.Unmarshal(b[:head], &e); err != nil {
		return nil, Errorf(Invalid, "parse event: %s", Printable(err.Error(), 256))
	}
	e.Data = b[head:]
	return &e, e.check()
}

// check refuses an event that lacks what its type promises.
func (e *Event) check() error {
	switch e.Type {
	case Started, Ended:
		if e.Session == nil || (e.Type == Ended && e.Session.Result == nil) {
			return Errorf(Invalid, "event %s without its session", e.Type)
		}
		return e.Session.Check()
	case Output:
		if e.Stream != Stdout && e.Stream != Stderr || e.Offset < 0 {
			return Errorf(Invalid, "output event of stream %q at %d", Printable(string(e.Stream), 32), e.Offset)
		}
		return checkID(e.ID)
	case Activity, Synced:
		return nil
	}
	return Errorf(Invalid, "event of type %q", Printable(string(e.Type), 64))
}
