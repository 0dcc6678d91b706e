package secret

import (
	"context"
	"time"
)

// Token is a secret as it holds now.
type Token struct {
	Value   Value
	Expires time.Time // zero: it does not expire
}

// Source gives a secret when it is used. It may have to ask a keyring or to run
// a command for that; it is safe for concurrent use.
type Source interface {
	// Token returns what holds now, and lives for a moment at least. An error
	// says what happened and never what a secret is.
	Token(ctx context.Context) (Token, error)
}

// Fixed is the source of a value that stays, such as one that was in the user's
// shell.
func Fixed(v Value) Source { return fixed{v} }

type fixed struct{ v Value }

func (f fixed) Token(context.Context) (Token, error) { return Token{Value: f.v}, nil }
