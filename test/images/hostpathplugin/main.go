// Command hostpathplugin stands in for csi-driver-host-path, whose module the
// Go proxy does not have. It has the two modes that upstream's suite asks for:
//
//   - a proxy: DRA and CSI mock specs with hooks answer in their own process
//     for a driver whose socket is on a node;
//   - a driver, with the flags that the other CSI mock specs set. It is the one
//     that those with hooks have in their process, upstream's mock: it keeps
//     its volumes in memory, and makes a directory of each that is published.
//
// Usage:
//
//	hostpathplugin -endpoint PATH -proxy-endpoint tcp://ADDRESS:PORT
//	hostpathplugin -endpoint PATH -drivername NAME
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log"
	"net"
	"os"
	"os/signal"
	"syscall"

	"k8s.io/klog/v2"
	mock "k8s.io/kubernetes/test/e2e/storage/drivers/csi-test/mock/service"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		log.Fatal(err)
	}
}

// run serves until ctx ends.
func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("hostpathplugin", flag.ContinueOnError)
	endpoint := flags.String("endpoint", "", "path of the unix socket that kubelet and sidecars call")
	proxy := flags.String("proxy-endpoint", "", "tcp://ADDRESS:PORT that the suite connects to in advance; not with -drivername")
	name := flags.String("drivername", "", "name of the driver to be; not with -proxy-endpoint")
	attach := flags.Bool("enable-attach", false, "volumes are attached before they are mounted")
	topology := flags.Bool("enable-topology", false, "volumes are of the driver's one node")
	limit := flags.Int64("attach-limit", 0, "volumes on the node; 0 is without limit")
	expand := flags.Bool("node-expand-required", false, "volumes grow on the node too")
	flags.String("nodeid", "", "no effect: the mock's node has the driver's name")
	flags.String("statedir", "", "no effect: nothing is kept")
	klog.InitFlags(flags)
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *endpoint == "" || (*proxy == "") == (*name == "") {
		return fmt.Errorf("-endpoint %q -proxy-endpoint %q -drivername %q: want -endpoint and one of the others", *endpoint, *proxy, *name)
	}
	if *proxy != "" {
		return relay(*endpoint, *proxy)
	}
	return drive(ctx, *endpoint, mock.Config{
		DriverName:            *name,
		DisableAttach:         !*attach,
		EnableTopology:        *topology,
		AttachLimit:           *limit,
		NodeExpansionRequired: *expand,
	})
}

// listen takes the place of what an earlier container left.
func listen(endpoint string) (net.Listener, error) {
	if err := os.Remove(endpoint); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return net.Listen("unix", endpoint)
}
