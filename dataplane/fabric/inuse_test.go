package fabric_test

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/skiff-k8s/skiff/dataplane/fabric"
	"github.com/skiff-k8s/skiff/dataplane/fabric/fabrictest"
)

func inUse(t testing.TB, netns string) []fabric.InUse {
	t.Helper()
	taken, err := fabric.HostInUse(netns)
	must(t, err)
	return taken
}

func TestFabricHostInUseNamesRoutesAndAddresses(t *testing.T) {
	fabrictest.Root(t)
	host := fabrictest.NewHost(t)
	h := fabrictest.Handle(t, host.Netns)
	uplink, err := h.LinkByName(fabrictest.Uplink)
	must(t, err)
	// A VPN's route in a table of its own, and its halves of the default.
	for _, r := range []struct {
		dst   string
		table int
	}{{"10.240.0.0/12", 52}, {"0.0.0.0/1", 254}, {"128.0.0.0/1", 254}} {
		_, dst, err := net.ParseCIDR(r.dst)
		must(t, err)
		must(t, h.RouteAdd(&netlink.Route{Dst: dst, Table: r.table, LinkIndex: uplink.Attrs().Index, Gw: fabrictest.OutsideAddr.AsSlice()}))
	}
	cfg := config(t, host.Netns)
	up(t, cfg)

	taken := inUse(t, host.Netns)
	for _, want := range []string{
		"route 10.240.0.0/12 dev uplink",
		"route 192.0.2.0/24 dev uplink",
		"address 192.0.2.2/32 dev uplink",
		"route 127.0.0.0/8 dev lo",
		"another cluster's unreachable route 100.71.0.0/16",
	} {
		if !slices.ContainsFunc(taken, func(u fabric.InUse) bool { return u.By == want }) {
			t.Errorf("%q is not among %v", want, taken)
		}
	}
	ranges, err := fabric.FreeRanges(fabric.Ranges{}, []fabric.Family{fabric.IPv4}, taken)
	must(t, err)
	if want := netip.MustParsePrefix("10.160.0.0/16"); ranges.PodSubnets[0] != want {
		t.Errorf("default pod range is %s, want %s, the first that the VPN does not have", ranges.PodSubnets, want)
	}
	if want := netip.MustParsePrefix("172.30.0.0/24"); ranges.NodeSubnets[0] != want {
		t.Errorf("default node range is %s, want %s", ranges.NodeSubnets, want)
	}
	var conflict *fabric.ConflictError
	err = fabric.Conflicts(fabric.Ranges{PodSubnets: prefix("10.244.0.0/16")}, taken)
	if !errors.As(err, &conflict) || conflict.Field != "networking.podSubnet" || !strings.Contains(err.Error(), "overlaps route 10.240.0.0/12 dev uplink") {
		t.Errorf("got %v, want a conflict of networking.podSubnet with the VPN's route", err)
	}
}
