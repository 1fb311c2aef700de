package cni_test

import (
	"io"
	"math"
	"net"
	"net/netip"
	"testing"
	"time"

	gocni "github.com/containerd/go-cni"
	"github.com/vishvananda/netlink"

	"github.com/skiff-k8s/skiff/dataplane/fabric"
	"github.com/skiff-k8s/skiff/dataplane/fabric/fabrictest"
)

// tbf returns the rate of a device's token bucket in bits per second, 0 if it
// has none.
func tbf(t *testing.T, netns, device string) uint64 {
	t.Helper()
	h := fabrictest.Handle(t, netns)
	link, err := h.LinkByName(device)
	must(t, err)
	qdiscs, err := fabric.Dump(func() ([]netlink.Qdisc, error) { return h.QdiscList(link) })
	must(t, err)
	for _, q := range qdiscs {
		if bucket, ok := q.(*netlink.Tbf); ok {
			return bucket.Rate * 8
		}
	}
	return 0
}

// stream sends for a while from one namespace to a server in another, and
// returns the bits per second that arrived.
func stream(t *testing.T, from, to string, addr netip.Addr) float64 {
	t.Helper()
	const period = 500 * time.Millisecond
	var l net.Listener
	must(t, fabrictest.In(to, func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(addr, 7777).String())
		return err
	}))
	defer l.Close()
	received := make(chan float64, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			received <- 0
			return
		}
		defer c.Close()
		start := time.Now()
		_ = c.SetReadDeadline(start.Add(period))
		n, _ := io.Copy(io.Discard, c)
		received <- float64(n) * 8 / time.Since(start).Seconds()
	}()
	var c net.Conn
	must(t, fabrictest.In(from, func() (err error) {
		c, err = net.Dial("tcp", l.Addr().String())
		return err
	}))
	defer c.Close()
	must(t, c.SetWriteDeadline(time.Now().Add(2*period)))
	// Ends when the receiver hangs up.
	for buf := make([]byte, 64<<10); ; {
		if _, err := c.Write(buf); err != nil {
			return <-received
		}
	}
}

func TestPodBandwidthIsLimited(t *testing.T) {
	fabrictest.Root(t)
	n := networkOf(t, fabrictest.NewHost(t).Netns, dual)
	home, free := n.nodes[0], n.nodes[1].addPod(t)
	const ingress, egress = 40_000_000, 20_000_000
	p := home.addPod(t, gocni.WithCapabilityBandWidth(gocni.BandWidth{
		IngressRate: ingress, IngressBurst: math.MaxUint32, EgressRate: egress, EgressBurst: math.MaxUint32}))
	if got := tbf(t, home.netns, devices(t, home)[0]); got != ingress {
		t.Errorf("the node's end has %d bit/s, want %d", got, ingress)
	}
	if got := tbf(t, p.netns, "eth0"); got != egress {
		t.Errorf("the pod's end has %d bit/s, want %d", got, egress)
	}
	if got := tbf(t, free.netns, "eth0"); got != 0 {
		t.Errorf("a pod without limits has %d bit/s", got)
	}
	// The burst is 50 ms of the rate, and another half is for noise.
	for _, ip := range p.ips {
		if got := stream(t, free.netns, p.netns, ip); got > ingress*1.6 || got == 0 {
			t.Errorf("into the pod: %.0f bit/s, want at most %d", got, ingress)
		}
	}
	for _, ip := range free.ips {
		if got := stream(t, p.netns, free.netns, ip); got > egress*1.6 || got == 0 {
			t.Errorf("out of the pod: %.0f bit/s, want at most %d", got, egress)
		}
	}
	if got := stream(t, home.netns, free.netns, free.ip); got < ingress*1.6 {
		t.Errorf("without a limit: %.0f bit/s, which proves nothing", got)
	}
}

func TestPodBandwidthOnOneSideOnly(t *testing.T) {
	fabrictest.Root(t)
	n := newNetwork(t, fabrictest.NewHost(t).Netns)
	home := n.nodes[0]
	p := home.addPod(t, gocni.WithCapabilityBandWidth(gocni.BandWidth{EgressRate: 1_000_000, EgressBurst: math.MaxUint32}))
	if got := tbf(t, home.netns, devices(t, home)[0]); got != 0 {
		t.Errorf("ingress is limited to %d bit/s", got)
	}
	if got := tbf(t, p.netns, "eth0"); got != 1_000_000 {
		t.Errorf("egress is limited to %d bit/s", got)
	}
	q := home.newPod(t)
	if _, err := home.plugin.Setup(t.Context(), q.id, q.netns, gocni.WithCapabilityBandWidth(gocni.BandWidth{IngressRate: 7})); err == nil {
		t.Error("a rate of less than a byte was accepted")
	}
	if r := reservations(t, home); len(r) != 1 {
		t.Errorf("left behind: %v", r)
	}
}
