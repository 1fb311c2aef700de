package nodenat_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/dataplane/fabric/fabrictest"
	"github.com/skiff-k8s/skiff/dataplane/lb/internal/sctp/sctptest"
)

// The tests speak as much SCTP as the programs look at, by raw sockets: not
// every kernel has it.

// message is a packet of one chunk.
type message struct {
	src, dst uint16
	chunk    byte
	text     string
	// unsummed: the checksum was left to a device and is zero.
	unsummed bool
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (m message) bytes() []byte {
	if m.chunk == sctptest.Init {
		// Its window, streams and first number: the kernel, where it knows
		// SCTP, refuses only what is well made.
		m.text = "\x00\x01\x00\x00\x00\x01\x00\x01\x00\x00\x00\x01"
	}
	b := make([]byte, 20, 20+len(m.text))
	binary.BigEndian.PutUint16(b, m.src)
	binary.BigEndian.PutUint16(b[2:], m.dst)
	b[12] = m.chunk
	binary.BigEndian.PutUint16(b[14:], uint16(8+len(m.text)))
	binary.BigEndian.PutUint32(b[16:], 1) // the tag of an INIT
	b = append(b, m.text...)
	if !m.unsummed {
		binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, castagnoli))
	}
	return b
}

func read(b []byte) (m message, err error) {
	if len(b) < 16 {
		return m, fmt.Errorf("%d bytes are no SCTP", len(b))
	}
	m.src, m.dst, m.chunk = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:]), b[12]
	if len(b) > 20 {
		m.text = string(b[20:])
	}
	sum := binary.LittleEndian.Uint32(b[8:])
	if m.unsummed = sum == 0; m.unsummed {
		return m, nil
	}
	clear(b[8:12])
	if want := crc32.Checksum(b, castagnoli); sum != want {
		return m, fmt.Errorf("chunk %d: checksum %#x, want %#x", m.chunk, sum, want)
	}
	return m, nil
}

func rawNetwork(a netip.Addr) string {
	if a.Is4() {
		return "ip4:132"
	}
	return "ip6:132"
}

// silence keeps a namespace's own SCTP, where the kernel has it, from aborting
// associations that it does not know.
func silence(t testing.TB, path string) {
	t.Helper()
	ns, err := netns.GetFromPath(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	conn, err := nftables.New(nftables.WithNetNSFd(int(ns)))
	if err != nil {
		t.Fatal(err)
	}
	table := conn.AddTable(&nftables.Table{Name: "silence", Family: nftables.TableFamilyINet})
	chain := conn.AddChain(&nftables.Chain{
		Name: "output", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityFilter,
	})
	conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{132}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 12, Len: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{sctptest.Abort}},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}})
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
}

// serve answers at a place's port, on all of its addresses: data with who
// answers, and whom it sees.
func (n *network) serve(at *place, port uint16) {
	n.Helper()
	silence(n, at.netns)
	var done sync.WaitGroup
	n.Cleanup(done.Wait) // after the sockets were closed
	for _, addr := range at.addrs {
		var c net.PacketConn
		n.must(fabrictest.In(at.netns, func() (err error) {
			c, err = net.ListenPacket(rawNetwork(addr), addr.String())
			return err
		}))
		done.Go(func() {
			buf := make([]byte, 2048)
			for {
				size, from, err := c.ReadFrom(buf)
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err != nil || size < 16 || binary.BigEndian.Uint16(buf[2:]) != port {
					continue
				}
				m, err := read(buf[:size])
				if err != nil {
					n.Errorf("%s got: %v", at.name, err)
					continue
				}
				reply := message{src: port, dst: m.src}
				switch m.chunk {
				case sctptest.Init:
					reply.chunk = sctptest.InitAck
					if m.unsummed {
						reply.text = "unsummed"
					}
				case sctptest.CookieEcho:
					reply.chunk = sctptest.CookieAck
				case sctptest.Data:
					reply.chunk, reply.text = sctptest.Data, fmt.Sprintf("%s sees %s", at.name, from)
				default:
					continue
				}
				_, _ = c.WriteTo(reply.bytes(), from) // or the client is gone
			}
		})
		n.Cleanup(func() { c.Close() })
	}
}

// errRefused says that somebody said no.
var errRefused = errors.New("refused")

