package cloudstorage

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
)

// Server is a driver at a unix socket.
type Server struct {
	socket string
	grpc   *grpc.Server
	served sync.WaitGroup
}

// Serve serves the driver's node service, and its controller service to those
// who want it, at the socket until Close.
func Serve(ctx context.Context, socket string, d *Driver, n *Node) (*Server, error) {
	if err := os.MkdirAll(filepath.Dir(socket), 0o750); err != nil {
		return nil, fmt.Errorf("driver %s: %w", d.spec.Name, err)
	}
	if err := os.Remove(socket); err != nil && !missing(err) {
		return nil, fmt.Errorf("driver %s: %w", d.spec.Name, err)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("driver %s: %w", d.spec.Name, err)
	}
	s := &Server{socket: socket, grpc: grpc.NewServer()}
	csi.RegisterIdentityServer(s.grpc, d)
	csi.RegisterControllerServer(s.grpc, d)
	csi.RegisterNodeServer(s.grpc, n)
	s.served.Go(func() { _ = s.grpc.Serve(listener) }) // ends with Stop
	return s, nil
}

// Close ends the server when its calls have ended.
func (s *Server) Close() error {
	s.grpc.GracefulStop()
	s.served.Wait()
	err := os.Remove(s.socket)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
