package fabric_test

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/skiff-k8s/skiff/dataplane/fabric"
)

var (
	onlyIPv4  = []fabric.Family{fabric.IPv4}
	onlyIPv6  = []fabric.Family{fabric.IPv6}
	dualStack = []fabric.Family{fabric.IPv4, fabric.IPv6}
)

// prefix is a list of ranges, separated by commas.
func prefix(text string) []netip.Prefix {
	var all []netip.Prefix
	for p := range strings.SplitSeq(text, ",") {
		if p != "" {
			all = append(all, netip.MustParsePrefix(p))
		}
	}
	return all
}

func prefixes(node, pod, service, lb string) fabric.Ranges {
	return fabric.Ranges{NodeSubnets: prefix(node), PodSubnets: prefix(pod), ServiceSubnets: prefix(service), LoadBalancerSubnets: prefix(lb)}
}

// everybodyElse turns other clusters' ranges into what they take.
func everybodyElse(clusters ...fabric.Ranges) []fabric.InUse {
	var taken []fabric.InUse
	for _, c := range clusters {
		for _, p := range c.All() {
			taken = append(taken, fabric.InUse{Prefix: p, By: "cluster other"})
		}
	}
	return taken
}

func TestFreeRanges(t *testing.T) {
	first := prefixes("172.30.0.0/24", "10.244.0.0/16", "10.96.0.0/16", "172.31.0.0/24")
	second := prefixes("172.30.1.0/24", "10.245.0.0/16", "10.97.0.0/16", "172.31.1.0/24")
	first6 := prefixes("fd00:172:30::/64", "fd00:10:244::/56", "fd00:10:96::/112", "fd00:172:31::/112")
	route := func(p string) []fabric.InUse { return []fabric.InUse{{Prefix: netip.MustParsePrefix(p), By: "route"}} }
	for name, c := range map[string]struct {
		families     []fabric.Family
		want, expect fabric.Ranges
		taken        []fabric.InUse
	}{
		"the first cluster gets the defaults":            {families: onlyIPv4, expect: first},
		"the second cluster gets the next ones":          {families: onlyIPv4, taken: everybodyElse(first), expect: second},
		"a hole is filled":                               {families: onlyIPv4, taken: everybodyElse(second), expect: first},
		"a route over all of 10/8 moves pods elsewhere":  {families: onlyIPv4, taken: route("10.0.0.0/8"), expect: prefixes("172.30.0.0/24", "100.64.0.0/16", "100.100.0.0/16", "172.31.0.0/24")},
		"a route over 172.16/12 moves nodes elsewhere":   {families: onlyIPv4, taken: route("172.16.0.0/12"), expect: prefixes("100.126.0.0/24", "10.244.0.0/16", "10.96.0.0/16", "100.127.0.0/24")},
		"given ranges stay, and defaults make way":       {families: onlyIPv4, want: prefixes("", "10.96.0.0/12", "", ""), expect: prefixes("172.30.0.0/24", "10.96.0.0/12", "10.112.0.0/16", "172.31.0.0/24")},
		"a given range stays even if somebody else's":    {families: onlyIPv4, want: prefixes("", "10.244.0.0/16", "", ""), taken: everybodyElse(first), expect: prefixes("172.30.1.0/24", "10.244.0.0/16", "10.97.0.0/16", "172.31.1.0/24")},
		"a single address of a range is enough to avoid": {families: onlyIPv4, taken: route("10.244.3.7/32"), expect: prefixes("172.30.0.0/24", "10.245.0.0/16", "10.96.0.0/16", "172.31.0.0/24")},
		"IPv6 has defaults of its own":                   {families: onlyIPv6, taken: everybodyElse(first), expect: first6},
		"IPv6 goes on in steps that can be read":         {families: onlyIPv6, taken: everybodyElse(first6), expect: prefixes("fd00:172:30:1::/64", "fd00:10:245::/56", "fd00:10:97::/112", "fd00:172:31:1::/112")},
		"a route over fd00::/16 moves all elsewhere":     {families: onlyIPv6, taken: route("fd00::/16"), expect: prefixes("fd73:6966:30::/64", "fd73:6b69:244::/56", "fd73:6b69:96::/112", "fd73:6966:31::/112")},
		"dual stack has both": {families: dualStack,
			expect: prefixes("172.30.0.0/24,fd00:172:30::/64", "10.244.0.0/16,fd00:10:244::/56", "10.96.0.0/16,fd00:10:96::/112", "172.31.0.0/24,fd00:172:31::/112")},
		"the primary family comes first, and what is half given is completed": {families: []fabric.Family{fabric.IPv6, fabric.IPv4},
			want:   prefixes("10.1.0.0/24", "fd00:10:96::/56", "", ""),
			expect: prefixes("fd00:172:30::/64,10.1.0.0/24", "fd00:10:96::/56,10.244.0.0/16", "fd00:10:97::/112,10.96.0.0/16", "fd00:172:31::/112,172.31.0.0/24")},
	} {
		got, err := fabric.FreeRanges(c.want, c.families, c.taken)
		if err != nil || !reflect.DeepEqual(got, c.expect) {
			t.Errorf("%s: got %v, %v; want %v", name, got, err, c.expect)
		}
	}
	nothing := []fabric.InUse{{Prefix: netip.MustParsePrefix("0.0.0.0/2"), By: "a"}, {Prefix: netip.MustParsePrefix("64.0.0.0/2"), By: "b"}}
	if _, err := fabric.FreeRanges(fabric.Ranges{}, onlyIPv4, nothing); err == nil {
		t.Error("pod ranges were found where there is none")
	}
}

