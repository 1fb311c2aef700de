package loopback_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skiff-k8s/skiff/apis/server/loopback"
)

// open returns a client of handler.
func open(t *testing.T, handler http.HandlerFunc) (*http.Client, *loopback.Transport) {
	t.Helper()
	transport := loopback.New()
	t.Cleanup(transport.Close)
	transport.Open(handler)
	return &http.Client{Transport: transport.Wrap(nil)}, transport
}

func request(t *testing.T, ctx context.Context, method string, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, "https://127.0.0.1:6443/apis?watch=true", body)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func TestTheHandlerSeesWhatAServerWouldShow(t *testing.T) {
	type key struct{}
	client, _ := open(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if r.Context().Value(key{}) != nil {
			t.Error("the client's context crossed")
		}
		if _, ok := r.Context().Deadline(); ok {
			t.Error("the client's deadline crossed")
		}
		if r.URL.Host != "" || r.RemoteAddr == "" || r.TLS != nil {
			t.Errorf("host %q, remote %q, TLS %v", r.URL.Host, r.RemoteAddr, r.TLS)
		}
		w.Header().Set("X-Test", "a")
		w.WriteHeader(http.StatusCreated)
		w.Header().Set("X-Test", "too late")
		fmt.Fprintf(w, "%s %s %s %s", r.Method, r.RequestURI, r.Host, body)
	})
	ctx, cancel := context.WithTimeout(context.WithValue(t.Context(), key{}, 1), time.Minute)
	defer cancel()
	resp, err := client.Do(request(t, ctx, http.MethodPost, strings.NewReader("hello")))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusCreated || resp.Header.Get("X-Test") != "a" || string(body) != "POST /apis?watch=true 127.0.0.1:6443 hello" {
		t.Errorf("%d %v %q", resp.StatusCode, resp.Header, body)
	}
}

func TestEventsArriveAsTheyAreWritten(t *testing.T) {
	next := make(chan string)
	client, _ := open(t, func(w http.ResponseWriter, _ *http.Request) {
		w.(http.Flusher).Flush()
		for event := range next {
			io.WriteString(w, event)
		}
	})
	resp, err := client.Do(request(t, t.Context(), http.MethodGet, nil))
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64)
	for _, event := range []string{"one", "two"} {
		next <- event
		n, err := resp.Body.Read(buf)
		if err != nil || string(buf[:n]) != event {
			t.Fatalf("%q, %v", buf[:n], err)
		}
	}
	close(next)
	if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) > 0 {
		t.Errorf("%q, %v", rest, err)
	}
}

// TestASlowReaderHoldsUpItsWriter: a watcher that does not read must not make
// the server buffer without end.
func TestASlowReaderHoldsUpItsWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		event := bytes.Repeat([]byte("x"), 1<<10)
		written, gone := 0, make(chan error, 1)
		client, _ := open(t, func(w http.ResponseWriter, _ *http.Request) {
			for {
				if _, err := w.Write(event); err != nil {
					gone <- err
					return
				}
				written += len(event)
			}
		})
		resp, err := client.Do(request(t, t.Context(), http.MethodGet, nil))
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if written > 512<<10 {
			t.Errorf("%d bytes ahead of the reader", written)
		}
		before := written
		if _, err := io.CopyN(io.Discard, resp.Body, 100<<10); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if written <= before {
			t.Error("the writer does not go on")
		}
		resp.Body.Close()
		if err := <-gone; !errors.Is(err, syscall.EPIPE) {
			t.Errorf("writer: %v", err)
		}
	})
}

func TestTheHandlerLearnsThatItsClientIsGone(t *testing.T) {
	for name, leave := range map[string]func(cancel func(), resp *http.Response, transport *loopback.Transport){
		"context cancelled": func(cancel func(), _ *http.Response, _ *loopback.Transport) { cancel() },
		"body closed":       func(_ func(), resp *http.Response, _ *loopback.Transport) { resp.Body.Close() },
		"server closed":     func(_ func(), _ *http.Response, transport *loopback.Transport) { transport.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			gone := make(chan struct{})
			client, transport := open(t, func(w http.ResponseWriter, r *http.Request) {
				w.(http.Flusher).Flush()
				<-r.Context().Done()
				close(gone)
			})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			resp, err := client.Do(request(t, ctx, http.MethodGet, nil))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			leave(cancel, resp, transport)
			<-gone
		})
	}
}

func TestAPanicIsNoCompleteAnswer(t *testing.T) {
	client, _ := open(t, func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "half")
		panic(http.ErrAbortHandler)
	})
	resp, err := client.Do(request(t, t.Context(), http.MethodGet, nil))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%q, %v", body, err)
	}
}

func TestRequestsWaitForTheServer(t *testing.T) {
	transport := loopback.New()
	client := &http.Client{Transport: transport}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := client.Do(request(t, ctx, http.MethodGet, nil)); !errors.Is(err, context.Canceled) {
		t.Errorf("given up before the server was there: %v", err)
	}

	done := make(chan error, 1)
	go func() {
		resp, err := client.Do(request(t, t.Context(), http.MethodGet, nil))
		if err == nil {
			resp.Body.Close()
		}
		done <- err
	}()
	transport.Open(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	if err := <-done; err != nil {
		t.Error(err)
	}
	transport.Close()
	if _, err := client.Do(request(t, t.Context(), http.MethodGet, nil)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("after the server ended: %v", err)
	}
}

func BenchmarkRequest(b *testing.B) {
	transport := loopback.New()
	defer transport.Close()
	transport.Open(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("ok")) }))
	client := &http.Client{Transport: transport}
	for b.Loop() {
		resp, err := client.Get("https://127.0.0.1/")
		if err != nil {
			b.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
}
