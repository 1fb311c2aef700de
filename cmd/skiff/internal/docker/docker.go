package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// HostEnv names the daemon, as for the docker client.
const HostEnv = "DOCKER_HOST"

// DefaultHost is where Docker listens.
const DefaultHost = "unix:///var/run/docker.sock"

// dialBound: a daemon of this host accepts at once; one that does not is dead.
const dialBound = 5 * time.Second

// ErrHost is a DOCKER_HOST that only docker's own client understands.
var ErrHost = errors.New("only unix://PATH and tcp://HOST:PORT can be read here")

// ErrAbsent says that nobody answers.
var ErrAbsent = errors.New("no Docker daemon")

// ErrNoImage says that the daemon does not have it.
var ErrNoImage = errors.New("no such image")

// Daemon is a Docker daemon.
type Daemon struct {
	host   string
	client *http.Client
}

// New returns the daemon at host; empty means DefaultHost. It connects to
// nobody.
func New(host string) (*Daemon, error) {
	if host == "" {
		host = DefaultHost
	}
	network, address, ok := strings.Cut(host, "://")
	if !ok || address == "" || (network != "unix" && network != "tcp") {
		return nil, fmt.Errorf("%s=%s: %w", HostEnv, host, ErrHost)
	}
	dialer := &net.Dialer{Timeout: dialBound}
	return &Daemon{host: host, client: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, address)
			if op, ok := errors.AsType[*net.OpError](err); ok {
				err = op.Err // the address is said already
			}
			return conn, err
		},
	}}}, nil
}

// Close drops idle connections.
func (d *Daemon) Close() { d.client.CloseIdleConnections() }

// Check asks for all images: when one of several is missing, an export does
// not say which.
func (d *Daemon) Check(ctx context.Context, images []string) error {
	for _, image := range images {
		body, err := d.get(ctx, "/images/"+image+"/json", nil)
		if errors.Is(err, ErrAbsent) {
			return err
		}
		if err != nil {
			return fmt.Errorf("image %q: %w", image, err)
		}
		body.Close()
	}
	return nil
}

// Save writes one archive of all images, as `docker save` does.
func (d *Daemon) Save(ctx context.Context, images []string, to io.Writer) error {
	body, err := d.get(ctx, "/images/get", url.Values{"names": images})
	if err != nil {
		return fmt.Errorf("export from %s: %w", d.host, err)
	}
	defer body.Close()
	if _, err := io.Copy(to, body); err != nil {
		return fmt.Errorf("export from %s: %w", d.host, err)
	}
	return nil
}

// get asks the daemon; paths without a version are the daemon's newest API.
func (d *Daemon) get(ctx context.Context, path string, query url.Values) (io.ReadCloser, error) {
	// The host of the URL is not used: the dialer knows.
	at := url.URL{Scheme: "http", Host: "docker", Path: path, RawQuery: query.Encode()}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return nil, err
	}
	response, err := d.client.Do(request)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		return nil, fmt.Errorf("%w at %s: %w", ErrAbsent, d.host, e.Err)
	}
	if err != nil {
		return nil, err
	}
	if response.StatusCode == http.StatusOK {
		return response.Body, nil
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusNotFound {
		return nil, ErrNoImage
	}
	return nil, errors.New(refusal(response))
}

// refusal is what the daemon says of an error.
func refusal(response *http.Response) string {
	var said struct {
		Message string `json:"message"`
	}
	// Errors are a line; more would not be one.
	if json.NewDecoder(io.LimitReader(response.Body, 1<<16)).Decode(&said) == nil && said.Message != "" {
		return said.Message
	}
	return response.Status
}
