package main

import (
	"fmt"
	"io"
	"net"
	"strings"
)

// relay listens on both endpoints and joins what connects to them, one by one.
func relay(endpoint, proxy string) error {
	address, ok := strings.CutPrefix(proxy, "tcp://")
	if !ok {
		return fmt.Errorf("-proxy-endpoint %q: want tcp://ADDRESS:PORT", proxy)
	}
	callers, err := listen(endpoint)
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
