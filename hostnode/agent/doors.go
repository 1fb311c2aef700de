package agent

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Upstream's kubelet asks an API server that is not there yet again after
// 0.8 s and more (reflectors), 1 s (CSINode) or 10 s (node status). Ours
// starts beside the API server, so its requests wait at a door until they can
// succeed, and go on at that moment.
//
// The first door opens when the Node object exists: before that nothing of a
// kubelet's makes sense. The second holds back the node's status until the
// CSINode object is published: until then upstream would report the node as
// not ready, and report again 10 s later. The third keeps what makes no node
// ready, events and watches of other objects, out of the way until then.
type doors struct {
	nodeName string
	// node, status and rest are closed when their doors open.
	node, status, rest             chan struct{}
	openNode, openStatus, openRest func()

	// mu guards published.
	mu        sync.Mutex
	published int
}

// statusPatience is how long a node's status waits for the CSINode object
// after the Node exists: longer means that something is wrong with storage,
// and that has to be reported.
const statusPatience = 3 * time.Second

// restPatience is how long other requests wait for the node's status to be
// reported: more than that is no traffic jam.
const restPatience = 150 * time.Millisecond

// errRecompute makes upstream compute the node's status again.
var errRecompute = errors.New("node status was computed before the node's storage was published")

func newDoors(nodeName string) *doors {
	d := &doors{nodeName: nodeName, node: make(chan struct{}), status: make(chan struct{}), rest: make(chan struct{})}
	d.openNode = sync.OnceFunc(func() { close(d.node) })
	d.openStatus = sync.OnceFunc(func() { close(d.status) })
	d.openRest = sync.OnceFunc(func() { close(d.rest) })
	return d
}

// behindNode is the transport of the kubelet's client: what is needed to be
// ready waits for the Node object, the rest for the status.
func (d *doors) behindNode(next http.RoundTripper) http.RoundTripper {
	return door(next, func(req *http.Request) (*http.Response, error) {
		csiNode := strings.HasPrefix(req.URL.Path, "/apis/storage.k8s.io/v1/csinodes")
		door := d.rest
		if csiNode || strings.HasPrefix(req.URL.Path, "/api/v1/nodes") {
			door = d.node
		}
		if err := pass(req.Context(), door); err != nil {
			return nil, err
		}
		resp, err := next.RoundTrip(req)
		if err == nil && csiNode {
			d.sawCSINode(req.Method, resp.StatusCode)
		}
		return resp, err
	})
}

// behindStatus is the transport of heartbeats: it waits at both doors. A
// status that was computed before the second door opened is thrown away.
func (d *doors) behindStatus(next http.RoundTripper) http.RoundTripper {
	own := "/api/v1/nodes/" + d.nodeName
	return door(next, func(req *http.Request) (*http.Response, error) {
		if err := pass(req.Context(), d.node); err != nil {
			return nil, err
		}
		if !strings.HasPrefix(req.URL.Path, own) {
			return next.RoundTrip(req)
		}
		if !isOpen(d.status) {
			if err := pass(req.Context(), d.status); err != nil {
				return nil, err
			}
			if req.Method == http.MethodPatch {
				return nil, errRecompute
			}
		}
		resp, err := next.RoundTrip(req)
		if req.Method == http.MethodPatch {
			d.openRest()
		}
		return resp, err
	})
}

// sawCSINode follows the csi plugin's start: it reads the CSINode to see the
// API server, reads it again, and creates or corrects it. The object is
// published after a successful write or the second successful read.
func (d *doors) sawCSINode(method string, status int) {
	if status >= 300 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.published++; d.published > 1 || method != http.MethodGet {
		// The plugin withdraws its error right after it read the answer.
		time.AfterFunc(time.Millisecond, d.openStatus)
	}
}

// Run opens the second and the third door when it takes too long.
func (d *doors) Run(ctx context.Context) error {
	if err := pass(ctx, d.node); err != nil {
		return err
	}
	for _, late := range []struct {
		door     <-chan struct{}
		patience time.Duration
		open     func()
	}{
		{d.rest, restPatience, d.openRest},
		{d.status, statusPatience - restPatience, d.openStatus},
	} {
		timer := time.NewTimer(late.patience)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-late.door:
			timer.Stop()
		case <-timer.C:
			late.open()
		}
	}
	return nil
}

func isOpen(door <-chan struct{}) bool {
	select {
	case <-door:
		return true
	default:
		return false
	}
}

func pass(ctx context.Context, door <-chan struct{}) error {
	select {
	case <-door:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// transport sends what send lets through to next.
type transport struct {
	next http.RoundTripper
	send func(*http.Request) (*http.Response, error)
}

func door(next http.RoundTripper, send func(*http.Request) (*http.Response, error)) http.RoundTripper {
	return &transport{next: next, send: send}
}

func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) { return t.send(req) }

// WrappedRoundTripper is how client-go finds the transport that can close
// idle connections.
func (t *transport) WrappedRoundTripper() http.RoundTripper { return t.next }
