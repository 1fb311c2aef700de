package supervise

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Sizes and offsets in the kernel's struct inet_diag_req_v2 and inet_diag_msg,
// which both hold a struct inet_diag_sockid.
const (
	diagRequestSize = 56
	diagRequestID   = 8
	diagMessageID   = 4
	diagIDSize      = 48
	diagInode       = 68
	diagMessageSize = 72
)

// withoutListeners are all states of TCP but LISTEN.
const withoutListeners = 0xfff &^ (1 << 10)

// diagRequest is a struct inet_diag_req_v2.
type diagRequest [diagRequestSize]byte

func (r *diagRequest) Len() int          { return len(r) }
func (r *diagRequest) Serialize() []byte { return r[:] }

// endConnections resets the TCP connections at a local port of a network
// namespace (nil: ours) whose socket's inode is one of those; one that nobody
// has accepted yet has inode 0. The owner of the socket need not be able to
// run.
func endConnections(in *os.File, port uint16, those func(inode uint32) bool) (int, error) {
	at := netns.None()
	if in != nil {
		at = netns.NsHandle(in.Fd())
	}
	socket, err := nl.GetNetlinkSocketAt(at, netns.None(), unix.NETLINK_INET_DIAG)
	if err != nil {
		return 0, fmt.Errorf("ask for connections: %w", err)
	}
	defer socket.Close()
	ask := func(kind, flags int, data *diagRequest) ([][]byte, error) {
		request := nl.NewNetlinkRequest(kind, flags)
		request.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_INET_DIAG: {Socket: socket}}
		request.AddData(data)
		return request.Execute(unix.NETLINK_INET_DIAG, 0)
	}
	ended := 0
	var errs []error
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		dump := diagRequest{0: family, 1: unix.IPPROTO_TCP}
		binary.NativeEndian.PutUint32(dump[4:], withoutListeners)
		messages, err := ask(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP, &dump)
		if err != nil {
			return ended, fmt.Errorf("ask for connections: %w", err)
		}
		for _, m := range messages {
			if len(m) < diagMessageSize || binary.BigEndian.Uint16(m[diagMessageID:]) != port || !those(binary.NativeEndian.Uint32(m[diagInode:])) {
				continue
			}
			destroy := diagRequest{0: m[0], 1: unix.IPPROTO_TCP}
			binary.NativeEndian.PutUint32(destroy[4:], withoutListeners)
			copy(destroy[diagRequestID:], m[diagMessageID:diagMessageID+diagIDSize])
			_, err := ask(nl.SOCK_DESTROY, unix.NLM_F_ACK, &destroy)
			switch {
			case err == nil:
				ended++
			case !errors.Is(err, unix.ENOENT): // it has ended
				errs = append(errs, fmt.Errorf("end a connection: %w", err))
			}
		}
	}
	return ended, errors.Join(errs...)
}
