package credential

import (
	"encoding/base64"
	"encoding/hex"
	"slices"
)

// coding is how a text is written down in what is looked through.
type coding uint8

const (
	plain coding = iota
	base64ed
	hexed
	codings // how many there are
)

// probeSize is how many bytes of a text a search looks for at first. What
// follows is compared one by one, so the tables stay small however long a text
// is. All of a text that is no longer is looked for at once.
var probeSize = [codings]int{plain: 16, base64ed: 20, hexed: 32}

// needle is a text in one coding.
type needle struct {
	text   string // in that coding, folded
	coding coding
	of     int // the index of the text
	// Base64 has a text in three ways, depending on how many bytes are before
	// it. Its first and last bits may share a character with what is around it:
	lead int // bits of the text in the character before
	tail int // bits of it in the character after
	at   int // which of a group of four the first character is
	// open: what follows the text is collected rather than compared.
	open bool
}

func (n *needle) probe() string {
	return n.text[:min(len(n.text), probeSize[n.coding])]
}

// needles returns all the codings of a text.
func needles(text string, of int, open bool) []*needle {
	list := []*needle{
		{text: text, of: of, open: open},
		{text: hex.EncodeToString([]byte(text)), coding: hexed, of: of, open: open},
	}
	for before := range 3 {
		n := &needle{coding: base64ed, of: of, open: open}
		all := base64.RawStdEncoding.EncodeToString(append(make([]byte, before), text...))
		bits := 8 * (before + len(text))
		n.at = (8*before + 5) / 6
		n.lead = 6*n.at - 8*before
		n.tail = bits % 6
		n.text = all[n.at : bits/6]
		list = append(list, n)
	}
	return list
}

// fold is what a coding takes for the same.
func (k coding) fold(c byte) byte {
	switch {
	case k == base64ed && c == '-':
		return '+' // the URL alphabet (RFC 4648 §5)
	case k == base64ed && c == '_':
		return '/'
	case k == hexed && 'A' <= c && c <= 'F':
		return c + 'a' - 'A'
	}
	return c
}

// unfold is all that fold makes the same.
func (k coding) unfold(c byte) []byte {
	switch {
	case k == base64ed && c == '+':
		return []byte("+-")
	case k == base64ed && c == '/':
		return []byte("/_")
	case k == hexed && 'a' <= c && c <= 'f':
		return []byte{c, c - 'a' + 'A'}
	}
	return []byte{c}
}

// patterns is a search for many needles at once. It is immutable.
type patterns struct {
	needles []*needle
	dfas    [codings]*dfa
}

// newPatterns prepares a search. With lines, base64 may be broken into lines.
func newPatterns(list []*needle, lines bool) *patterns {
	p := &patterns{needles: list}
	for k := range codings {
		p.dfas[k] = newDFA(k, list, lines && k == base64ed)
	}
	return p
}

// dfa is an Aho-Corasick automaton over the probes of one coding, with all its
// transitions spelled out: one look for each byte.
type dfa struct {
	next   []uint16 // by state<<8 | byte
	depth  []uint8  // by state: how long a beginning of a probe was read
	accept uint16   // the states from here on have read a probe
	ended  [][]int  // by state-accept: which
}

// node is a state while it is made.
type node struct {
	children []edge
	fail     int
	depth    int
	ended    []int
}

type edge struct {
	c  byte
	to int
}

// child is the node that a byte leads to, -1 for none.
func (n *node) child(c byte) int {
	for _, e := range n.children {
		if e.c == c {
			return e.to
		}
	}
	return -1
}

func newDFA(k coding, list []*needle, lines bool) *dfa {
	nodes := trie(k, list)
	order := link(nodes)
	// Those that have read a probe come last.
	var plainly, ending []int
	for _, i := range order {
		if len(nodes[i].ended) > 0 {
			ending = append(ending, i)
		} else {
			plainly = append(plainly, i)
		}
	}
	place := make([]uint16, len(nodes))
	for i, n := range slices.Concat(plainly, ending) {
		place[n] = uint16(i)
	}
	d := &dfa{next: make([]uint16, len(nodes)<<8), depth: make([]uint8, len(nodes)), accept: uint16(len(plainly))}
	for _, i := range ending {
		d.ended = append(d.ended, nodes[i].ended)
	}
	for _, i := range order { // what a node fails to comes before it
		d.depth[place[i]] = uint8(nodes[i].depth)
		row := d.next[int(place[i])<<8:][:256]
		if i != 0 {
			copy(row, d.next[int(place[nodes[i].fail])<<8:][:256])
		}
		for _, e := range nodes[i].children {
			for _, c := range k.unfold(e.c) {
				row[c] = place[e.to]
			}
		}
		if lines {
			row['\r'], row['\n'] = place[i], place[i]
		}
	}
	return d
}

func trie(k coding, list []*needle) []*node {
	nodes := []*node{{}}
	for which, n := range list {
		if n.coding != k {
			continue
		}
		at := 0
		for _, c := range []byte(n.probe()) {
			next := nodes[at].child(c)
			if next < 0 {
				next = len(nodes)
				nodes = append(nodes, &node{depth: nodes[at].depth + 1})
				nodes[at].children = append(nodes[at].children, edge{c, next})
			}
			at = next
		}
		nodes[at].ended = append(nodes[at].ended, which)
	}
	return nodes
}

// link finds for each node the longest other beginning that its end is, and
// returns the nodes by depth.
func link(nodes []*node) []int {
	order := []int{0}
	for i := 0; i < len(order); i++ {
		n := nodes[order[i]]
		for _, e := range n.children {
			order = append(order, e.to)
			if order[i] == 0 {
				continue
			}
			f := n.fail
			for f != 0 && nodes[f].child(e.c) < 0 {
				f = nodes[f].fail
			}
			child := nodes[e.to]
			child.fail = max(nodes[f].child(e.c), 0)
			child.ended = append(child.ended, nodes[child.fail].ended...)
		}
	}
	return order
}
