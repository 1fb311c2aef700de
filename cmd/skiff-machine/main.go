// Command skiff-machine holds everything big that runs inside a machine, in
// one file so that all its processes share its pages: the control plane, the
// node, and the tools that the host calls.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
	_ "time/tzdata" // time zones of CronJobs, as upstream's programs; the host need not have any

	"k8s.io/client-go/transport"
)

const usage = `skiff-machine is started by skiff, not by hand.

  skiff-machine control-plane   etcd, API server, scheduler, controllers, DNS
  skiff-machine node            containerd, kubelet, dataplane
  skiff-machine images VERB     load, list and delete images of the host's store
  skiff-machine trace VERB      what Services and policies do with a connection
  skiff-machine etcd VERB       save and restore etcd
`

var commands = map[string]func(ctx context.Context, args []string) error{
	"control-plane": controlPlaneCommand,
	"node":          nodeCommand,
	"images":        imagesCommand,
	"trace":         traceCommand,
	"etcd":          etcdCommand,
}

// mender is an error that knows what its user can do.
type mender interface {
	error
	Mend() string
}

// certificateLook is how often clients look for a renewed certificate, in place
// of upstream's five minutes: after a host's long sleep the old one has ended,
// and a kubelet that goes on with it is nobody's.
const certificateLook = 10 * time.Second

func main() {
	transport.CertCallbackRefreshDuration = certificateLook
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := commands[os.Args[1]](ctx, os.Args[2:]); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintf(os.Stderr, "Error: skiff-machine %s: %v\n", os.Args[1], err)
		if m, ok := errors.AsType[mender](err); ok {
			fmt.Fprintf(os.Stderr, "  Mend: %s\n", m.Mend())
		}
		stop()
		os.Exit(1)
	}
}
