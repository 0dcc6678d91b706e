package debian

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"berth.dev/internal/sandbox"
)

// fetcher gets files from archives, with patience.
type fetcher struct {
	client  *http.Client
	tries   int
	backoff time.Duration // before the second try; doubled each time
	stall   time.Duration // a body that brings nothing for so long is given up
}

func newFetcher(c *http.Client) fetcher {
	return fetcher{client: c, tries: 3, backoff: 500 * time.Millisecond, stall: 60 * time.Second}
}

// newClient makes a client that goes the way the host's apt goes.
func newClient(s Source) (*http.Client, error) {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.Proxy = func(r *http.Request) (*url.URL, error) { return s.Proxy.For(r.URL) }
	t.MaxIdleConnsPerHost = parallelDownloads
	t.ResponseHeaderTimeout = 30 * time.Second
	if s.CAInfo != "" {
		pem, err := os.ReadFile(s.CAInfo)
		if err != nil {
			return nil, sandbox.Errorf(sandbox.ErrUnavailable, "read the certificates of apt's Acquire::https::CaInfo: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, sandbox.Errorf(sandbox.ErrUnavailable, "%s (apt's Acquire::https::CaInfo) holds no certificate", s.CAInfo)
		}
		t.TLSClientConfig = &tls.Config{RootCAs: pool}
	}
	return &http.Client{Transport: t, CheckRedirect: checkRedirect}, nil
}

// checkRedirect follows redirections as apt does: mirrors redirect to other
// hosts, but never from https to http.
func checkRedirect(r *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return errors.New("more than 10 redirections")
	}
	if via[0].URL.Scheme == "https" && r.URL.Scheme != "https" {
		return fmt.Errorf("redirection from https to %s", r.URL.Scheme)
	}
	return nil
}

// transientError marks what another try may mend.
type transientError struct{ error }

func (e transientError) Unwrap() error { return e.error }

// retry calls try until it succeeds, fails for good, or was tried enough.
func (f fetcher) retry(ctx context.Context, try func() error) error {
	pause := f.backoff
	for n := 1; ; n++ {
		err := try()
		var transient transientError
		if err == nil || ctx.Err() != nil || !errors.As(err, &transient) || n >= f.tries {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause + rand.N(pause/2+1)):
			pause *= 2
		}
	}
}

// body is one response's body; reading fails when it stalls.
type body struct {
	*http.Response
	io.Reader
	stop func()
}

// open sends a request for a file from an offset on. The caller closes the
// body with stop. An offset is a wish: the status code says what came of it.
func (f fetcher) open(ctx context.Context, uri string, offset int64) (*body, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, uri, nil)
	if err != nil {
		cancel(nil)
		return nil, sandbox.Errorf(sandbox.ErrInvalid, "%w", err)
	}
	req.Header.Set("User-Agent", "berth")
	// What is signed are the files as they are: no transport compression.
	req.Header.Set("Accept-Encoding", "identity")
	if offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	resp, err := f.client.Do(req)
	if err != nil {
		err = requestError(ctx, err) // asks whether ctx is still alive
		cancel(nil)
		return nil, err
	}
	watch := time.AfterFunc(f.stall, func() { cancel(fmt.Errorf("no data for %s", f.stall)) })
	b := &body{Response: resp, stop: func() { watch.Stop(); resp.Body.Close(); cancel(nil) }}
	b.Reader = readerFunc(func(p []byte) (int, error) {
		n, err := resp.Body.Read(p)
		watch.Reset(f.stall)
		if err != nil && err != io.EOF {
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			err = transientError{err}
		}
		return n, err
	})
	if err := statusError(resp, offset > 0); err != nil {
		b.stop()
		return nil, err
	}
	return b, nil
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// requestError sorts what http.Client.Do returned: a certificate that does not
// verify, or a redirection that is refused, stays so.
func requestError(ctx context.Context, err error) error {
	var cert *tls.CertificateVerificationError
	var ue *url.Error
	if errors.As(err, &cert) {
		return sandbox.Errorf(sandbox.ErrUnavailable, "%w", stripQuery(err)).
			WithHint("the host's trust store has to hold the CA of the archive (update-ca-certificates, or SSL_CERT_FILE)")
	}
	if ctx.Err() != nil || errors.As(err, &ue) && strings.Contains(ue.Err.Error(), "redirection") {
		return stripQuery(err)
	}
	return transientError{sandbox.Errorf(sandbox.ErrUnavailable, "%w", stripQuery(err)).
		WithHint("check the network, and that apt-get update works on this host")}
}

// stripQuery takes the URL out of an error of net/http: callers name it, and
// it may hold a password.
func stripQuery(err error) error {
	var ue *url.Error
	if errors.As(err, &ue) {
		return ue.Err
	}
	return err
}

func statusError(r *http.Response, ranged bool) error {
	switch c := r.StatusCode; {
	case c == http.StatusOK:
		return nil
	case ranged && (c == http.StatusPartialContent || c == http.StatusRequestedRangeNotSatisfiable):
		return nil
	case c == http.StatusNotFound, c == http.StatusGone:
		return sandbox.Errorf(sandbox.ErrNotFound, "the archive does not have it (HTTP %d)", c)
	case c >= 500, c == http.StatusTooManyRequests, c == http.StatusRequestTimeout:
		return transientError{sandbox.Errorf(sandbox.ErrUnavailable, "the archive answers %s", r.Status)}
	default:
		return sandbox.Errorf(sandbox.ErrUnavailable, "the archive answers %s", r.Status).
			WithHint("check that apt-get update works on this host")
	}
}

// get returns a whole small file of at most limit bytes.
func (f fetcher) get(ctx context.Context, uri string, limit int64) (data []byte, err error) {
	err = f.retry(ctx, func() error {
		b, err := f.open(ctx, uri, 0)
		if err != nil {
			return err
		}
		defer b.stop()
		data, err = io.ReadAll(io.LimitReader(b, limit+1))
		if err == nil && int64(len(data)) > limit {
			return sandbox.Errorf(sandbox.ErrInvalid, "it is larger than %d bytes", limit)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w", redact(uri), err)
	}
	return data, nil
}

// redact takes the password out of a URI that goes into a message.
func redact(uri string) string {
	u, err := url.Parse(uri)
	if err != nil {
		return "the archive"
	}
	return u.Redacted()
}
