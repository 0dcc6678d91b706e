package secret

import "encoding/json"

// Wire is a Value on its way to another process of the same user's, by a
// socket that nobody else can connect to: JSON has its bytes, and nothing else
// that prints it does. It is the one form that carries them.
type Wire struct{ Value }

// MarshalJSON implements json.Marshaler.
func (w Wire) MarshalJSON() ([]byte, error) { return json.Marshal(w.Reveal()) }

// UnmarshalJSON implements json.Unmarshaler.
func (w *Wire) UnmarshalJSON(b []byte) error {
	var text string
	if err := json.Unmarshal(b, &text); err != nil {
		return err
	}
	w.Value = NewValue(text)
	return nil
}
