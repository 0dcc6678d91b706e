package credential

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
)

// samples are bodies of the kinds that go by.
func samples() map[string][]byte {
	rng := rand.New(rand.NewPCG(1, 2))
	random := make([]byte, 8<<20)
	for i := range random {
		random[i] = byte(rng.Uint32())
	}
	source := strings.Repeat("func (s *server) handle(w http.ResponseWriter, r *http.Request) {\n\tif err := s.check(r); err != nil {\n\t\thttp.Error(w, \"no & never\", 403)\n\t}\n}\n", 40_000)
	talk, err := json.Marshal(map[string]any{"messages": []any{map[string]string{"role": "user", "content": source}}})
	if err != nil {
		panic(err)
	}
	return map[string][]byte{
		"random":       random,
		"conversation": talk,
		"base64":       []byte(base64.StdEncoding.EncodeToString(random)),
		"digits":       []byte(strings.Repeat("2574366725743662574 3667 ", 300_000)),
		"escapes":      []byte(strings.Repeat(`%41%42\u0041\n&amp;`, 300_000)),
	}
}

// BenchmarkSentBody is what a body costs on its way to a server.
func BenchmarkSentBody(b *testing.B) {
	for name, data := range samples() {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			defer perCPU(b, len(data))()
			buf := make([]byte, 32<<10)
			for b.Loop() {
				body := newSentBody(io.NopCloser(bytes.NewReader(data)), int64(len(data)), nil, func(string) error { return io.ErrNoProgress }, func() error { return nil })
				if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{body}, buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkGotBody is what the body of an answer costs on its way to the guest.
func BenchmarkGotBody(b *testing.B) {
	k := newKnown(manySecrets(20))
	for name, data := range samples() {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			defer perCPU(b, len(data))()
			buf := make([]byte, 32<<10)
			for b.Loop() {
				body := &gotBody{Closer: io.NopCloser(nil), src: bytes.NewReader(data), c: newScrubber(k, false), text: newScrubber(k, false)}
				body.res = noTrailer
				if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{body}, buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkNewKnown is what a secret costs that is used for the first time.
func BenchmarkNewKnown(b *testing.B) {
	list := manySecrets(20)
	for b.Loop() {
		newKnown(list)
	}
}

// perCPU reports how much is done in a second of the processor's time, which does
// not depend on what else the machine does.
func perCPU(b *testing.B, size int) func() {
	used := func() float64 {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
	}
	start := used()
	return func() { b.ReportMetric(float64(b.N)*float64(size)/1e6/(used()-start), "MB/cpu-s") }
}
