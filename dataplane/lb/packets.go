package lb

import (
	"context"
	"slices"

	"github.com/skiff-k8s/skiff/dataplane/inet"
	"github.com/skiff-k8s/skiff/dataplane/lb/nodenat"
	"github.com/skiff-k8s/skiff/dataplane/lb/table"
)

// servePackets brings the programs for SCTP to the node's devices before the
// first entry for it is in the node's maps. They stay: so do associations when
// their Service goes, as upstream. mu is held.
func (l *Loader) servePackets(t *target, frontends ...table.Frontend) error {
	if l.packets != nil || t != l.targets[0] || l.cfg.Uplink == "" || !slices.ContainsFunc(frontends, ofSCTP) {
		return nil
	}
	id := identityOf(l.cfg.NodeIPs)
	nat, err := nodenat.Load(nodenat.Config{
		Table: t.table, PinDir: l.cfg.PinDir, Uplink: l.cfg.Uplink, V4: id.V4, V6: id.V6,
	})
	if err != nil {
		return err
	}
	l.packets = nat
	close(l.packetsServed)
	return nil
}

func ofSCTP(f table.Frontend) bool { return f.Proto == inet.SCTP }

// PodConnected is told the name of the node's device of each new pod, before
// the pod sends.
func (l *Loader) PodConnected(device string) error {
	l.mu.Lock()
	nat := l.packets
	l.mu.Unlock()
	if nat == nil {
		return nil
	}
	return nat.Attach(device)
}

// followDevices finds the devices of pods where nobody tells of them.
func (l *Loader) followDevices(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-l.packetsServed:
	}
	if err := l.packets.Follow(ctx); err != nil {
		l.log.Error("SCTP of new pods to Services is not translated any more", "err", err)
	}
}

// loopbackServes says whether ports answer on a node's loopback addresses as
// well: packets from there cannot leave the node.
func loopbackServes(proto inet.Protocol) bool { return proto != inet.SCTP }
