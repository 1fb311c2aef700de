package cni_test

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	gocni "github.com/containerd/go-cni"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/dataplane/cni"
	"github.com/skiff-k8s/skiff/dataplane/fabric"
	"github.com/skiff-k8s/skiff/dataplane/fabric/fabrictest"
)

// devices are the pods' devices in a node.
func devices(t testing.TB, n *node) []string {
	t.Helper()
	links, err := fabric.Dump(fabrictest.Handle(t, n.netns).LinkList)
	must(t, err)
	var names []string
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Name, "pod") {
			names = append(names, l.Attrs().Name)
		}
	}
	return names
}

// awaitDevices waits until the node has so many: namespaces, and the cables
// with them, die in one work queue of the whole machine's.
func awaitDevices(t testing.TB, n *node, want int) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		have := devices(t, n)
		if len(have) == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("in the node: %v, want %d devices", have, want)
		}
	}
}

func reservations(t testing.TB, n *node) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(n.state, "*.json"))
	must(t, err)
	return files
}

func TestPodIsCutOffByRemove(t *testing.T) {
	fabrictest.Root(t)
	n := newNetwork(t, fabrictest.NewHost(t).Netns)
	home, other := n.nodes[0], n.nodes[1]
	gone, stays := home.addPod(t), home.addPod(t)
	far := other.addPod(t)
	reaches(t, far.netns, gone.ip, far.ip)
	if err := home.plugin.Check(t.Context(), gone.id, gone.netns); err != nil {
		t.Errorf("an attached pod: %v", err)
	}

	must(t, home.plugin.Remove(t.Context(), gone.id, gone.netns))
	must(t, home.plugin.Remove(t.Context(), gone.id, gone.netns))
	must(t, home.plugin.Remove(t.Context(), "never seen", ""))
	for _, from := range []string{home.netns, stays.netns, far.netns} {
		refused(t, from, gone.ip, unix.EHOSTUNREACH)
	}
	if _, _, err := fabrictest.Ask(gone.netns, "tcp", netip.AddrPortFrom(stays.ip, port).String(), 300*time.Millisecond); err == nil {
		t.Error("a pod that was removed still reaches others")
	}
	reaches(t, far.netns, stays.ip, far.ip)
	if err := home.plugin.Check(t.Context(), gone.id, gone.netns); err == nil {
		t.Error("a pod that was removed passes the check")
	}
}

// TestPodsCableGoesWithItsNamespace holds Remove's promise that the caller
// takes the rest down.
func TestPodsCableGoesWithItsNamespace(t *testing.T) {
	fabrictest.Root(t)
	n := newNetwork(t, fabrictest.NewHost(t).Netns)
	home := n.nodes[0]
	path := filepath.Join(t.TempDir(), "pod")
	t.Run("pod", func(t *testing.T) {
		fabrictest.NewNetns(t, path)
		_, err := home.plugin.Setup(t.Context(), "pod", path)
		must(t, err)
		must(t, home.plugin.Remove(t.Context(), "pod", path))
	})
	awaitDevices(t, home, 0)
}

func TestPodWithoutNamespaceLeavesNothing(t *testing.T) {
	fabrictest.Root(t)
	n := newNetwork(t, fabrictest.NewHost(t).Netns)
	home := n.nodes[0]
	if _, err := home.plugin.Setup(t.Context(), "lost", "/nowhere/pod"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want not-exist", err)
	}
	// A pod with an eth0 of its own: the cable fails in the middle.
	p := home.newPod(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "eth0"
	must(t, fabrictest.Handle(t, p.netns).LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "other"}))
	if _, err := home.plugin.Setup(t.Context(), p.id, p.netns); err == nil {
		t.Error("a second eth0 was made")
	}
	if d, r := devices(t, home), reservations(t, home); len(d)+len(r) > 0 {
		t.Errorf("left behind: %v %v", d, r)
	}
}

