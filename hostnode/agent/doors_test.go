package agent

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// apiServer answers every request with the status of its path, and notes when.
type apiServer struct {
	start  time.Time
	status map[string]int
	seen   []string
}

func (s *apiServer) RoundTrip(req *http.Request) (*http.Response, error) {
	what := req.Method + " " + req.URL.Path
	s.seen = append(s.seen, what+" "+time.Since(s.start).Round(time.Millisecond).String())
	status := s.status[what]
	if status == 0 {
		status = http.StatusOK
	}
	return &http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader("")), Request: req}, nil
}

func send(ctx context.Context, rt http.RoundTripper, what string) error {
	method, path, _ := strings.Cut(what, " ")
	req, err := http.NewRequestWithContext(ctx, method, "https://api"+path, nil)
	if err != nil {
		return err
	}
	resp, err := rt.RoundTrip(req)
	if err == nil {
		resp.Body.Close()
	}
	return err
}

const (
	node    = "/api/v1/nodes/n1"
	csiNode = "/apis/storage.k8s.io/v1/csinodes/n1"
)

func TestRequestsGoOnInTheOrderThatMakesANodeReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &apiServer{start: time.Now(), status: map[string]int{"GET " + csiNode: 404}}
		d := newDoors("n1")
		kube, heartbeat := d.behindNode(s), d.behindStatus(s)
		ctx := t.Context()
		go d.Run(ctx)

		go send(ctx, kube, "GET /api/v1/pods")
		go func() {
			send(ctx, kube, "GET "+csiNode)
			time.Sleep(10 * time.Millisecond)
			send(ctx, kube, "POST /apis/storage.k8s.io/v1/csinodes")
		}()
		stale := make(chan error, 1)
		go func() { stale <- send(ctx, heartbeat, "PATCH "+node+"/status") }()
		time.Sleep(time.Second)
		synctest.Wait()
		if len(s.seen) != 0 {
			t.Fatalf("before the node exists: %v", s.seen)
		}

		d.openNode()
		// A status from before the CSINode was published is computed again.
		if err := <-stale; !errors.Is(err, errRecompute) {
			t.Fatalf("the stale status ended with %v", err)
		}
		if err := send(ctx, heartbeat, "PATCH "+node+"/status"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		want := []string{
			"GET " + csiNode + " 1s",
			"POST /apis/storage.k8s.io/v1/csinodes 1.01s",
			"PATCH " + node + "/status 1.011s",
			"GET /api/v1/pods 1.011s",
		}
		if got := strings.Join(s.seen, "\n"); got != strings.Join(want, "\n") {
			t.Errorf("requests:\n%s\nwant:\n%s", got, strings.Join(want, "\n"))
		}
	})
}

func TestAPublishedCSINodeIsReadTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &apiServer{start: time.Now()}
		d := newDoors("n1")
		kube := d.behindNode(s)
		d.openNode()
		for i, open := range []bool{false, true} {
			if err := send(t.Context(), kube, "GET "+csiNode); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Millisecond)
			if isOpen(d.status) != open {
				t.Errorf("after read %d the status may go: %v", i+1, !open)
			}
		}
	})
}

func TestDoorsOpenByThemselvesWhenSomethingIsWrong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &apiServer{start: time.Now()}
		d := newDoors("n1")
		d.openNode()
		go d.Run(t.Context())
		if err := send(t.Context(), d.behindNode(s), "GET /api/v1/pods"); err != nil {
			t.Fatal(err)
		}
		if err := send(t.Context(), d.behindStatus(s), "GET "+node); err != nil {
			t.Fatal(err)
		}
		want := "GET /api/v1/pods 150ms\nGET " + node + " 3s"
		if got := strings.Join(s.seen, "\n"); got != want {
			t.Errorf("requests:\n%s\nwant:\n%s", got, want)
		}
	})
}

func TestARequestLeavesTheDoorWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, rt := range map[string]http.RoundTripper{
		"kubelet":   newDoors("n1").behindNode(&apiServer{}),
		"heartbeat": newDoors("n1").behindStatus(&apiServer{}),
	} {
		if err := send(ctx, rt, "GET "+node); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
