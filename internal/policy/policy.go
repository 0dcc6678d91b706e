// Package policy decides what a guest may reach. Today it owns one part of
// that: the class of an IP address, so that whoever dials can hold "the public
// internet" apart from everything that only looks like it. Rules by name,
// method and path join it here later.
//
// The package is pure: it opens nothing, resolves nothing and keeps no state.
// It imports only the standard library, and whatever decides or enforces may
// import it. All functions are safe for concurrent use.
package policy
