package sshagent

import "fmt"

// bindExtension is OpenSSH's, see PROTOCOL.agent there.
const bindExtension = "session-bind@openssh.com"

// listRequest asks which keys there are.
type listRequest struct{}

// signRequest asks for a signature.
type signRequest struct {
	key   []byte
	data  []byte
	flags uint32
}

// bindRequest says which SSH session the connection is for.
type bindRequest struct {
	hostKey    []byte
	session    []byte
	signature  []byte
	forwarding bool
}

// refusal is why a request was refused, in words for the record.
type refusal string

// Error implements error.
func (r refusal) Error() string { return string(r) }

func refuse(format string, args ...any) error { return refusal(fmt.Sprintf(format, args...)) }

// others are the requests that are known and refused.
var others = map[byte]string{
	1: "of SSH's first version", 3: "of SSH's first version", 7: "to add a key", 8: "to remove a key", 9: "to remove all keys",
	17: "to add a key", 18: "to remove a key", 19: "to remove all keys", 20: "to add a key of a token", 21: "to remove a key of a token",
	22: "to lock the agent", 23: "to unlock the agent", 24: "to add a key", 25: "to add a key", 26: "to add a key of a token",
}

// parseRequest reads what the guest asks: a listRequest, a signRequest or a
// bindRequest. The error is a refusal.
func parseRequest(body []byte) (any, error) {
	r := reader{b: body}
	var req any
	switch kind := r.byte(); kind {
	case msgList:
		req = listRequest{}
	case msgSign:
		req = signRequest{key: r.bytes(), data: r.bytes(), flags: r.uint32()}
	case msgExtension:
		if name := r.string(); name != bindExtension {
			return nil, refuse("a request for the extension %q", short(name))
		}
		b := bindRequest{hostKey: r.bytes(), session: r.bytes(), signature: r.bytes()}
		b.forwarding = r.byte() != 0
		req = b
	default:
		if what, known := others[kind]; known {
			return nil, refuse("a request %s", what)
		}
		return nil, refuse("a request of type %d", kind)
	}
	if !r.ended() {
		return nil, refuse("a malformed request")
	}
	return req, nil
}

// short cuts what the guest chose; it is made printable where it is recorded.
func short(s string) string {
	if len(s) > 64 {
		return s[:64] + "..."
	}
	return s
}
