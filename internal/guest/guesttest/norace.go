//go:build !race

package guesttest

var buildFlags []string
