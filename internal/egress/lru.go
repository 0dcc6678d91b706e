package egress

import "container/list"

// lru is a map of at most size entries that forgets the least recently used
// one. It is not safe for concurrent use.
type lru[K comparable, V any] struct {
	size  int
	order list.List // of *pair[K, V], most recently used first
	items map[K]*list.Element
}

type pair[K comparable, V any] struct {
	key   K
	value V
}

func newLRU[K comparable, V any](size int) *lru[K, V] {
	return &lru[K, V]{size: size, items: map[K]*list.Element{}}
}

func (l *lru[K, V]) get(key K) (V, bool) {
	el, ok := l.items[key]
	if !ok {
		var none V
		return none, false
	}
	l.order.MoveToFront(el)
	return el.Value.(*pair[K, V]).value, true
}

func (l *lru[K, V]) put(key K, value V) {
	if el, ok := l.items[key]; ok {
		el.Value.(*pair[K, V]).value = value
		l.order.MoveToFront(el)
		return
	}
	if len(l.items) >= l.size {
		oldest := l.order.Back()
		delete(l.items, oldest.Value.(*pair[K, V]).key)
		l.order.Remove(oldest)
	}
	l.items[key] = l.order.PushFront(&pair[K, V]{key, value})
}

func (l *lru[K, V]) remove(key K) {
	if el, ok := l.items[key]; ok {
		delete(l.items, key)
		l.order.Remove(el)
	}
}
