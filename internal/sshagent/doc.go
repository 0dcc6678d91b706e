// Package sshagent stands between a sandbox and the user's SSH agent: a Guard
// speaks the agent's protocol (draft-ietf-sshm-ssh-agent, OpenSSH's
// PROTOCOL.agent) with programs of the guest, which are not trusted, and asks
// the agent of the user for no more than two things.
//
//   - A signature that signs in to one server. The guest has to bind the
//     connection first (session-bind@openssh.com): the server's host key, and its
//     signature of the SSH session, which is verified. Then data is signed that
//     names this session (SSH_MSG_USERAUTH_REQUEST), and so is of no use in any
//     other.
//   - A signature of a Git commit or tag (SSHSIG of the namespace "git").
//
// Each destination needs the user's yes, and commits are one. Adding, removing,
// locking and all else is refused. What was signed, and what was refused and why,
// is recorded before the guest hears of it.
//
// # Who the server is
//
// The guest says which server a session is with, so its word must not count.
// That a host key signed the session proves that whoever has the key wanted it
// to, and no more: a program in the guest can make a key, and sign the session
// that it has with another server. So
//
//   - a server is called by a name only when its key has that name in the user's
//     known_hosts; other keys are called by their fingerprint;
//   - for those others, the data to be signed has to hold the host key as well
//     (publickey-hostbound-v00@openssh.com), which the server compares with its
//     own. Where it does not, a key from known_hosts has to vouch for the session.
//
// What is left is a server out of the user's known_hosts that helps the guest to
// sign in elsewhere, to servers that do not know publickey-hostbound.
//
// A Guard belongs to one session of one sandbox and forgets all when that ends.
// The package neither asks nor records by itself, and reads no files but
// known_hosts; cli joins it to the terminal and the supervisor.
package sshagent
