// Command registrar stands in for csi-node-driver-registrar, whose module the
// Go proxy does not have: it asks a CSI driver for its name and offers the
// driver to the kubelet's plugin watcher.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

func main() {
	driver := flag.String("csi-address", "/run/csi/socket", "the driver's socket in this container")
	kubelet := flag.String("kubelet-registration-path", "", "the driver's socket as the kubelet sees it")
	dir := flag.String("plugin-registration-path", "/registration", "the kubelet's directory of registration sockets")
	health := flag.String("http-endpoint", "", "address of /healthz; none by default")
	timeout := flag.Duration("timeout", 30*time.Second, "for the driver's answer")
	flag.Int("v", 0, "no effect")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx, *driver, *kubelet, *dir, *health, *timeout); err != nil {
		log.Fatal(err)
	}
}

// run serves until ctx ends or the kubelet refuses the driver.
func run(ctx context.Context, driver, kubelet, dir, health string, timeout time.Duration) error {
	name, err := driverName(ctx, driver, timeout)
	if err != nil {
		return fmt.Errorf("CSI driver at %s: %w", driver, err)
	}
	path := filepath.Join(dir, name+"-reg.sock")
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	s := &server{info: registration.PluginInfo{Type: registration.CSIPlugin, Name: name, Endpoint: kubelet, SupportedVersions: []string{"1.0.0"}}, refused: make(chan error, 1)}
	g := grpc.NewServer()
	registration.RegisterRegistrationServer(g, s)
	defer g.Stop() // removes the socket
	ended := make(chan error, 2)
	go func() { ended <- g.Serve(l) }()
	if health != "" {
		// Registered is what can be called: the socket is served from here on.
		go func() {
			ended <- http.ListenAndServe(health, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		}()
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-s.refused:
		return err
	case err := <-ended:
		return err
	}
}

// driverName waits until the driver's socket is there.
func driverName(ctx context.Context, socket string, timeout time.Duration) (string, error) {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	info, err := csi.NewIdentityClient(conn).GetPluginInfo(ctx, &csi.GetPluginInfoRequest{}, grpc.WaitForReady(true))
	return info.GetName(), err
}

type server struct {
	registration.UnsafeRegistrationServer
	info    registration.PluginInfo
	refused chan error
}

func (s *server) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &s.info, nil
}

func (s *server) NotifyRegistrationStatus(_ context.Context, status *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	if !status.PluginRegistered {
		select {
		case s.refused <- fmt.Errorf("kubelet refused driver %s: %s", s.info.Name, status.Error):
		default:
		}
	}
	return &registration.RegistrationStatusResponse{}, nil
}
