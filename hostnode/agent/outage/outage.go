// Package outage lets a client of an API server live through the server's
// restart.
//
// Watches of client-go try again after 0.8 s, then 1.6 s, up to 30 s: an API
// server that is back after two seconds is noticed after ten. A request of
// ours that cannot connect waits until the server says that it is ready, and
// then goes on. Nothing was sent before, so any request may.
//
// A watch that would go on where it was is told at once that it cannot, as the
// server itself would tell it: one that has just started remembers no events.
// Its informer so spends the pause before it lists again while the server is
// away.
package outage

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// patience is how long a request waits before it is sent whatever the
	// server says of itself, so that its caller hears of the outage.
	patience = 30 * time.Second
	// poll is the pause between two questions whether the server is ready. A
	// refused connection to an address of this host costs nothing.
	poll = 20 * time.Millisecond
	// answer is how long an answer to that may take.
	answer = time.Second
)

// Door is shut while the server is away. The zero value is open. Clients of
// one server share one Door.
type Door struct {
	// mu guards the fields below.
	mu   sync.Mutex
	away bool
	// asked is closed when the request that asks for all others has an answer
	// or gives up; nil when nobody asks.
	asked chan struct{}
}

// Through is next behind the door, for rest.Config.Wrap.
func (d *Door) Through(next http.RoundTripper) http.RoundTripper {
	return &transport{door: d, next: next}
}

type transport struct {
	door *Door
	next http.RoundTripper
}

// RoundTrip sends the request when the server is there.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	start := time.Now()
	for {
		if resumes(req) && t.door.isAway() {
			return expired(req), nil
		}
		waitErr := t.wait(req, time.Until(start.Add(patience)))
		if err := req.Context().Err(); err != nil {
			return nil, err
		}
		resp, err := t.next.RoundTrip(req)
		if !unreachable(err) {
			t.door.set(false)
			return resp, err
		}
		t.door.set(true)
		if waitErr != nil {
			return nil, err
		}
		if resumes(req) {
			continue
		}
		if req.Body == nil || req.Body == http.NoBody {
			continue
		}
		// The transport has closed the body, if not read it.
		if req.GetBody == nil {
			return nil, err
		}
		body, bodyErr := req.GetBody()
		if bodyErr != nil {
			return nil, errors.Join(err, bodyErr)
		}
		req = req.Clone(req.Context())
		req.Body = body
	}
}

// WrappedRoundTripper is how client-go finds the transport that can close
// idle connections.
func (t *transport) WrappedRoundTripper() http.RoundTripper { return t.next }

// resumes says whether the request is a watch that goes on after an event.
func resumes(req *http.Request) bool {
	if req.Method != http.MethodGet {
		return false
	}
	q := req.URL.Query()
	watch, err := strconv.ParseBool(q.Get("watch"))
	return err == nil && watch && q.Get("resourceVersion") != "" && q.Get("resourceVersion") != "0" && q.Get("sendInitialEvents") != "true"
}

// expired is the API server's answer to a watch for whose start it has no
// events.
func expired(req *http.Request) *http.Response {
	const body = `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Expired","code":410,` +
		`"message":"too old resource version: the API server is away, and will have forgotten"}`
	return &http.Response{
		Status: "410 Gone", StatusCode: http.StatusGone,
		Proto: "HTTP/2.0", ProtoMajor: 2,
		Header:        http.Header{"Content-Type": {"application/json"}},
		Body:          io.NopCloser(strings.NewReader(body)),
		ContentLength: int64(len(body)),
		Request:       req,
	}
}

func (d *Door) isAway() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.away
}

func (d *Door) set(away bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.away = away
}

// unreachable says that no connection was made: nothing was sent.
func unreachable(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial"
}

// wait returns when the server is there. One waiting request asks for all.
func (t *transport) wait(req *http.Request, longest time.Duration) error {
	ctx, cancel := context.WithTimeout(req.Context(), longest)
	defer cancel()
	for {
		t.door.mu.Lock()
		if !t.door.away {
			t.door.mu.Unlock()
			return nil
		}
		asked := t.door.asked
		if asked == nil {
			asked = make(chan struct{})
			t.door.asked = asked
			t.door.mu.Unlock()
			err := t.ask(ctx, req.URL)
			t.door.mu.Lock()
			t.door.asked = nil
			if err == nil {
				t.door.away = false
			}
			t.door.mu.Unlock()
			close(asked)
			return err
		}
		t.door.mu.Unlock()
		select {
		case <-asked:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ask returns when the server says that it is ready.
func (t *transport) ask(ctx context.Context, server *url.URL) error {
	ready := url.URL{Scheme: server.Scheme, Host: server.Host, Path: "/readyz"}
	for tick := time.NewTimer(poll); ; tick.Reset(poll) {
		select {
		case <-ctx.Done():
			tick.Stop()
			return ctx.Err()
		case <-tick.C:
		}
		if t.isReady(ctx, ready.String()) {
			return nil
		}
	}
}

func (t *transport) isReady(ctx context.Context, ready string) bool {
	ctx, cancel := context.WithTimeout(ctx, answer)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, ready, nil)
	if err != nil {
		return false
	}
	resp, err := t.next.RoundTrip(req)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}
