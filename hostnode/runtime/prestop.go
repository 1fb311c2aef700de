package runtime

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	httpprobe "k8s.io/kubernetes/pkg/probe/http"
)

// preStop runs a container's hook as the kubelet does.
func (r *Runtime) preStop(ctx context.Context, c *runtimeapi.Container, h *corev1.LifecycleHandler, grace time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	var err error
	switch {
	case h.Exec != nil:
		_, _, err = r.RuntimeService().ExecSync(ctx, c.Id, h.Exec.Command, grace)
	case h.HTTPGet != nil:
		err = r.preStopHTTP(ctx, c, h.HTTPGet)
	case h.Sleep != nil:
		select {
		case <-time.After(time.Duration(h.Sleep.Seconds) * time.Second):
		case <-ctx.Done():
		}
	}
	if err != nil {
		return fmt.Errorf("preStop: %w", err)
	}
	return nil
}

// preStopHTTP asks; whatever is answered is fine.
func (r *Runtime) preStopHTTP(ctx context.Context, c *runtimeapi.Container, get *corev1.HTTPGetAction) error {
	ip := get.Host
	if ip == "" {
		sandbox, err := r.RuntimeService().PodSandboxStatus(ctx, c.PodSandboxId, false)
		if err != nil {
			return err
		}
		if ip = sandbox.GetStatus().GetNetwork().GetIp(); ip == "" {
			return errors.New("the Pod has no address, and httpGet.host is not set")
		}
	}
	request, err := httpprobe.NewRequestForHTTPGetAction(get, portsOf(c.Annotations), ip, "lifecycle")
	if err != nil {
		return err
	}
	client := &http.Client{
		// As the kubelet: a hook's certificate is nobody's business, and what
		// it redirects to on other hosts neither.
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true},
		CheckRedirect: httpprobe.RedirectChecker(false),
	}
	err = ask(client, request.WithContext(ctx))
	if err != nil && strings.Contains(err.Error(), "server gave HTTP response to HTTPS client") {
		plain := request.Clone(ctx)
		plain.URL.Scheme = "http"
		plain.Header.Del("Authorization")
		err = ask(client, plain)
	}
	return err
}

func ask(client *http.Client, request *http.Request) error {
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 10<<10)) // what it says is of no interest
	return response.Body.Close()
}

// portsOf is a container with the ports by whose names a hook may ask.
func portsOf(annotations map[string]string) *corev1.Container {
	c := &corev1.Container{}
	if json.Unmarshal([]byte(annotations[portsAnnotation]), &c.Ports) != nil {
		c.Ports = nil // upstream then finds no port of that name, and says so
	}
	return c
}
