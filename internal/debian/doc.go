// Package debian makes the first layer of a Debian or Ubuntu root file system
// out of the distribution's archive, with no dpkg, no apt and no root on the
// host.
//
// It owns three things: reading what the host's apt is configured with
// (Detect), turning a signed archive into a verified list of packages
// (Bootstrap.Resolve), and unpacking those packages into one tar stream that
// looks as if dpkg had unpacked but not yet configured them
// (Bootstrap.WriteLayer). What remains is Plan.ConfigureScript, a shell script
// for a sandbox: no maintainer script ever runs on the host.
//
// It does not own images, file systems or sandboxes: the layer goes to an
// io.Writer, and who runs the script is the caller's affair (package template).
//
// Trust: nothing is believed that is not reachable by hashes from a Release
// file with a good signature of a key that the host's apt trusts for that
// archive. Bytes are verified before they are decompressed or parsed; the only
// parsers that see unverified bytes are those of HTTP and of OpenPGP.
package debian
