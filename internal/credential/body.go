package credential

import (
	"io"
	"sync"

	"berth.dev/internal/egress/intercept"
)

// finder looks for placeholders in a stream, those of other sandboxes among
// them.
type finder struct {
	s    *scanner
	seen []string // the cores that were found, each once
}

// tags is what every finder looks for.
var tags = sync.OnceValue(func() *patterns { return newPatterns(needles(tag, 0, true), true) })

func newFinder() *finder {
	f := &finder{}
	f.s = newScanner(tags(), true, f.hit)
	return f
}

func (f *finder) hit(h hit) {
	core := tag + string(h.rest)
	if !isCore(core) {
		return
	}
	for _, c := range f.seen {
		if c == core {
			return
		}
	}
	if len(f.seen) < maxSeen {
		f.seen = append(f.seen, core)
	}
}

// maxSeen bounds what is remembered of one stream: with more, more of them would
// not say more.
const maxSeen = 64

// text returns the cores of the placeholders in a text. The finder is as new
// afterwards.
func (f *finder) text(s string) []string {
	if len(s) < len(tag) {
		return nil
	}
	f.s.write([]byte(s))
	f.s.end()
	seen := f.seen
	f.s.reset()
	f.seen = nil
	return seen
}

// sentBody is the body of a request on its way to a server. Each piece is looked
// through before it is passed on; one that completes a placeholder which may not
// go there is not, and the request is broken off. Of a body as it is nothing is
// kept back: what has gone by then is a part of a placeholder, which is nothing.
// Decoders lag behind what they are given, so of an encoded body they are given
// some more before any of it goes.
type sentBody struct {
	io.ReadCloser
	// judge is told of each placeholder, once. An error breaks the request off.
	judge func(core string) error
	// trailer is asked when the body has ended.
	trailer func() error
	left    int64 // bytes that are to come; -1 when it is not known

	found    *finder // in the body as it is
	decoded  *finder // in the body with its encoding undone; nil for one that has none
	sniffed  bool    // the encoding is a guess
	started  bool    // it is known, or known that there is none
	head     []byte  // before that
	queue    []byte  // what is kept back of an encoded body
	delay    int     // how much of it
	finished bool
	judged   map[string]bool
	err      error

	mu     sync.Mutex // guards what Close needs
	tap    *tap       // nil as decoded
	closed bool
}

func newSentBody(src io.ReadCloser, length int64, codes []string, judge func(string) error, trailer func() error) *sentBody {
	b := &sentBody{ReadCloser: src, judge: judge, trailer: trailer, left: length, found: newFinder(), judged: map[string]bool{}}
	// What is unknown is for the server to know: it is looked through as it is.
	if len(codes) > 0 && newDecoder(nil, codes) != nil {
		b.decode(codes)
	}
	return b
}

func (b *sentBody) decode(codes []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.started = true
		b.delay = lag(codes)
		b.decoded = newFinder()
		b.tap = newTap(codes, b.decoded.s.write)
	}
}

// Read implements io.Reader.
func (b *sentBody) Read(p []byte) (n int, err error) {
	done := false
	defer func() {
		if !done { // a defect that the guest has found must not end the process
			_ = recover()
			n, err, b.err = 0, errDefect, errDefect
		}
	}()
	n, err = b.read(p)
	done = true
	return n, err
}

func (b *sentBody) read(p []byte) (int, error) {
	for len(p) > 0 {
		ready := len(b.queue) - b.delay
		if b.finished {
			ready = len(b.queue)
		}
		switch {
		case b.err != nil && b.err != io.EOF, b.err != nil && ready <= 0:
			return 0, b.err
		case ready > 0:
			n := copy(p, b.queue[:ready])
			b.queue = b.queue[:copy(b.queue, b.queue[n:])]
			return n, nil
		}
		n, err := b.ReadCloser.Read(p)
		if stop := b.look(p[:n], err == io.EOF); stop != nil {
			n, err = 0, stop
		}
		b.err = err
		if b.tap == nil {
			return n, err
		}
		b.queue = append(b.queue, p[:n]...)
	}
	return 0, nil
}

// Close implements io.Closer. It may be called while Read waits.
func (b *sentBody) Close() error {
	b.mu.Lock()
	b.closed = true
	if b.tap != nil {
		b.tap.stop()
	}
	b.mu.Unlock()
	return b.ReadCloser.Close()
}

// look looks through a piece, and at its end through what is left.
func (b *sentBody) look(p []byte, end bool) error {
	b.found.s.write(p)
	encoded := p
	if !b.started {
		b.head = append(b.head, p...)
		if encoded = nil; len(b.head) >= sniffSize || end {
			encoded, b.started = b.head, true
			if code := sniff(b.head); code != "" {
				b.decode([]string{code})
				b.sniffed = true
			}
		}
	}
	if b.tap != nil && len(encoded) > 0 {
		b.tap.write(encoded)
	}
	if b.left >= 0 {
		b.left -= int64(len(p))
	}
	// With its last byte a body of a known length is complete for the server.
	if end || b.left == 0 {
		if err := b.finish(); err != nil {
			return err
		}
	}
	if err := b.report(b.found); err != nil {
		return err
	}
	if b.decoded != nil {
		if err := b.report(b.decoded); err != nil {
			return err
		}
	}
	if end {
		return b.trailer()
	}
	return nil
}

func (b *sentBody) finish() error {
	if b.finished {
		return nil
	}
	b.finished = true
	b.found.s.end()
	if b.tap == nil {
		return nil
	}
	if err := b.tap.end(); err != nil && !b.sniffed {
		return &intercept.Denied{Ruling: intercept.Ruling{Reason: corrupt(b.tap.codes, err).Error()}}
	}
	b.decoded.s.end()
	return nil
}

func (b *sentBody) report(f *finder) error {
	for _, core := range f.seen {
		if b.judged[core] {
			continue
		}
		b.judged[core] = true
		if err := b.judge(core); err != nil {
			return err
		}
	}
	return nil
}