func TestPodSetUpTwiceStartsAfresh(t *testing.T) {
	fabrictest.Root(t)
	n := newNetwork(t, fabrictest.NewHost(t).Netns)
	home := n.nodes[0]
	p := home.newPod(t)
	for range 2 {
		_, err := home.plugin.Setup(t.Context(), p.id, p.netns)
		must(t, err)
	}
	must(t, home.plugin.Check(t.Context(), p.id, p.netns))
	if d, r := devices(t, home), reservations(t, home); len(d) != 1 || len(r) != 1 {
		t.Errorf("in the node: %v %v, want one of each", d, r)
	}
}

func TestPodsOutliveTheProcess(t *testing.T) {
	fabrictest.Root(t)
	n := newNetwork(t, fabrictest.NewHost(t).Netns)
	home := n.nodes[0]
	first := home.addPod(t)
	t.Run("a pod that dies meanwhile", func(t *testing.T) { home.addPod(t) })
	awaitDevices(t, home, 1)
	// Killed in the middle of a write.
	must(t, os.WriteFile(filepath.Join(home.state, "100.81.0.77.json"), []byte(`{"id":`), 0o600))

	home.plugin = home.open(t, nil)
	if got := reservations(t, home); len(got) != 1 || filepath.Base(got[0]) != first.ip.String()+".json" {
		t.Errorf("reservations %v, want that of %s only", got, first.ip)
	}
	must(t, home.plugin.Check(t.Context(), first.id, first.netns))
	next := home.addPod(t)
	if want := netip.MustParseAddr("100.81.0.4"); next.ip != want {
		t.Errorf("next address is %s, want %s: behind the one that was given last", next.ip, want)
	}
	reaches(t, next.netns, first.ip, next.ip)
	must(t, home.plugin.Remove(t.Context(), first.id, first.netns))
	refused(t, home.netns, first.ip, unix.EHOSTUNREACH)
}

func TestPodHostPorts(t *testing.T) {
	fabrictest.Root(t)
	n := newNetwork(t, fabrictest.NewHost(t).Netns)
	home := n.nodes[0]
	opts := gocni.WithCapabilityPortMap([]gocni.PortMapping{
		{HostPort: 8080, ContainerPort: 80, Protocol: "TCP"},
		{HostPort: 5353, ContainerPort: 53, Protocol: "UDP", HostIP: "100.80.0.10"},
		{HostPort: 5060, ContainerPort: 5060, Protocol: "SCTP"},
		{ContainerPort: 9090, Protocol: "SCTP"},
	})
	p := home.newPod(t)
	if _, err := home.plugin.Setup(t.Context(), p.id, p.netns, opts); err == nil || !strings.Contains(err.Error(), "hostPort 8080") {
		t.Errorf("without support for host ports: %v, want an error that names hostPort 8080", err)
	}

	open := map[cni.HostPort]bool{}
	refuse := false
	listener := func(ports []cni.HostPort, added bool) error {
		for _, h := range ports {
			open[h] = added
		}
		if added && refuse {
			return errors.New("refused")
		}
		return nil
	}
	home.plugin = home.open(t, listener)
	result, err := home.plugin.Setup(t.Context(), p.id, p.netns, opts, gocni.WithLabels(map[string]string{"K8S_POD_NAME": "p"}))
	must(t, err)
	ip, _ := netip.AddrFromSlice(result.Interfaces["eth0"].IPConfigs[0].IP)
	want := []cni.HostPort{
		{Protocol: "tcp", HostIP: netip.IPv4Unspecified(), Port: 8080, PodIP: ip, PodPort: 80},
		{Protocol: "udp", HostIP: netip.MustParseAddr("100.80.0.10"), Port: 5353, PodIP: ip, PodPort: 53},
		{Protocol: "sctp", HostIP: netip.IPv4Unspecified(), Port: 5060, PodIP: ip, PodPort: 5060},
	}
	for _, h := range want {
		if !open[h] {
			t.Errorf("host port %+v was not opened: %v", h, open)
		}
	}
	home.plugin = home.open(t, listener)
	if got := home.plugin.HostPorts(); !slices.Equal(got, want) {
		t.Errorf("after a restart: %+v, want %+v", got, want)
	}
	must(t, home.plugin.Remove(t.Context(), p.id, p.netns))
	for h, isOpen := range open {
		if isOpen {
			t.Errorf("host port %+v was not closed", h)
		}
	}

	refuse = true
	q := home.newPod(t)
	if _, err := home.plugin.Setup(t.Context(), q.id, q.netns, opts); err == nil {
		t.Error("a pod was attached whose host ports were refused")
	}
	if r := reservations(t, home); len(r) > 0 {
		t.Errorf("left behind: %v", r)
	}
	dccp := gocni.WithCapabilityPortMap([]gocni.PortMapping{{HostPort: 7, ContainerPort: 7, Protocol: "DCCP"}})
	if _, err := home.plugin.Setup(t.Context(), q.id, q.netns, dccp); err == nil || !strings.Contains(err.Error(), "hostPort 7: protocol DCCP") {
		t.Errorf("DCCP: %v, want an error that names it", err)
	}
}

