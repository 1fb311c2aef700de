// Package apitest gives the dataplane's tests a real API server of their own:
// test/apiserver, started in the test's namespaces on loopback.
package apitest

import (
	"testing"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/skiff-k8s/skiff/test/apiserver/apiservertest"
)

// Server is a running API server.
type Server struct {
	// Config is an administrator's client configuration without rate limit.
	Config *rest.Config
	Client kubernetes.Interface
}

// Start starts an API server that goes with the test; args are further flags
// of test/apiserver.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	config := apiservertest.Start(t, args...).Config()
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return &Server{Config: config, Client: client}
}
