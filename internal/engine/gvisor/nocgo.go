//go:build !cgo

package gvisor

const cgo = false