// TestPodCannotForgeItsAddress is what policies rely on.
func TestPodCannotForgeItsAddress(t *testing.T) {
	fabrictest.Root(t)
	n := newNetwork(t, fabrictest.NewHost(t).Netns)
	forger, victim := n.nodes[0].addPod(t), n.nodes[1].addPod(t)
	forged := netip.MustParseAddr("100.81.2.2")
	var listener net.PacketConn
	must(t, fabrictest.In(victim.netns, func() (err error) {
		listener, err = net.ListenPacket("udp4", ":9999")
		return err
	}))
	defer listener.Close()
	send := func(from netip.Addr) {
		must(t, fabrictest.In(forger.netns, func() error {
			d := net.Dialer{LocalAddr: &net.UDPAddr{IP: from.AsSlice()}}
			c, err := d.Dial("udp4", netip.AddrPortFrom(victim.ip, 9999).String())
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Write([]byte(from.String()))
			return err
		}))
	}
	h := fabrictest.Handle(t, forger.netns)
	eth0, err := h.LinkByName("eth0")
	must(t, err)
	must(t, h.AddrAdd(eth0, &netlink.Addr{IPNet: netlink.NewIPNet(forged.AsSlice())}))
	send(forged)
	send(forger.ip)
	buf := make([]byte, 64)
	must(t, listener.SetReadDeadline(time.Now().Add(time.Minute)))
	for {
		size, _, err := listener.ReadFrom(buf)
		must(t, err)
		if string(buf[:size]) == forger.ip.String() {
			return
		}
		t.Errorf("a packet from %s arrived", buf[:size])
	}
}

func TestPodsManyAtOnce(t *testing.T) {
	fabrictest.Root(t)
	n := newNetwork(t, fabrictest.NewHost(t).Netns)
	home := n.nodes[0]
	var pods []pod
	for range 60 {
		pods = append(pods, home.newPod(t))
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	owner := map[string]string{}
	start := time.Now()
	for _, p := range pods {
		wg.Go(func() {
			result, err := home.plugin.SetupSerially(t.Context(), p.id, p.netns)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			ip := result.Interfaces["eth0"].IPConfigs[0].IP.String()
			if other, taken := owner[ip]; taken {
				t.Errorf("%s was given to %s and %s", ip, other, p.id)
			}
			owner[ip] = p.id
		})
	}
	wg.Wait()
	t.Logf("set-up of %d: %s each", len(pods), time.Since(start)/time.Duration(len(pods)))
	start = time.Now()
	for _, p := range pods {
		wg.Go(func() {
			if err := home.plugin.Remove(t.Context(), p.id, p.netns); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	t.Logf("removal of %d: %s each", len(pods), time.Since(start)/time.Duration(len(pods)))
}

// BenchmarkPodSetup holds the promise of 2 ms a pod; making and dropping the
// namespaces is not counted.
func BenchmarkPodSetup(b *testing.B) {
	fabrictest.Root(b)
	n := newNetwork(b, fabrictest.NewHost(b).Netns)
	home := n.nodes[0]
	p := home.newPod(b)
	for b.Loop() {
		_, err := home.plugin.Setup(b.Context(), p.id, p.netns)
		must(b, err)
		b.StopTimer()
		link, err := fabrictest.Handle(b, p.netns).LinkByName("eth0")
		must(b, err)
		must(b, fabrictest.Handle(b, p.netns).LinkDel(link))
		must(b, home.plugin.Remove(b.Context(), p.id, p.netns))
		b.StartTimer()
	}
}
