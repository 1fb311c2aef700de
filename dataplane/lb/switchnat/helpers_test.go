package switchnat

import (
	"path/filepath"
	"syscall"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// reuse lets several sockets of a test have one local port.
func reuse(_, _ string, c syscall.RawConn) error {
	var err error
	if cerr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}); cerr != nil {
		return cerr
	}
	return err
}

// ethtoolSet is one of ethtool's set-a-value ioctls.
func ethtoolSet(fd int, dev string, cmd, value uint32) error {
	data := struct{ cmd, value uint32 }{cmd, value}
	ifr, err := unix.NewIfreq(dev)
	if err != nil {
		return err
	}
	raw := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		pad  [16]byte
	}{data: unsafe.Pointer(&data)}
	copy(raw.name[:], ifr.Name())
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&raw))); errno != 0 {
		return errno
	}
	return nil
}

// count is the number of entries of a pinned map.
func (f *fabric) count(name string) int {
	f.Helper()
	m, err := ebpf.LoadPinnedMap(filepath.Join(f.cfg.PinDir, name), nil)
	if err != nil {
		f.Fatal(err)
	}
	defer m.Close()
	n := 0
	var k, v []byte
	it := m.Iterate()
	for it.Next(&k, &v) {
		n++
	}
	if err := it.Err(); err != nil {
		f.Fatal(err)
	}
	return n
}
