//go:build cgo

package gvisor

// cgo: this binary may need a dynamic loader, which the sentry's empty root
// does not have.
const cgo = true
