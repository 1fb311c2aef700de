package e2e

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
)

// ranges are the shared cluster's, as cluster.json has them.
func ranges() []netip.Prefix {
	data, err := os.ReadFile("/var/lib/skiff/clusters/" + shared.name + "/cluster.json")
	if err != nil {
		fail(err.Error())
	}
	var parsed map[string]any
	if err := json.Unmarshal(data, &parsed); err != nil {
		fail(err.Error())
	}
	var found []netip.Prefix
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for k, x := range v {
				if s, ok := x.(string); ok && (k == "podSubnet" || k == "serviceSubnet" || k == "nodeSubnet" || k == "loadBalancerSubnet") {
					if p, err := netip.ParsePrefix(s); err == nil {
						found = append(found, p)
					}
				}
				walk(x)
			}
		case []any:
			for _, x := range v {
				walk(x)
			}
		}
	}
	walk(parsed)
	if len(found) < 4 {
		fail(fmt.Sprintf("cluster.json names %d ranges, want 4", len(found)))
	}
	return found
}

// unassigned is an address near the end of each range, which nobody has.
func unassigned() []string {
	var addresses []string
	for _, p := range ranges() {
		b := p.Masked().Addr().As4()
		n := binary.BigEndian.Uint32(b[:]) + 1<<(32-p.Bits()) - 7
		binary.BigEndian.PutUint32(b[:], n)
		addresses = append(addresses, netip.AddrFrom4(b).String())
	}
	return addresses
}

var (
	uplinkCount   atomic.Int64
	uplinkStarted atomic.Bool
)

// uplinkPackets counts the packets to or from the shared cluster's ranges
// that the host's own links have carried since the first call.
func uplinkPackets() int64 {
	if uplinkStarted.CompareAndSwap(false, true) {
		go countUplink(ranges())
	}
	return uplinkCount.Load()
}

// countUplink reads all frames of the host (a packet socket sees every link)
// and counts those of links that lead away: neither loopback nor skiff's.
func countUplink(prefixes []netip.Prefix) {
	fd, err := syscall.Socket(syscall.AF_PACKET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, int(htons(syscall.ETH_P_ALL)))
	if err != nil {
		fail("packet socket: " + err.Error())
	}
	away := map[int]bool{}
	links, err := net.Interfaces()
	if err != nil {
		fail(err.Error())
	}
	for _, l := range links {
		if l.Flags&net.FlagLoopback == 0 && len(l.Name) > 2 && l.Name[:3] != "skf" {
			away[l.Index] = true
		}
	}
	buf := make([]byte, 128)
	for {
		n, from, err := syscall.Recvfrom(fd, buf, 0)
		if err != nil {
			return
		}
		ll, ok := from.(*syscall.SockaddrLinklayer)
		if !ok || !away[ll.Ifindex] || n < 20 || buf[0]>>4 != 4 {
			continue
		}
		src, dst := netip.AddrFrom4([4]byte(buf[12:16])), netip.AddrFrom4([4]byte(buf[16:20]))
		for _, p := range prefixes {
			if p.Contains(src) || p.Contains(dst) {
				uplinkCount.Add(1)
			}
		}
	}
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }
