package main

import (
	"io"
	"net/http"
	"sync"
	"time"
)

// arrivals notes when bytes of lists and watches come from the API server.
type arrivals struct {
	// events gets the time of the newest bytes of a watch that nobody took.
	events chan time.Time

	mu   sync.Mutex
	list time.Time // under mu
}

func newArrivals() *arrivals { return &arrivals{events: make(chan time.Time, 1)} }

// lastList is when the last byte of a list came.
func (a *arrivals) lastList() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.list
}

func (a *arrivals) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		resp, err := next.RoundTrip(r)
		if err != nil {
			return resp, err
		}
		note := a.listed
		if r.URL.Query().Get("watch") == "true" {
			note = a.event
		}
		resp.Body = &body{ReadCloser: resp.Body, note: note}
		return resp, nil
	})
}

func (a *arrivals) listed(at time.Time) {
	a.mu.Lock()
	a.list = at
	a.mu.Unlock()
}

func (a *arrivals) event(at time.Time) {
	select {
	case a.events <- at:
	default: // the reader is busy with one that came just before
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// body calls note after each read that brought something.
type body struct {
	io.ReadCloser
	note func(time.Time)
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		b.note(time.Now())
	}
	return n, err
}
