package bootapi

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
)

// EventReader reads what a guest's init says. It holds no more than MaxMessage
// bytes, whatever the guest sends.
type EventReader struct{ r *bufio.Reader }

// NewEventReader reads from r.
func NewEventReader(r io.Reader) EventReader {
	return EventReader{bufio.NewReaderSize(r, MaxMessage)}
}

// Next returns the next event. After an error there is none.
func (e EventReader) Next() (Event, error) {
	var v Event
	line, err := e.r.ReadSlice('\n')
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal(line, &v); err != nil {
		return Event{}, fmt.Errorf("parse an event: %w", err)
	}
	if v.Status < 0 || v.Status > 255 {
		return Event{}, fmt.Errorf("an exit status of %d", v.Status)
	}
	return v, nil
}
