package outage

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// serve runs a server at address until the test ends or stop is called. It is
// ready when ready says so, and echoes bodies.
func serve(t *testing.T, address string, ready *atomic.Bool) (at string, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/readyz" {
			if !ready.Load() {
				w.WriteHeader(http.StatusInternalServerError)
			}
			return
		}
		if !ready.Load() {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		io.Copy(w, r.Body)
	})}
	var wg sync.WaitGroup
	wg.Go(func() { srv.Serve(l) })
	stop = func() { srv.Close(); wg.Wait() }
	t.Cleanup(stop)
	return l.Addr().String(), stop
}

func TestRequestsWaitUntilTheServerIsReadyAgain(t *testing.T) {
	var ready atomic.Bool
	ready.Store(true)
	address, stop := serve(t, "127.0.0.1:0", &ready)
	transport := &http.Transport{DisableKeepAlives: true}
	client := &http.Client{Transport: new(Door).Through(transport)}
	post := func(body string) (string, error) {
		resp, err := client.Post("http://"+address+"/echo", "text/plain", strings.NewReader(body))
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		data, err := io.ReadAll(resp.Body)
		return resp.Status + " " + string(data), err
	}
	if got, err := post("before"); err != nil || got != "200 OK before" {
		t.Fatalf("before the outage: %q, %v", got, err)
	}

	stop()
	ready.Store(false)
	answers := make(chan string, 3)
	for range cap(answers) {
		go func() {
			got, err := post("during")
			answers <- got + errorText(err)
		}()
	}
	select {
	case got := <-answers:
		t.Fatalf("answered while the server was away: %s", got)
	case <-time.After(5 * poll):
	}
	serve(t, address, &ready)
	select {
	case got := <-answers:
		t.Fatalf("answered before the server was ready: %s", got)
	case <-time.After(5 * poll):
	}
	ready.Store(true)
	back := time.Now()
	for range cap(answers) {
		if got := <-answers; got != "200 OK during" {
			t.Errorf("after the outage: %s", got)
		}
	}
	if took := time.Since(back); took > time.Second {
		t.Errorf("requests went on %v after the server was ready", took)
	}
}

func TestARequestEndsWithItsContext(t *testing.T) {
	var ready atomic.Bool
	address, stop := serve(t, "127.0.0.1:0", &ready)
	stop()
	ctx, cancel := context.WithTimeout(t.Context(), 3*poll)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := new(Door).Through(http.DefaultTransport).RoundTrip(req); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the context's error", err)
	}
}

func TestAWatchThatGoesOnIsToldAtOnceThatItCannot(t *testing.T) {
	var ready atomic.Bool
	address, stop := serve(t, "127.0.0.1:0", &ready)
	stop()
	client := &http.Client{Transport: new(Door).Through(http.DefaultTransport)}
	resp, err := client.Get("http://" + address + "/api/v1/pods?watch=true&resourceVersion=7&allowWatchBookmarks=true")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	status := &metav1.Status{}
	if err := json.Unmarshal(body, status); err != nil {
		t.Fatal(err)
	}
	if !apierrors.IsResourceExpired(&apierrors.StatusError{ErrStatus: *status}) {
		t.Errorf("got %s, which no informer takes for an expired watch", body)
	}

	// A list, even one that goes over into a watch, is worth waiting for.
	ctx, cancel := context.WithTimeout(t.Context(), 3*poll)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet,
		"http://"+address+"/api/v1/pods?watch=true&resourceVersion=7&sendInitialEvents=true", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Do(req); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a list ended with %v", err)
	}
}

func TestAnErrorAfterConnectingIsTheCallers(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+l.Addr().String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := new(Door).Through(http.DefaultTransport).RoundTrip(req); err == nil {
		t.Error("no error from a server that hangs up")
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
