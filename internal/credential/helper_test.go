package credential

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/klauspost/compress/gzip"

	"berth.dev/internal/secret"
	"berth.dev/internal/service"
)

var noTrailer = &http.Response{}

// manySecrets are n of the forms that there are.
func manySecrets(n int) []revealed {
	var list []revealed
	for i := range n {
		d := service.Builtin()[i%len(service.Builtin())]
		real := newPlaceholder([]byte("a key that makes what looks real"), fmt.Sprint(i), "", d.Shape)
		text := strings.ReplaceAll(real.text, tag, "aB3dE6gH")
		list = append(list, revealed{text, newPlaceholder([]byte("another key of 16 bytes"), fmt.Sprint(i), "", d.Shape).text})
	}
	return list
}

type failing struct{}

func (failing) Token(context.Context) (secret.Token, error) { return secret.Token{}, errNoKeyring }

func gzipWriter(w io.Writer) *gzip.Writer { return gzip.NewWriter(w) }