// association is a client's end of one.
type association struct {
	*net.IPConn
	port uint16
	to   netip.AddrPort
}

func (n *network) dial(from *place, port uint16, to netip.AddrPort) association {
	n.Helper()
	a := association{port: port, to: to}
	n.must(fabrictest.In(from.netns, func() (err error) {
		a.IPConn, err = net.DialIP(rawNetwork(to.Addr()), nil, &net.IPAddr{IP: to.Addr().AsSlice()})
		return err
	}))
	n.Cleanup(func() { a.Close() })
	return a
}

// patience bounds the wait for what must come, also where the machine is an
// emulated one.
const patience = 30 * time.Second

// ask sends a chunk and waits for the answer, which is of type want.
func (a association) ask(chunk, want byte) (string, error) {
	if err := a.send(chunk); err != nil {
		return "", err
	}
	return a.await(want)
}

func (a association) send(chunk byte) error {
	_, err := a.Write(message{src: a.port, dst: a.to.Port(), chunk: chunk, text: "hello"}.bytes())
	return err
}

// await waits for a chunk.
func (a association) await(want byte) (string, error) {
	if err := a.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	buf := make([]byte, 2048)
	for {
		size, _, err := a.ReadFrom(buf)
		var timeout net.Error
		switch {
		case errors.As(err, &timeout) && timeout.Timeout():
			return "", err
		case err != nil: // ICMP
			return "", errRefused
		}
		m, err := read(buf[:size])
		switch {
		case err != nil:
			return "", err
		case m.src != a.to.Port() || m.dst != a.port:
			continue // another's
		case m.chunk == sctptest.Abort:
			return "", errRefused
		case m.chunk != want:
			return "", fmt.Errorf("chunk %d, want %d", m.chunk, want)
		}
		return m.text, nil
	}
}

// call makes an association, says what the backend says, and ends it.
func (n *network) call(from *place, port uint16, to netip.AddrPort) (string, error) {
	n.Helper()
	a := n.dial(from, port, to)
	defer a.Close()
	for _, step := range [][2]byte{{sctptest.Init, sctptest.InitAck}, {sctptest.CookieEcho, sctptest.CookieAck}} {
		if _, err := a.ask(step[0], step[1]); err != nil {
			return "", err
		}
	}
	said, err := a.ask(sctptest.Data, sctptest.Data)
	if err != nil {
		return "", err
	}
	_, err = a.Write(message{src: port, dst: to.Port(), chunk: sctptest.ShutdownComplete}.bytes())
	return said, err
}

// sendUnsummed sends a packet from a pod as its stack would, which leaves the
// checksum to the device.
func sendUnsummed(from *place, m message, to netip.Addr) error {
	return fabrictest.In(from.netns, func() error {
		pod, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		neighbours, err := netlink.NeighList(pod.Index, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		body := m.bytes()
		frame := slices.Concat(neighbours[0].HardwareAddr, pod.HardwareAddr)
		if to.Is4() {
			ip := []byte{0x45, 0, 0, byte(20 + len(body)), 0, 0, 0, 0, 64, 132, 0, 0}
			ip = slices.Concat(ip, from.addr(to).AsSlice(), to.AsSlice())
			binary.BigEndian.PutUint16(ip[10:], headerSum(ip))
			frame = slices.Concat(frame, []byte{0x08, 0x00}, ip)
		} else {
			ip := []byte{0x60, 0, 0, 0, 0, byte(len(body)), 132, 64}
			frame = slices.Concat(frame, []byte{0x86, 0xdd}, ip, from.addr(to).AsSlice(), to.AsSlice())
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
			return err
		}
		// struct virtio_net_hdr: it needs a checksum, from where, and whereto.
		hdr := make([]byte, 10)
		hdr[0] = unix.VIRTIO_NET_HDR_F_NEEDS_CSUM
		binary.LittleEndian.PutUint16(hdr[6:], uint16(len(frame)))
		binary.LittleEndian.PutUint16(hdr[8:], 8)
		return unix.Sendto(fd, slices.Concat(hdr, frame, body), 0, &unix.SockaddrLinklayer{Ifindex: pod.Index})
	})
}

// headerSum is IPv4's checksum.
func headerSum(ip []byte) uint16 {
	var sum uint32
	for i := 0; i < len(ip); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	return ^uint16(sum + sum>>16)
}
