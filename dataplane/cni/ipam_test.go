package cni

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
)

func noPorts(netip.Addr) ([]HostPort, error) { return nil, nil }

func open(t *testing.T, dir, cidr string) *ipam {
	t.Helper()
	m, err := openIPAM(dir, netip.MustParsePrefix(cidr))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func reserve(t *testing.T, m *ipam, id string) string {
	t.Helper()
	a, _, err := m.reserve(id, noPorts)
	if err != nil {
		t.Fatal(err)
	}
	return a.String()
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
	if _, _, err := m.reserve("one too many", noPorts); !errors.Is(err, ErrNoAddress) {
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
	for _, cidr := range []string{"10.1.2.0/30", "10.1.2.3/32", "fd00::/64"} {
		if _, err := openIPAM(t.TempDir(), netip.MustParsePrefix(cidr)); err == nil {
			t.Errorf("%s was accepted", cidr)
		}
	}
}
