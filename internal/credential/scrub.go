package credential

import (
	"encoding/hex"
	"slices"
	"strings"
)

// minSecret is the length, in bytes, from which on a secret is taken out of
// answers. What is shorter is in every other answer by chance.
const minSecret = 8

// known are the secrets that were put into requests, with what is to be in
// answers in their place. It is immutable.
type known struct {
	list     []revealed
	patterns *patterns
}

type revealed struct{ secret, placeholder string }

func newKnown(list []revealed) *known {
	var all []*needle
	for i, r := range list {
		all = append(all, needles(r.secret, i, false)...)
	}
	return &known{list, newPatterns(all, false)}
}

// scrubber puts placeholders into a stream where secrets are. It keeps back only
// what may be the beginning of a secret.
type scrubber struct {
	k *known
	s *scanner
	// keep: the length stays what it is. What then stands in place of a secret is
	// as long as it and means nothing.
	keep bool

	buf  []byte
	gone int   // how much of buf was passed on; the rest is held
	base int64 // where in the stream that begins
	hits []hit // in what is held, by their start
	out  []byte
	tail run
	n    int // how many were replaced
}

func newScrubber(k *known, keep bool) *scrubber {
	c := &scrubber{k: k, keep: keep}
	c.s = newScanner(k.patterns, false, c.hit)
	return c
}

// text scrubs a whole text. The scrubber is as new afterwards.
func (c *scrubber) text(s string) string {
	c.write([]byte(s))
	c.end()
	if c.n > 0 {
		s = string(c.out)
	}
	c.s.reset()
	c.buf, c.gone, c.base, c.hits, c.out, c.tail, c.n = c.buf[:0], 0, 0, c.hits[:0], c.out[:0], run{}, 0
	return s
}

// write takes the next piece of the stream; what can be passed on is then at the
// end of out.
func (c *scrubber) write(b []byte) {
	c.buf, c.gone = append(c.buf[:copy(c.buf, c.held())], b...), 0
	c.s.write(b)
	c.release(c.s.hold())
}

// held is what was not passed on yet.
func (c *scrubber) held() []byte { return c.buf[c.gone:] }

// end says that the stream has ended; all of it is in out then.
func (c *scrubber) end() {
	c.s.end()
	c.release(c.s.pos)
	c.out = c.tail.end(c.out)
}

func (c *scrubber) hit(h hit) {
	i, _ := slices.BinarySearchFunc(c.hits, h, func(a, b hit) int { return int(a.lead - b.lead) })
	c.hits = slices.Insert(c.hits, i, h)
}

// release passes on what is before a place in the stream. Nothing that will be
// found later begins before it.
func (c *scrubber) release(limit int64) {
	done := 0
	for done < len(c.hits) && c.hits[done].lead < limit {
		first := c.hits[done]
		best, end := first, first.end
		for done++; done < len(c.hits) && c.hits[done].lead < end; done++ { // they overlap: one takes the place of all
			if h := c.hits[done]; h.end-h.start > best.end-best.start {
				best = h
			}
			end = max(end, c.hits[done].end)
		}
		c.replace(best, first, end)
	}
	c.hits = slices.Delete(c.hits, 0, done)
	if limit > c.base {
		c.pass(limit)
	}
}

// pass takes what is before a place as it is.
func (c *scrubber) pass(to int64) {
	if n := int(to - c.base); n > 0 {
		c.out = c.tail.pass(c.out, c.held()[:n])
		c.drop(n)
	}
}

func (c *scrubber) drop(n int) {
	c.gone += n
	c.base += int64(n)
}

