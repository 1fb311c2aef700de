// Command socketpair is the proxy mode of csi-driver-host-path, which the
// stand-in for its image has alone: DRA and CSI mock specs answer in their own
// process for a driver whose socket is on a node. It listens on both endpoints
// and joins what connects to them, one by one.
//
//	socketpair -endpoint PATH -proxy-endpoint tcp://ADDRESS:PORT
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"os"
	"strings"
)

func main() {
	endpoint := flag.String("endpoint", "", "path of the unix socket that kubelet and sidecars call")
	proxy := flag.String("proxy-endpoint", "", "tcp://ADDRESS:PORT that the suite connects to in advance")
	flag.Int("v", 0, "no effect")
	flag.String("nodeid", "", "no effect")
	flag.Parse()
	if err := run(*endpoint, *proxy); err != nil {
		log.Fatal(err)
	}
}

func run(endpoint, proxy string) error {
	address, ok := strings.CutPrefix(proxy, "tcp://")
	if endpoint == "" || !ok {
		return fmt.Errorf("-endpoint %q -proxy-endpoint %q: want PATH and tcp://ADDRESS:PORT; the driver itself is not in this image", endpoint, proxy)
	}
	if err := os.Remove(endpoint); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	callers, err := net.Listen("unix", endpoint)
	if err != nil {
		return err
	}
	defer callers.Close()
	suite, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	defer suite.Close()
	return join(callers, suite)
}

// join waits for callers first: the suite's connections stand in the kernel's
// queue until then.
func join(callers, suite net.Listener) error {
	for {
		caller, err := callers.Accept()
		if err != nil {
			return err
		}
		driver, err := suite.Accept()
		if err != nil {
			caller.Close()
			return err
		}
		go carry(caller, driver)
		go carry(driver, caller)
	}
}

// carry ends the other direction with its own: gRPC has no half-open
// connections.
func carry(to, from net.Conn) {
	_, _ = io.Copy(to, from)
	to.Close()
	from.Close()
}
