// Package version names this build of Berth.
package version

// Version is what `berth version` prints; the Makefile sets it from the tree.
var Version = "dev"
