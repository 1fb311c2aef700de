package fabric_test

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/skiff-k8s/skiff/dataplane/fabric"
)

func prefixes(node, pod, service, lb string) fabric.Ranges {
	parse := func(s string) netip.Prefix {
		if s == "" {
			return netip.Prefix{}
		}
		return netip.MustParsePrefix(s)
	}
	return fabric.Ranges{NodeSubnet: parse(node), PodSubnet: parse(pod), ServiceSubnet: parse(service), LoadBalancerSubnet: parse(lb)}
}

// everybodyElse turns other clusters' ranges into what they take.
func everybodyElse(clusters ...fabric.Ranges) []fabric.InUse {
	var taken []fabric.InUse
	for _, c := range clusters {
		for _, p := range []netip.Prefix{c.NodeSubnet, c.PodSubnet, c.ServiceSubnet, c.LoadBalancerSubnet} {
			taken = append(taken, fabric.InUse{Prefix: p, By: "cluster other"})
		}
	}
	return taken
}

func TestFreeRanges(t *testing.T) {
	first := prefixes("172.30.0.0/24", "10.244.0.0/16", "10.96.0.0/16", "172.31.0.0/24")
	second := prefixes("172.30.1.0/24", "10.245.0.0/16", "10.97.0.0/16", "172.31.1.0/24")
	for name, c := range map[string]struct {
		want, expect fabric.Ranges
		taken        []fabric.InUse
	}{
		"the first cluster gets the defaults":            {expect: first},
		"the second cluster gets the next ones":          {taken: everybodyElse(first), expect: second},
		"a hole is filled":                               {taken: everybodyElse(second), expect: first},
		"a route over all of 10/8 moves pods elsewhere":  {taken: []fabric.InUse{{Prefix: netip.MustParsePrefix("10.0.0.0/8"), By: "route"}}, expect: prefixes("172.30.0.0/24", "100.64.0.0/16", "100.100.0.0/16", "172.31.0.0/24")},
		"a route over 172.16/12 moves nodes elsewhere":   {taken: []fabric.InUse{{Prefix: netip.MustParsePrefix("172.16.0.0/12"), By: "route"}}, expect: prefixes("100.126.0.0/24", "10.244.0.0/16", "10.96.0.0/16", "100.127.0.0/24")},
		"given ranges stay, and defaults make way":       {want: prefixes("", "10.96.0.0/12", "", ""), expect: prefixes("172.30.0.0/24", "10.96.0.0/12", "10.112.0.0/16", "172.31.0.0/24")},
		"a given range stays even if somebody else's":    {want: prefixes("", "10.244.0.0/16", "", ""), taken: everybodyElse(first), expect: prefixes("172.30.1.0/24", "10.244.0.0/16", "10.97.0.0/16", "172.31.1.0/24")},
		"a single address of a range is enough to avoid": {taken: []fabric.InUse{{Prefix: netip.MustParsePrefix("10.244.3.7/32"), By: "address"}}, expect: prefixes("172.30.0.0/24", "10.245.0.0/16", "10.96.0.0/16", "172.31.0.0/24")},
	} {
		got, err := fabric.FreeRanges(c.want, c.taken)
		if err != nil || got != c.expect {
			t.Errorf("%s: got %v, %v; want %v", name, got, err, c.expect)
		}
	}
	if _, err := fabric.DefaultRanges([]fabric.InUse{{Prefix: netip.MustParsePrefix("0.0.0.0/2"), By: "a"}, {Prefix: netip.MustParsePrefix("64.0.0.0/2"), By: "b"}}); err == nil {
		t.Error("pod ranges were found where there is none")
	}
}

func TestDefaultRangesForManyClusters(t *testing.T) {
	var taken []fabric.InUse
	for i := range 40 {
		r, err := fabric.DefaultRanges(taken)
		if err != nil {
			t.Fatalf("cluster %d: %v", i, err)
		}
		if err := fabric.Conflicts(r, taken); err != nil {
			t.Fatalf("cluster %d: %v", i, err)
		}
		taken = append(taken, everybodyElse(r)...)
	}
}

func TestConflictsNameTheFieldAndTheOther(t *testing.T) {
	taken := []fabric.InUse{{Prefix: netip.MustParsePrefix("10.0.0.0/8"), By: "route 10.0.0.0/8 dev tun0"}}
	for name, c := range map[string]struct {
		ranges fabric.Ranges
		want   []string
	}{
		"free ranges":           {prefixes("172.30.0.0/24", "100.64.0.0/16", "100.65.0.0/16", "172.31.0.0/24"), nil},
		"a route has it":        {prefixes("", "10.244.0.0/16", "", ""), []string{"networking.podSubnet: 10.244.0.0/16 overlaps route 10.0.0.0/8 dev tun0"}},
		"two of a cluster's":    {prefixes("172.30.0.0/24", "", "", "172.30.0.128/25"), []string{"networking.loadBalancerSubnet: 172.30.0.128/25 overlaps networking.nodeSubnet 172.30.0.0/24"}},
		"everything that there": {prefixes("", "10.1.0.0/16", "10.1.2.0/24", ""), []string{"networking.podSubnet: 10.1.0.0/16 overlaps route 10.0.0.0/8 dev tun0", "networking.serviceSubnet: 10.1.2.0/24 overlaps route 10.0.0.0/8 dev tun0", "networking.serviceSubnet: 10.1.2.0/24 overlaps networking.podSubnet 10.1.0.0/16"}},
	} {
		err := fabric.Conflicts(c.ranges, taken)
		var got []string
		if err != nil {
			for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
				var conflict *fabric.ConflictError
				if !errors.As(e, &conflict) || conflict.Mend() == "" {
					t.Errorf("%s: %v is no ConflictError with a mend", name, e)
				}
				got = append(got, e.Error())
			}
		}
		if len(got) != len(c.want) {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
			continue
		}
		for i := range got {
			if got[i] != c.want[i] {
				t.Errorf("%s: got %q, want %q", name, got[i], c.want[i])
			}
		}
	}
}

func TestNodeAddresses(t *testing.T) {
	r := prefixes("172.30.0.0/24", "10.244.0.0/16", "", "")
	ip, pods, err := r.Node(2)
	if err != nil || ip.String() != "172.30.0.12" || pods.String() != "10.244.2.0/24" {
		t.Errorf("third node: %s, %s, %v", ip, pods, err)
	}
	if _, _, err := r.Node(245); err == nil {
		t.Errorf("the 246th node got the broadcast address of %s", r.NodeSubnet)
	}
	r.PodSubnet = netip.MustParsePrefix("10.244.0.0/22")
	if _, _, err := r.Node(4); err == nil {
		t.Errorf("the fifth node got a pod range in %s", r.PodSubnet)
	}
	r.PodSubnet = netip.MustParsePrefix("10.244.0.0/25")
	if _, _, err := r.Node(0); err == nil {
		t.Errorf("a node got a pod range in %s", r.PodSubnet)
	}
}
