package nodenat_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/dataplane/fabric/fabrictest"
	"github.com/skiff-k8s/skiff/test/sctp"
)

// TestAssociationsOfTheKernel is TestEverybodyReachesEverybody with the
// kernel's own SCTP: its checksums, and more data than fits into a packet.
func TestAssociationsOfTheKernel(t *testing.T) {
	if sctp.Missing() {
		t.Skip("the kernel speaks no SCTP")
	}
	c := unserved(t)
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop) })
	for _, p := range c.backends() {
		for _, addr := range p.addrs {
			c.must(fabrictest.In(p.netns, func() error {
				_, err := sctp.Serve(netip.AddrPortFrom(addr, targetPort), stop, func(client netip.Addr) string {
					return fmt.Sprintf("%s sees %s", p.name, client)
				})
				return err
			}))
		}
	}
	payload := bytes.Repeat([]byte("0123456789abcdef"), 1<<12)
	for family := range clusterIPs {
		for _, backend := range c.backends() {
			c.serviceAt(family, backend)
			for name, to := range c.called(family) {
				for _, client := range append(c.backends(), c.host) {
					want := fmt.Sprintf("%s sees %s", backend.name, c.seen(client, backend, to.Addr()))
					var (
						said string
						back []byte
						err  error
					)
					payload := payload
					if to.Addr() == client.addr(to.Addr()) {
						// lo takes larger packets than the way to the pod. Messages
						// that were cut to its size before the sender has learned
						// this would be sent in fragments, which are dropped.
						payload = payload[:1000]
					}
					c.must(fabrictest.In(client.netns, func() error {
						said, back, err = sctp.Call(to, payload, patience)
						return nil
					}))
					if err != nil || said != want || !bytes.Equal(back, payload) {
						t.Errorf("%s by %s (%s): %q and %d bytes, %v; want %q", client.name, name, to, said, len(back), err, want)
					}
				}
			}
		}
		c.serviceAt(family)
		for name, to := range c.called(family) {
			for _, client := range append(c.backends(), c.host) {
				c.must(fabrictest.In(client.netns, func() error {
					start := time.Now()
					if _, _, err := sctp.Call(to, nil, patience); !errors.Is(err, unix.ECONNREFUSED) {
						t.Errorf("%s by %s (%s) without endpoints: %v after %s, want %v", client.name, name, to, err, time.Since(start), unix.ECONNREFUSED)
					}
					return nil
				}))
			}
		}
	}
}