// replace puts the placeholder in place of what goes from the first of some hits
// to end, of which h is the largest.
func (c *scrubber) replace(h, first hit, end int64) {
	if end <= c.base {
		return // it overlaps with one that was replaced
	}
	c.n++
	c.pass(first.lead)
	text := c.k.list[h.n.of].placeholder
	switch {
	case c.keep || h.partial:
		c.pass(first.start)
		c.out = c.tail.end(c.out)
		c.out = append(c.out, strings.Repeat(blank[h.n.coding], int(end-c.base))...)
	case h.n.coding == base64ed && h.end == end && (h.lead == c.base || h.start == c.base):
		lead := -1 // passed on already, or no character of base64
		if h.start-h.lead == 1 && h.lead == c.base {
			lead = base64Value(c.held()[0])
		}
		if lead < 0 {
			c.pass(h.start)
		}
		c.out = c.tail.splice(c.out, c.held()[:end-c.base], lead, h.n, text)
	case h.n.coding == hexed:
		c.out = append(c.tail.end(c.out), hex.EncodeToString([]byte(text))...)
	default:
		c.out = append(c.tail.end(c.out), text...)
	}
	c.drop(int(end - c.base))
}

// blank is what stands for a secret where the length has to stay.
var blank = [codings]string{plain: "x", base64ed: "0", hexed: "0"}

// run is the base64 that goes on behind a text in it that was replaced by one of
// another length: all that follows, up to the end of the run, is written anew.
type run struct {
	on   bool
	url  bool // the alphabet of URLs
	at   int  // which of a group of four the next character was
	drop int  // bits of it that are no more wanted

	acc   uint32
	bits  int // in acc, not written yet
	wrote int // which of a group of four the next one to write is
	equal int // how many "=" of the old run may follow
}

const (
	stdAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	urlAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
)

// splice begins to write anew: in place of old, which is a needle and, when lead
// is not negative, the character before it.
func (r *run) splice(out, old []byte, lead int, n *needle, text string) []byte {
	if !r.on {
		*r = run{on: true, wrote: n.at}
		if lead >= 0 {
			r.wrote = n.at - 1
		}
	}
	for _, c := range old {
		r.url = r.url || c == '-' || c == '_'
	}
	skip := 0
	if lead >= 0 {
		out = r.put(out, uint32(lead>>n.lead), 6-n.lead)
	} else {
		// The first bits of the secret, 4 at most, are out. They are those of the
		// placeholder if both start alike, as they mostly do.
		skip = n.lead
	}
	for i := range len(text) {
		out = r.put(out, uint32(text[i]), 8-skip)
		skip = 0
	}
	r.at, r.drop = (n.at+len(n.text))%4, n.tail
	return out
}

func (r *run) put(out []byte, v uint32, bits int) []byte {
	r.acc, r.bits = r.acc<<bits|v&(1<<bits-1), r.bits+bits
	for r.bits >= 6 {
		r.bits -= 6
		out = r.write(out, r.acc>>r.bits)
	}
	return out
}

func (r *run) write(out []byte, v uint32) []byte {
	r.wrote = (r.wrote + 1) % 4
	if r.url {
		return append(out, urlAlphabet[v&63])
	}
	return append(out, stdAlphabet[v&63])
}

// pass takes bytes as they are or, within a run, anew.
func (r *run) pass(out, b []byte) []byte {
	for i, c := range b {
		switch v := base64Value(c); {
		case r.on && v >= 0:
			r.url = r.url || c == '-' || c == '_'
			r.at = (r.at + 1) % 4
			out = r.put(out, uint32(v), 6-r.drop)
			r.drop = 0
		case r.on:
			out = r.finish(out, c)
			if c != '=' {
				return append(out, b[i:]...)
			}
		case r.equal > 0 && c == '=':
			r.equal--
		default:
			r.equal = 0
			return append(out, b[i:]...)
		}
	}
	return out
}

// end ends a run where its end is not seen.
func (r *run) end(out []byte) []byte {
	if r.on {
		out = r.finish(out, 0)
	}
	r.equal = 0
	return out
}

// finish writes the last bits of a run, and as many "=" as its length now asks
// for, when it had some, or would have had.
func (r *run) finish(out []byte, next byte) []byte {
	padding := [4]int{2: 4, 3: 2}[r.at] // bits of the last character that are none of the text's
	if r.bits -= padding; r.bits > 0 {
		out = r.write(out, r.acc>>padding<<(6-r.bits))
	}
	if next == '=' || r.at == 0 && !r.url && next != '%' {
		for range (4 - r.wrote) % 4 {
			out = append(out, '=')
		}
	}
	*r = run{}
	if next == '=' {
		r.equal = 1 // of two, the second
	}
	return out
}
