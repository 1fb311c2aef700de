package ready

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Error says what a cluster still lacked when the time was up.
type Error struct {
	// Missing are sentences that name an object each.
	Missing []string
}

func (e *Error) Error() string { return strings.Join(e.Missing, "; ") }

// Nodes waits until every one of names is Ready and free of the taints that
// keep Pods away from a starting node. When ctx ends by its deadline, the
// error is an *Error that says which are not, and why. What a kubelet said
// before since does not count: a stopped node looks as it did last.
func (c *Client) Nodes(ctx context.Context, names []string, since time.Time) error {
	lack := map[string]string{}
	for _, n := range names {
		lack[n] = "not registered"
	}
	trouble := ""
	err := c.watch(ctx, "/api/v1/nodes?watch=1", func(s string) { trouble = s }, func(e event) bool {
		var n node
		if json.Unmarshal(e.Object, &n) != nil || !slices.Contains(names, n.Metadata.Name) {
			return false
		}
		if why := n.lacks(since); e.Type == "DELETED" {
			lack[n.Metadata.Name] = "deleted"
		} else if why != "" {
			lack[n.Metadata.Name] = why
		} else {
			delete(lack, n.Metadata.Name)
		}
		return len(lack) == 0
	})
	return explain(ctx, err, func() []string {
		var missing []string
		for _, n := range names {
			if why, ok := lack[n]; ok {
				missing = append(missing, fmt.Sprintf("node %s: %s", n, why))
			}
		}
		if len(missing) == len(names) && trouble != "" {
			missing = append(missing, "API server: "+trouble)
		}
		return missing
	})
}

// firstNeeds are the objects that a first Pod in namespace default needs:
// admission refuses it without the service account, and its node retries the
// mount of its token without the root certificate.
var firstNeeds = []struct{ name, path string }{
	{"service account default", "/api/v1/namespaces/default/serviceaccounts?watch=1&fieldSelector=metadata.name%3Ddefault"},
	{"config map kube-root-ca.crt", "/api/v1/namespaces/default/configmaps?watch=1&fieldSelector=metadata.name%3Dkube-root-ca.crt"},
}

// FirstPod waits for what the first Pod in namespace default needs. When ctx
// ends by its deadline, the error is an *Error.
func (c *Client) FirstPod(ctx context.Context) error {
	for _, need := range firstNeeds {
		err := c.watch(ctx, need.path, func(string) {}, func(e event) bool { return e.Type == "ADDED" || e.Type == "MODIFIED" })
		if err := explain(ctx, err, func() []string { return []string{need.name + ": not created"} }); err != nil {
			return err
		}
	}
	return nil
}

// explain turns the end of the time into an *Error, and leaves an
// interruption what it is.
func explain(ctx context.Context, err error, missing func() []string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return &Error{Missing: missing()}
	case ctx.Err() != nil:
		return context.Cause(ctx)
	default:
		return err
	}
}

// node is what of a Node decides whether it takes Pods.
type node struct {
	Metadata struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Spec struct {
		Taints []struct {
			Key string `json:"key"`
		} `json:"taints"`
	} `json:"spec"`
	Status struct {
		Conditions []struct {
			Type      string    `json:"type"`
			Status    string    `json:"status"`
			Reason    string    `json:"reason"`
			Message   string    `json:"message"`
			Heartbeat time.Time `json:"lastHeartbeatTime"`
		} `json:"conditions"`
	} `json:"status"`
}

// lacks says why n takes no Pods, and nothing when it does.
func (n node) lacks(since time.Time) string {
	why := "no status yet"
	for _, c := range n.Status.Conditions {
		if c.Type != "Ready" {
			continue
		}
		if c.Heartbeat.Before(since.Truncate(time.Second)) { // the API's times are whole seconds
			return "not heard of since the start"
		}
		if why = ""; c.Status != "True" {
			why = "not Ready: " + c.Reason
			if c.Message != "" {
				why += ": " + c.Message
			}
		}
	}
	if why != "" {
		return why
	}
	// The controllers take these away a moment after the node is Ready.
	for _, t := range n.Spec.Taints {
		switch t.Key {
		case "node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable", "node.kubernetes.io/network-unavailable",
			"node.cloudprovider.kubernetes.io/uninitialized":
			return "tainted " + t.Key
		}
	}
	return ""
}
