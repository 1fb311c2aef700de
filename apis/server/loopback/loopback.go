package loopback

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"sync"
	"syscall"

	"k8s.io/klog/v2"
)

// Transport carries requests of this process to the API server's handler by
// function call: the whole handler chain from authentication on, but no TCP,
// TLS or HTTP/2. It takes the place of the transport below a rest.Config's
// own wrappers, so that tokens, impersonation and user agents work as always.
type Transport struct {
	opened  chan struct{}
	handler http.Handler
	// life ends all requests.
	life context.Context
	end  context.CancelFunc
}

// New returns a transport on which requests wait for Open.
func New() *Transport {
	life, end := context.WithCancel(context.Background())
	return &Transport{opened: make(chan struct{}), life: life, end: end}
}

// Open sets the handler, once; requests flow from now on.
func (l *Transport) Open(handler http.Handler) {
	l.handler = handler
	close(l.opened)
}

// Close ends the requests in flight; later ones fail as on a closed port.
func (l *Transport) Close() { l.end() }

// Wrap is a rest.Config's WrapTransport: it replaces what it is given.
func (l *Transport) Wrap(http.RoundTripper) http.RoundTripper { return l }

// RoundTrip implements http.RoundTripper.
func (l *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	body := req.Body
	if body == nil {
		body = http.NoBody
	}
	select {
	case <-l.opened:
	case <-l.life.Done():
	case <-req.Context().Done():
		body.Close()
		return nil, context.Cause(req.Context())
	}
	if l.life.Err() != nil {
		body.Close()
		return nil, fmt.Errorf("API server has stopped: %w", syscall.ECONNREFUSED)
	}

	// As over a network, the server learns of the client's context only that
	// it ended: neither its values nor its deadline cross.
	ctx, cancel := context.WithCancel(l.life)
	detach := context.AfterFunc(req.Context(), cancel)

	in := req.Clone(ctx)
	in.Body = body
	in.RequestURI = req.URL.RequestURI()
	in.RemoteAddr = "127.0.0.1:0"
	in.Proto, in.ProtoMajor, in.ProtoMinor = "HTTP/2.0", 2, 0
	if in.Host == "" {
		in.Host = req.URL.Host
	}
	in.URL.Scheme, in.URL.Host = "", ""
	in.Close, in.GetBody, in.Response = false, nil, nil

	w := newResponse(ctx, cancel)
	go func() {
		defer func() {
			detach()
			cancel()
			body.Close()
		}()
		w.finish(serve(l.handler, w, in))
	}()
	select {
	case <-w.started:
		return w.result(req), nil
	case <-req.Context().Done():
		return nil, context.Cause(req.Context())
	}
}

// serve returns an error when the handler panicked: the client must not take
// what was written for the whole answer.
func serve(handler http.Handler, w *response, req *http.Request) (err error) {
	defer func() {
		switch p := recover(); p {
		case nil:
		case http.ErrAbortHandler:
			err = io.ErrUnexpectedEOF
		default:
			klog.ErrorS(nil, "API handler panicked", "panic", p, "stack", string(debug.Stack()))
			err = io.ErrUnexpectedEOF
		}
	}()
	handler.ServeHTTP(w, req)
	return nil
}

// window is how far a handler may write ahead of its reader. A watcher that
// reads no further holds up its handler, as a full TCP window would.
const window = 256 << 10

// response is the server's ResponseWriter and the client's body.
type response struct {
	header http.Header
	ctx    context.Context
	cancel context.CancelFunc
	// started is closed when status and sent are set.
	started chan struct{}
	status  int
	sent    http.Header

	mu   sync.Mutex
	more sync.Cond
	// mu guards the fields below; more tells of every change.
	buf    bytes.Buffer
	done   bool
	err    error
	closed bool
}

func newResponse(ctx context.Context, cancel context.CancelFunc) *response {
	w := &response{header: http.Header{}, ctx: ctx, cancel: cancel, started: make(chan struct{})}
	w.more.L = &w.mu
	context.AfterFunc(ctx, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.more.Broadcast()
	})
	return w
}

func (w *response) Header() http.Header { return w.header }

func (w *response) WriteHeader(status int) {
	if w.status != 0 || (status >= 100 && status < 200) {
		return
	}
	w.status = status
	w.sent = w.header.Clone()
	close(w.started)
}

func (w *response) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.buf.Len() >= window && !w.closed && w.ctx.Err() == nil {
		w.more.Wait()
	}
	if w.closed || w.ctx.Err() != nil {
		return 0, syscall.EPIPE
	}
	n, err := w.buf.Write(p)
	w.more.Broadcast()
	return n, err
}

// Flush implements http.Flusher: what is written is visible already.
func (w *response) Flush() { w.WriteHeader(http.StatusOK) }

// CloseNotify implements http.CloseNotifier, by which upstream tells a real
// response writer from a wrapped one.
func (w *response) CloseNotify() <-chan bool {
	gone := make(chan bool, 1)
	context.AfterFunc(w.ctx, func() { gone <- true })
	return gone
}

func (w *response) finish(err error) {
	w.WriteHeader(http.StatusOK)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done, w.err = true, err
	w.more.Broadcast()
}

func (w *response) result(req *http.Request) *http.Response {
	return &http.Response{
		Status:        fmt.Sprintf("%d %s", w.status, http.StatusText(w.status)),
		StatusCode:    w.status,
		Proto:         "HTTP/2.0",
		ProtoMajor:    2,
		Header:        w.sent,
		Body:          (*responseBody)(w),
		ContentLength: -1,
		Request:       req,
	}
}

type responseBody response

func (b *responseBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		switch {
		case b.closed:
			return 0, http.ErrBodyReadAfterClose
		case b.buf.Len() > 0:
			n, err := b.buf.Read(p)
			b.more.Broadcast()
			return n, err
		case b.done && b.err != nil:
			return 0, b.err
		case b.done:
			return 0, io.EOF
		case b.ctx.Err() != nil:
			return 0, context.Cause(b.ctx)
		}
		b.more.Wait()
	}
}

// Close ends the request: a handler that still writes is told.
func (b *responseBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.buf = bytes.Buffer{}
	b.cancel()
	b.more.Broadcast()
	return nil
}
