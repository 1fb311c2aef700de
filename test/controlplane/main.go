// Command controlplane is test/apiserver with the cluster's controllers in
// the same process and settled after the start, as control planes of skiff's
// are. With -controllers=false it is without them, with -await until SIGUSR1.
package main

import (
	"context"
	"flag"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/apis/server"
	"github.com/skiff-k8s/skiff/controllers"
	"github.com/skiff-k8s/skiff/hostnode/settle"
	"github.com/skiff-k8s/skiff/test/apiserver/compose"
)

// settleAfter is skiff-machine's.
const settleAfter = 5500 * time.Millisecond

func main() {
	with := flag.Bool("controllers", true, "run the controllers")
	await := flag.Bool("await", false, "start the controllers at SIGUSR1")
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGUSR1)
	compose.Main(func(ctx context.Context, api *server.Server, cp v1alpha1.ControlPlaneConfiguration, pkiDir string) error {
		timer := time.AfterFunc(settleAfter, func() {
			if err := settle.Memory(); err != nil {
				slog.Warn("memory of the start kept", "error", err)
			}
		})
		defer timer.Stop()
		if !*with {
			<-ctx.Done()
			return nil
		}
		if *await {
			select {
			case <-ctx.Done():
				return nil
			case <-told:
			}
		}
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
