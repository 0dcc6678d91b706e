package egress

import (
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Bounds of the cache. It is there because package managers ask for the same
// few names over and over.
const (
	cacheEntries = 1024
	cacheMessage = 4096 // bytes of a message that is kept
	cacheTTL     = time.Hour
	cacheNegTTL  = 5 * time.Minute // RFC 2308 §5 allows hours; a name may be made meanwhile
)

// question is what is asked: a name in lower case with its last dot, a type.
type question struct {
	name  string
	qtype uint16
}

type answer struct {
	msg         *dns.Msg // never changed
	at, expires time.Time
}

// cache keeps answers for as long as they say (RFC 2181 §8, RFC 2308).
type cache struct {
	now func() time.Time

	mu      sync.Mutex
	answers *lru[question, answer]
}

func newCache() *cache {
	return &cache{now: time.Now, answers: newLRU[question, answer](cacheEntries)}
}

// get returns a copy of an answer, its times shortened by its age, or nil.
func (c *cache) get(q question) *dns.Msg {
	c.mu.Lock()
	defer c.mu.Unlock()
	a, ok := c.answers.get(q)
	if !ok {
		return nil
	}
	now := c.now()
	if !now.Before(a.expires) {
		c.answers.remove(q)
		return nil
	}
	age := uint32(max(0, now.Sub(a.at)/time.Second))
	m := a.msg.Copy()
	for _, rrs := range [][]dns.RR{m.Answer, m.Ns} {
		for _, rr := range rrs {
			h := rr.Header()
			h.Ttl -= min(age, h.Ttl)
		}
	}
	return m
}

// put keeps an answer if it may be kept. m must not be changed afterwards.
func (c *cache) put(q question, m *dns.Msg) {
	ttl := lifetime(m)
	if ttl <= 0 || m.Truncated || m.Len() > cacheMessage {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	c.answers.put(q, answer{m, now, now.Add(ttl)})
}

// lifetime is how long an answer holds; 0 for one that must not be kept.
func lifetime(m *dns.Msg) time.Duration {
	if m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
		return 0
	}
	if m.Rcode == dns.RcodeSuccess && len(m.Answer) > 0 {
		ttl := cacheTTL
		for _, rr := range m.Answer {
			ttl = min(ttl, time.Duration(rr.Header().Ttl)*time.Second)
		}
		return ttl
	}
	for _, rr := range m.Ns {
		if soa, ok := rr.(*dns.SOA); ok { // RFC 2308 §3
			return min(cacheNegTTL, time.Duration(min(soa.Hdr.Ttl, soa.Minttl))*time.Second)
		}
	}
	return 0
}
