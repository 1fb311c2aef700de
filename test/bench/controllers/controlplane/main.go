// Command controlplane is test/apiserver with the cluster's controllers in
// the same process, as they are in a control plane of skiff's.
package main

import (
	"context"
	"log/slog"
	"os"

	"github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/apis/server"
	"github.com/skiff-k8s/skiff/controllers"
	"github.com/skiff-k8s/skiff/test/apiserver/compose"
)

func main() {
	compose.Main(func(ctx context.Context, api *server.Server, cp v1alpha1.ControlPlaneConfiguration, pkiDir string) error {
		manager, err := controllers.New(controllers.Config{
			RESTConfig: api.LoopbackClientConfig(), ControlPlane: cp, PKIDir: pkiDir,
			VolumesDir: pkiDir + ".volumes", // no volume is ever used
			Log:        slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		})
		if err != nil {
			return err
		}
		return manager.Run(ctx)
	})
}
