package cni

import (
	"fmt"
	"math"

	gocni "github.com/containerd/go-cni"
	"github.com/vishvananda/netlink"
)

// limits are a pod's from its annotations kubernetes.io/ingress-bandwidth and
// kubernetes.io/egress-bandwidth. Each is a token bucket where packets enter
// the cable: ingress at the node's end, egress at the pod's own, so that its
// senders feel it at once. Upstream's plugin has the same bucket for egress at
// a further device, as it may not know the pod's.
type limits struct{ ingress, egress bucket }

// bucket is a rate in bits per second; zero is none.
type bucket struct{ rate, burst uint64 }

// bandwidth reads the capability arguments.
func bandwidth(args map[string]any) (limits, error) {
	value, ok := args["bandwidth"]
	if !ok {
		return limits{}, nil
	}
	b, ok := value.(gocni.BandWidth)
	if !ok {
		return limits{}, fmt.Errorf("go-cni's bandwidth is a %T now", value)
	}
	return limits{ingress: bucket{b.IngressRate, b.IngressBurst}, egress: bucket{b.EgressRate, b.EgressBurst}}, nil
}

const (
	// burstTime is how much of its rate a pod may send at once when nobody
	// says: many of the kernel's ticks, and little to the user.
	burstTime = 0.05
	// leastBurst lets one packet through as the sender's stack hands it down.
	leastBurst = 64 << 10
	// latency is how long a packet waits for its turn at most.
	latency = 0.025
)

// bytes of the bucket, and of its queue.
func (b bucket) bytes() (burst, limit uint32) {
	rate := float64(b.rate) / 8
	size := float64(b.burst) / 8
	// containerd always says MaxUint32: half a gigabyte before the limit is
	// felt, which nobody asked for.
	if b.burst == 0 || b.burst == math.MaxUint32 {
		size = max(rate*burstTime, leastBurst)
	}
	size = min(size, math.MaxUint32/2)
	return uint32(size), uint32(min(size+rate*latency, math.MaxUint32))
}

// apply puts the bucket on a device.
func (b bucket) apply(h *netlink.Handle, device int) error {
	if b.rate == 0 {
		return nil
	}
	if b.rate < 8 {
		return fmt.Errorf("%d bit/s is less than a byte", b.rate)
	}
	burst, limit := b.bytes()
	return h.QdiscReplace(&netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: device, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       b.rate / 8,
		Limit:      limit,
		Buffer:     netlink.Xmittime(b.rate/8, burst),
	})
}