func TestDefaultRangesForManyClusters(t *testing.T) {
	var taken []fabric.InUse
	for i := range 40 {
		r, err := fabric.FreeRanges(fabric.Ranges{}, dualStack, taken)
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
	taken := []fabric.InUse{
		{Prefix: netip.MustParsePrefix("10.0.0.0/8"), By: "route 10.0.0.0/8 dev tun0"},
		{Prefix: netip.MustParsePrefix("fd00:1::/32"), By: "route fd00:1::/32 dev tun0"},
	}
	for name, c := range map[string]struct {
		ranges fabric.Ranges
		want   []string
	}{
		"free ranges":           {prefixes("172.30.0.0/24", "100.64.0.0/16,fd00:2::/56", "100.65.0.0/16", "172.31.0.0/24"), nil},
		"a route has it":        {prefixes("", "10.244.0.0/16", "", ""), []string{"networking.podSubnet: 10.244.0.0/16 overlaps route 10.0.0.0/8 dev tun0"}},
		"a route has one":       {prefixes("", "100.64.0.0/16,fd00:1:244::/56", "", ""), []string{"networking.podSubnet: fd00:1:244::/56 overlaps route fd00:1::/32 dev tun0"}},
		"two of a cluster's":    {prefixes("172.30.0.0/24", "", "", "172.30.0.128/25"), []string{"networking.loadBalancerSubnet: 172.30.0.128/25 overlaps networking.nodeSubnet 172.30.0.0/24"}},
		"everything that there": {prefixes("", "10.1.0.0/16", "10.1.2.0/24", ""), []string{"networking.podSubnet: 10.1.0.0/16 overlaps route 10.0.0.0/8 dev tun0", "networking.serviceSubnet: 10.1.2.0/24 overlaps route 10.0.0.0/8 dev tun0", "networking.serviceSubnet: 10.1.2.0/24 overlaps networking.podSubnet 10.1.0.0/16"}},
	} {
		err := fabric.Conflicts(c.ranges, taken)
		var got []string
		if err != nil {
			for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
				var conflict *fabric.ConflictError
				if !errors.As(e, &conflict) || conflict.Mend() == "" || conflict.Free.IsValid() && fabric.FamilyOf(conflict.Free.Addr()) != fabric.FamilyOf(conflict.Prefix.Addr()) {
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
	r := prefixes("172.30.0.0/24,fd00:172:30::/64", "10.244.0.0/16,fd00:10:244::/56", "", "")
	ips, pods, err := r.Node(2)
	if err != nil || fmt.Sprint(ips) != "[172.30.0.12 fd00:172:30::c]" || fmt.Sprint(pods) != "[10.244.2.0/24 fd00:10:244:2::/64]" {
		t.Errorf("third node: %s, %s, %v", ips, pods, err)
	}
	if _, _, err := r.Node(245); err == nil {
		t.Errorf("the 246th node got the broadcast address of %s", r.NodeSubnets)
	}
	for pods, nodes := range map[string]int{"10.244.0.0/22": 4, "10.244.0.0/25": 0, "fd00:10:244::/62": 4, "fd00:10:244::/65": 0} {
		r.PodSubnets = prefix(pods)
		if _, _, err := r.Node(nodes); err == nil {
			t.Errorf("node %d got a pod range in %s", nodes+1, pods)
		}
	}
}
