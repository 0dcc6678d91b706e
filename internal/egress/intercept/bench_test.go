package intercept

import (
	"fmt"
	"io"
	"net/http"
	"runtime"
	"testing"
)

// The benchmarks have the guest, the Proxy and the server in one process: what
// they cost all three together.

// BenchmarkDownload is one stream of one answer.
func BenchmarkDownload(b *testing.B) {
	const size = 64 << 20
	eachProtocol(b, func(b *testing.B, guest, server bool) {
		w := newWorld(b, setup{h2: server, handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(size))
			_, _ = io.Copy(struct{ io.Writer }{w}, pattern(size))
		}})
		c := w.client(guest)
		buf := make([]byte, copyBuffer)
		b.SetBytes(size)
		for b.Loop() {
			res, err := c.Get("https://" + testHost + "/")
			if err != nil {
				b.Fatal(err)
			}
			n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, res.Body, buf)
			_ = res.Body.Close()
			if n != size || err != nil {
				b.Fatal(n, err)
			}
		}
	})
}

// BenchmarkUpload is one stream of one request.
func BenchmarkUpload(b *testing.B) {
	const size = 64 << 20
	eachProtocol(b, func(b *testing.B, guest, server bool) {
		w := newWorld(b, setup{h2: server, handler: func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, r.Body, make([]byte, copyBuffer))
		}})
		c := w.client(guest)
		b.SetBytes(size)
		for b.Loop() {
			r := newRequest(b, "PUT", "https://"+testHost+"/", pattern(size))
			r.ContentLength = size
			res, err := c.Do(r)
			if err != nil {
				b.Fatal(err)
			}
			_ = res.Body.Close()
		}
	})
}

// BenchmarkRequests is small requests, one after another and sixteen at once.
func BenchmarkRequests(b *testing.B) {
	eachProtocol(b, func(b *testing.B, guest, server bool) {
		for _, parallel := range []int{1, 16} {
			b.Run(fmt.Sprint(parallel), func(b *testing.B) {
				w := newWorld(b, setup{h2: server, handler: func(w http.ResponseWriter, _ *http.Request) {
					_, _ = io.WriteString(w, "answer")
				}})
				c := w.client(guest)
				c.Transport.(*http.Transport).MaxIdleConnsPerHost = 16
				b.SetParallelism(max(1, parallel/runtime.GOMAXPROCS(0)))
				one := func() error {
					res, err := c.Get("https://" + testHost + "/")
					if err != nil {
						return err
					}
					_, err = io.Copy(io.Discard, res.Body)
					_ = res.Body.Close()
					return err
				}
				if parallel == 1 {
					for b.Loop() {
						if err := one(); err != nil {
							b.Fatal(err)
						}
					}
				} else {
					b.RunParallel(func(pb *testing.PB) {
						for pb.Next() {
							if err := one(); err != nil {
								b.Error(err)
							}
						}
					})
				}
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "req/s")
			})
		}
	})
}

// BenchmarkHandshake is a new connection and one request for each.
func BenchmarkHandshake(b *testing.B) {
	w := newWorld(b, setup{handler: func(http.ResponseWriter, *http.Request) {}})
	c := w.client(false)
	c.Transport.(*http.Transport).DisableKeepAlives = true
	for b.Loop() {
		res, err := c.Get("https://" + testHost + "/")
		if err != nil {
			b.Fatal(err)
		}
		_ = res.Body.Close()
	}
}

func eachProtocol(b *testing.B, f func(b *testing.B, guest, server bool)) {
	for _, p := range []struct {
		name          string
		guest, server bool
	}{{"h1-h1", false, false}, {"h2-h1", true, false}, {"h2-h2", true, true}} {
		b.Run(p.name, func(b *testing.B) { f(b, p.guest, p.server) })
	}
}
