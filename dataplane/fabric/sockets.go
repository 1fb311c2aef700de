package fabric

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// endSockets ends the host's connections from and to addresses of the cluster:
// what they send again would leave by the host's uplink once the unreachable
// routes are gone. Their programs see ECONNABORTED. A kernel that cannot
// (CONFIG_INET_DIAG_DESTROY) leaves them; what they send then is answered by
// whoever has these addresses elsewhere. Listeners send nothing, and stay: they
// are the user's, and the kernel refuses to end those of MPTCP, which are Go's.
func (f *Fabric) endSockets() error {
	return Do(f.cfg.HostNetns, func() error {
		var errs []error
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			for protocol, list := range map[uint8]func(uint8) ([]*netlink.Socket, error){
				unix.IPPROTO_TCP: netlink.SocketDiagTCP,
				unix.IPPROTO_UDP: netlink.SocketDiagUDP,
			} {
				sockets, err := Dump(func() ([]*netlink.Socket, error) { return list(family) })
				if err != nil {
					errs = append(errs, fmt.Errorf("list the host's sockets: %w", err))
				}
				for _, s := range sockets {
					if s.State != netlink.TCP_LISTEN && f.concerns(s.ID) {
						errs = append(errs, destroy(protocol, s))
					}
				}
			}
		}
		return errors.Join(errs...)
	})
}

// concerns says whether an end of a connection is an address of the cluster.
func (f *Fabric) concerns(id netlink.SocketID) bool {
	for _, ip := range [][]byte{id.Source, id.Destination} {
		addr, ok := netip.AddrFromSlice(ip)
		if ok && slices.ContainsFunc(f.cfg.All(), func(p netip.Prefix) bool { return p.Contains(addr.Unmap()) }) {
			return true
		}
	}
	return false
}

// destroy is SOCK_DESTROY of sock_diag(7), which the netlink library has for
// TCP over IPv4 only.
func destroy(protocol uint8, s *netlink.Socket) error {
	req := nl.NewNetlinkRequest(nl.SOCK_DESTROY, unix.NLM_F_ACK)
	req.AddData(&destroyRequest{protocol, s})
	_, err := req.Execute(unix.NETLINK_INET_DIAG, 0)
	if err == nil || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return fmt.Errorf("end the host's connection %s:%d → %s:%d: %w", s.ID.Source, s.ID.SourcePort, s.ID.Destination, s.ID.DestinationPort, err)
}

// destroyRequest is struct inet_diag_req_v2 of linux/inet_diag.h.
type destroyRequest struct {
	protocol uint8
	socket   *netlink.Socket
}

// Len is the size of the struct in bytes.
func (*destroyRequest) Len() int { return 56 }

// Serialize writes the struct; its addresses and ports are in network order.
func (r *destroyRequest) Serialize() []byte {
	id := r.socket.ID
	b := []byte{r.socket.Family, r.protocol, 0, 0}
	b = binary.NativeEndian.AppendUint32(b, ^uint32(0)) // any state
	b = binary.BigEndian.AppendUint16(b, id.SourcePort)
	b = binary.BigEndian.AppendUint16(b, id.DestinationPort)
	for _, ip := range []net.IP{id.Source, id.Destination} {
		if v4 := ip.To4(); v4 != nil && r.socket.Family == unix.AF_INET {
			ip = v4
		}
		var field [16]byte
		copy(field[:], ip)
		b = append(b, field[:]...)
	}
	b = binary.NativeEndian.AppendUint32(b, id.Interface)
	b = binary.NativeEndian.AppendUint32(b, id.Cookie[0])
	return binary.NativeEndian.AppendUint32(b, id.Cookie[1])
}
