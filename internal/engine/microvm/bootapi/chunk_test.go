package bootapi

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

func TestChunks(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), 20_000)
	var b bytes.Buffer
	w := NewChunkWriter(&b)
	if n, err := w.Write(data); n != len(data) || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	b.WriteString("what follows")
	got, err := io.ReadAll(NewChunkReader(&b))
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d of %d bytes come back, %v", len(got), len(data), err)
	}
	if b.String() != "what follows" {
		t.Errorf("%q is left", b.String())
	}
	cut := NewChunkReader(bytes.NewReader([]byte{0, 0, 0, 9, 'x'}))
	if _, err := io.ReadAll(cut); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a stream that was cut off: %v", err)
	}
}

func FuzzChunkReader(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 'a', 0, 0, 0, 0})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		got, _ := io.ReadAll(NewChunkReader(bytes.NewReader(data)))
		if len(got) > len(data) {
			t.Errorf("%d bytes out of %d", len(got), len(data))
		}
	})
}

func FuzzEvents(f *testing.F) {
	f.Add([]byte(`{"event":"exited","status":256}` + "\n"))
	f.Add([]byte(`{"event":"done","id":1,"error":"x"}` + "\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := NewEventReader(bytes.NewReader(data))
		for {
			e, err := r.Next()
			if err != nil {
				return
			}
			if e.Status < 0 || e.Status > 255 {
				t.Errorf("status %d", e.Status)
			}
		}
	})
}
