// Package handover passes sockets that were opened in the host's network
// namespace to processes inside a machine: as inherited file descriptors,
// named in the environment variable machinev1alpha1.ListenFDs.
//
// The supervisor names them, skiff-init passes them on to the service that
// asks for them, and the service takes them with Files.
package handover

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
)

// Files parses the value of the environment variable ("name=fd,name=fd").
// The files close on exec: what a service was handed stays with it.
func Files(env string) (map[string]*os.File, error) {
	files := map[string]*os.File{}
	for pair := range strings.SplitSeq(env, ",") {
		if pair == "" {
			continue
		}
		name, number, ok := strings.Cut(pair, "=")
		fd, err := strconv.Atoi(number)
		if !ok || err != nil || fd < 3 || name == "" {
			return nil, fmt.Errorf("%s: entry %q: want name=descriptor", machinev1alpha1.ListenFDs, pair)
		}
		syscall.CloseOnExec(fd)
		files[name] = os.NewFile(uintptr(fd), name)
	}
	return files, nil
}

// Listener turns a handed-over stream socket into a net.Listener; the file is
// closed, the listener has its own descriptor.
func Listener(f *os.File) (net.Listener, error) {
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("handed-over socket %s: %w", f.Name(), err)
	}
	return l, f.Close()
}

// PacketConn is Listener for datagram sockets.
func PacketConn(f *os.File) (net.PacketConn, error) {
	c, err := net.FilePacketConn(f)
	if err != nil {
		return nil, fmt.Errorf("handed-over socket %s: %w", f.Name(), err)
	}
	return c, f.Close()
}
