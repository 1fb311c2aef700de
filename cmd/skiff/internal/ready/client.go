package ready

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

// Client speaks to one cluster's API server.
type Client struct {
	server string
	http   *http.Client
}

// NewClient reads server and certificates from raw, a kubeconfig with one
// cluster and one user whose keys are inline.
func NewClient(raw []byte) (*Client, error) {
	var c struct {
		Clusters []struct {
			Cluster struct {
				Server string `json:"server"`
				CA     []byte `json:"certificate-authority-data"`
			} `json:"cluster"`
		} `json:"clusters"`
		Users []struct {
			User struct {
				Cert []byte `json:"client-certificate-data"`
				Key  []byte `json:"client-key-data"`
			} `json:"user"`
		} `json:"users"`
	}
	if err := yaml.Unmarshal(raw, &c); err != nil {
		return nil, fmt.Errorf("kubeconfig of the cluster: %w", err)
	}
	if len(c.Clusters) != 1 || len(c.Users) != 1 {
		return nil, errors.New("kubeconfig of the cluster: want one cluster and one user")
	}
	ca := x509.NewCertPool()
	if !ca.AppendCertsFromPEM(c.Clusters[0].Cluster.CA) {
		return nil, errors.New("kubeconfig of the cluster: no certificate authority")
	}
	cert, err := tls.X509KeyPair(c.Users[0].User.Cert, c.Users[0].User.Key)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig of the cluster: %w", err)
	}
	return &Client{
		server: strings.TrimSuffix(c.Clusters[0].Cluster.Server, "/"),
		http: &http.Client{Transport: &http.Transport{
			TLSClientConfig:   &tls.Config{RootCAs: ca, Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13},
			ForceAttemptHTTP2: true, // one connection and handshake for all requests
		}},
	}, nil
}

// Close ends idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// retryPeriod is between attempts at an API server that answers with an error
// because it is starting. One that does not answer yet needs none: its socket
// is open from the beginning, and the connection waits in its queue.
const retryPeriod = 10 * time.Millisecond

// get asks for path, once.
func (c *Client) get(ctx context.Context, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.server+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	return c.http.Do(req)
}

// listBound is for an API server that hangs: its socket accepts even when
// nobody serves it.
const listBound = 10 * time.Second

// List returns the JSON of a list.
func (c *Client) List(ctx context.Context, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, listBound)
	defer cancel()
	resp, err := c.get(ctx, path)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("list %s: %s", path, resp.Status)
	}
	return body, err
}

// event is one line of a watch.
type event struct {
	Type   string          `json:"type"`
	Object json.RawMessage `json:"object"`
}

// watch hands every object below path to see, present ones first, until see
// says that it has seen enough. It begins anew when the server ends a watch.
func (c *Client) watch(ctx context.Context, path string, note func(string), see func(event) (done bool)) error {
	return retry(ctx, note, func() error {
		resp, err := c.get(ctx, path)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return errors.New(resp.Status)
		}
		return events(resp.Body, see)
	})
}

// events is nil when see has seen enough.
func events(r io.Reader, see func(event) (done bool)) error {
	for d := json.NewDecoder(r); ; {
		var e event
		if err := d.Decode(&e); err != nil {
			return fmt.Errorf("watch: %w", err)
		}
		if e.Type == "ERROR" {
			return fmt.Errorf("watch: %s", e.Object)
		}
		if see(e) {
			return nil
		}
	}
}

// retry repeats attempt until it succeeds or ctx ends.
func retry(ctx context.Context, note func(string), attempt func() error) error {
	for {
		err := attempt()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		note(err.Error())
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(retryPeriod):
		}
	}
}
