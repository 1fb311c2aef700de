package e2e

import (
	"encoding/json"
	"fmt"
	"math/big"
	"net/netip"
	"os"
	"strings"
)

// ranges are a cluster's, as cluster.json has them.
func (c cluster) ranges() []netip.Prefix {
	data, err := os.ReadFile("/var/lib/skiff/clusters/" + c.name + "/cluster.json")
	if err != nil {
		fail(err.Error())
	}
	found, err := rangesIn(data)
	if err != nil {
		fail("cluster.json: " + err.Error())
	}
	return found
}

// rangesIn finds the address ranges in a cluster's file, both families'.
func rangesIn(data []byte) ([]netip.Prefix, error) {
	var parsed any
	if err := json.Unmarshal(data, &parsed); err != nil {
		return nil, err
	}
	found := map[string][]netip.Prefix{}
	var walk func(v any) error
	walk = func(v any) error {
		switch v := v.(type) {
		case map[string]any:
			for k, x := range v {
				if s, ok := x.(string); ok && strings.HasSuffix(k, "Subnet") {
					for one := range strings.SplitSeq(s, ",") {
						p, err := netip.ParsePrefix(one)
						if err != nil {
							return fmt.Errorf("%s: %w", k, err)
						}
						found[k] = append(found[k], p)
					}
				}
				if err := walk(x); err != nil {
					return err
				}
			}
		case []any:
			for _, x := range v {
				if err := walk(x); err != nil {
					return err
				}
			}
		}
		return nil
	}
	if err := walk(parsed); err != nil {
		return nil, err
	}
	var all []netip.Prefix
	for _, name := range []string{"podSubnet", "serviceSubnet", "nodeSubnet", "loadBalancerSubnet"} {
		if len(found[name]) == 0 {
			return nil, fmt.Errorf("no %s", name)
		}
		all = append(all, found[name]...)
	}
	return all, nil
}

// unassigned is an address near the end of each range, which nobody has.
func unassigned() []string {
	var addresses []string
	for _, p := range shared.ranges() {
		addresses = append(addresses, nearEnd(p).String())
	}
	return addresses
}

func nearEnd(p netip.Prefix) netip.Addr {
	first := p.Masked().Addr()
	size := new(big.Int).Lsh(big.NewInt(1), uint(first.BitLen()-p.Bits()))
	n := new(big.Int).SetBytes(first.AsSlice())
	n.Add(n, size).Sub(n, big.NewInt(7))
	a, ok := netip.AddrFromSlice(n.FillBytes(make([]byte, first.BitLen()/8)))
	if !ok {
		fail("no address near the end of " + p.String())
	}
	return a
}
