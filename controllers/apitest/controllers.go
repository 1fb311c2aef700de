package apitest

import (
	"context"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/controllers"
)

// Run runs all controllers until the test ends, upstream's for the names in
// upstream, and returns their API server.
func Run(t testing.TB, upstream ...string) *API {
	t.Helper()
	api := Server(t)
	RunWith(t, controllers.Config{Upstream: upstream})
	return api
}

// RunWith is Run with more of the configuration; what is empty is filled in.
func RunWith(t testing.TB, cfg controllers.Config) {
	t.Helper()
	api := Server(t)
	cfg.RESTConfig, cfg.PKIDir = rest.CopyConfig(api.Config), api.PKIDir
	cfg.RESTConfig.ContentType = runtime.ContentTypeProtobuf // as the API server's own client
	cfg.ControlPlane.PodSubnets, cfg.ControlPlane.ServiceSubnets = ControlPlane().PodSubnets, ControlPlane().ServiceSubnets
	if cfg.VolumesDir == "" {
		cfg.VolumesDir = t.TempDir()
	}
	cfg.Log = slog.New(logTo(t))
	manager, err := controllers.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- manager.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("controllers ended: %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Error("controllers do not stop")
		}
	})
}

// ControlPlane is the configuration of every test cluster.
func ControlPlane() machinev1alpha1.ControlPlaneConfiguration {
	return machinev1alpha1.ControlPlaneConfiguration{
		PodSubnets:     []netip.Prefix{netip.MustParsePrefix(PodSubnet)},
		ServiceSubnets: []netip.Prefix{netip.MustParsePrefix(ServiceSubnet)},
	}
}
