package cni

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"testing"
)

func noPorts([]netip.Addr) ([]HostPort, error) { return nil, nil }

func open(t *testing.T, dir string, cidrs ...string) *ipam {
	t.Helper()
	m, err := openIPAM(dir, prefixes(cidrs...))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func prefixes(cidrs ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, c := range cidrs {
		all = append(all, netip.MustParsePrefix(c))
	}
	return all
}

func reserve(t *testing.T, m *ipam, id string) string {
	t.Helper()
	r, err := m.reserve(id, noPorts)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Trim(fmt.Sprint(r.IPs), "[]")
}

func TestAddressesAreGivenRoundRobin(t *testing.T) {
	dir := t.TempDir()
	// Pods may have .2 to .6: .0 is the range, .1 reserved, .7 broadcast.
	m := open(t, dir, "10.1.2.0/29")
	for i, want := range []string{"10.1.2.2", "10.1.2.3", "10.1.2.4"} {
		if got := reserve(t, m, fmt.Sprint(i)); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if err := m.release("1"); err != nil {
		t.Fatal(err)
	}
	if got := reserve(t, m, "3"); got != "10.1.2.5" {
		t.Errorf("got %s: an address that was just given back is the last to be used again", got)
	}
	m = open(t, dir, "10.1.2.0/29")
	for _, want := range []string{"10.1.2.6", "10.1.2.3"} {
		if got := reserve(t, m, "for "+want); got != want {
			t.Errorf("after a restart: got %s, want %s", got, want)
		}
	}
	if _, err := m.reserve("one too many", noPorts); !errors.Is(err, ErrNoAddress) {
		t.Errorf("got %v, want ErrNoAddress", err)
	}
	if err := m.release("0"); err != nil {
		t.Fatal(err)
	}
	if got := reserve(t, m, "again"); got != "10.1.2.2" {
		t.Errorf("got %s, want the only free one", got)
	}
}

func TestAddressesOfAnotherRangeAreForgotten(t *testing.T) {
	dir := t.TempDir()
	reserve(t, open(t, dir, "10.1.2.0/24"), "a")
	m := open(t, dir, "10.1.3.0/24")
	if got := m.all(); len(got) > 0 {
		t.Errorf("reservations of another range: %v", got)
	}
	if got := reserve(t, m, "a"); got != "10.1.3.2" {
		t.Errorf("got %s, want the first one", got)
	}
}

func TestRangesThatAreTooSmallAreRefused(t *testing.T) {
	for _, cidr := range []string{"10.1.2.0/30", "10.1.2.3/32", "fd00::/126"} {
		if _, err := openIPAM(t.TempDir(), prefixes("10.2.0.0/24", cidr)); err == nil {
			t.Errorf("%s was accepted", cidr)
		}
	}
	if _, err := openIPAM(t.TempDir(), nil); err == nil {
		t.Error("no range at all was accepted")
	}
}

func TestPodsGetAnAddressOfEachRange(t *testing.T) {
	dir := t.TempDir()
	m := open(t, dir, "fd00:1::/64", "10.1.2.0/29")
	for i, want := range []string{"fd00:1::2 10.1.2.2", "fd00:1::3 10.1.2.3"} {
		if got := reserve(t, m, fmt.Sprint(i)); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if err := m.release("0"); err != nil {
		t.Fatal(err)
	}
	m = open(t, dir, "fd00:1::/64", "10.1.2.0/29")
	for _, want := range []string{"fd00:1::4 10.1.2.4", "fd00:1::5 10.1.2.5", "fd00:1::6 10.1.2.6", "fd00:1::7 10.1.2.2"} {
		if got := reserve(t, m, want); got != want {
			t.Errorf("after a restart: got %s, want %s", got, want)
		}
	}
	if _, err := m.reserve("one too many", noPorts); !errors.Is(err, ErrNoAddress) {
		t.Errorf("got %v, want ErrNoAddress: one range is used up", err)
	}
	if got := open(t, dir, "fd00:1::/64").all(); len(got) > 0 {
		t.Errorf("reservations of two ranges in a node with one: %v", got)
	}
}

func TestHostPortsLeadToThePodInTheirFamily(t *testing.T) {
	v4, v6 := netip.MustParseAddr("10.1.2.2"), netip.MustParseAddr("fd00:1::2")
	for name, c := range map[string]struct {
		hostIP string
		pods   []netip.Addr
		want   string
	}{
		"no host address":                {"", []netip.Addr{v4, v6}, "0.0.0.0 10.1.2.2, :: fd00:1::2"},
		"every IPv4 address":             {"0.0.0.0", []netip.Addr{v4, v6}, "0.0.0.0 10.1.2.2"},
		"every IPv6 address":             {"::", []netip.Addr{v4, v6}, ":: fd00:1::2"},
		"all, in a pod with IPv4 only":   {"::", []netip.Addr{v4}, "0.0.0.0 10.1.2.2"},
		"one IPv6 address":               {"fd00:9::1", []netip.Addr{v4, v6}, "fd00:9::1 fd00:1::2"},
		"a mapped address":               {"::ffff:10.9.9.9", []netip.Addr{v4, v6}, "10.9.9.9 10.1.2.2"},
		"one of a family that is absent": {"fd00:9::1", []netip.Addr{v4}, "host address fd00:9::1: the pod has no address of that family"},
	} {
		led, err := lead(c.hostIP, c.pods)
		var pairs []string
		for _, l := range led {
			pairs = append(pairs, l.host.String()+" "+l.pod.String())
		}
		got := strings.Join(pairs, ", ")
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s: got %s, want %s", name, got, c.want)
		}
	}
}

func TestBucketsAreOfTheRatesSize(t *testing.T) {
	for name, c := range map[string]struct {
		bucket       bucket
		burst, limit uint32
	}{
		"containerd's burst without end":       {bucket{100_000_000, math.MaxUint32}, 625_000, 937_500},
		"a low rate lets a packet through":     {bucket{1_000_000, math.MaxUint32}, 65_536, 68_661},
		"a burst that was asked for":           {bucket{8_000_000, 8_000}, 1_000, 26_000},
		"a rate above what the kernel can say": {bucket{1e15, math.MaxUint32}, math.MaxUint32 / 2, math.MaxUint32},
	} {
		if burst, limit := c.bucket.bytes(); burst != c.burst || limit != c.limit {
			t.Errorf("%s: got %d, %d, want %d, %d", name, burst, limit, c.burst, c.limit)
		}
	}
}
