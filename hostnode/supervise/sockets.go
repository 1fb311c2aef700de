package supervise

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/wait"

	machine "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
)

// errInUse says that somebody has the port.
var errInUse = errors.New("is in use")

const (
	// dyingBound is how long processes that were killed may keep a port on a
	// busy host.
	dyingBound = 2 * time.Second
	dyingRetry = 10 * time.Millisecond
)

// openSocket opens a listener (TCP) or a bound socket (UDP) of the host.
func openSocket(ctx context.Context, s socket) (*os.File, error) {
	// Without SO_REUSEPORT and friends: a port in use must be an error. Go
	// sets SO_REUSEADDR on listeners, which on Linux shares nothing.
	var lc net.ListenConfig
	var f *os.File
	var err error
	switch {
	case strings.HasPrefix(s.network, "udp"):
		var conn net.PacketConn
		if conn, err = lc.ListenPacket(ctx, s.network, s.address); err == nil {
			f, err = conn.(*net.UDPConn).File()
			conn.Close()
		}
	default:
		var l net.Listener
		if l, err = lc.Listen(ctx, s.network, s.address); err == nil {
			f, err = l.(*net.TCPListener).File()
			l.Close()
		}
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		_, port, _ := net.SplitHostPort(s.address)
		return nil, &Refusal{Field: s.portField, Err: fmt.Errorf("port %s %w (%s)", port, errInUse, s.address),
			Help: "choose another port, or 0 for a free one; `ss -tulnp 'sport = :" + port + "'` shows who has it"}
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		host, _, _ := net.SplitHostPort(s.address)
		return nil, &Refusal{Field: s.addressField, Err: fmt.Errorf("%s is not an address of this host", host),
			Help: "use 127.0.0.1 or one of `ip -brief address`"}
	case err != nil:
		return nil, &Refusal{Field: s.portField, Err: fmt.Errorf("listen on %s: %w", s.address, err)}
	}
	return f, nil
}

// portOf is the number of the port that a socket got.
func portOf(f *os.File) (int32, error) {
	sa, err := syscall.Getsockname(int(f.Fd()))
	if err != nil {
		return 0, fmt.Errorf("read port of %s: %w", f.Name(), err)
	}
	switch a := sa.(type) {
	case *syscall.SockaddrInet4:
		return int32(a.Port), nil
	case *syscall.SockaddrInet6:
		return int32(a.Port), nil
	}
	return 0, fmt.Errorf("read port of %s: not an internet socket", f.Name())
}

// openKept opens a socket that the cluster had before. Processes of its earlier
// life that were killed a moment ago may have it still.
func openKept(ctx context.Context, s socket) (f *os.File, err error) {
	patient, cancel := context.WithTimeout(ctx, dyingBound)
	defer cancel()
	_ = wait.PollUntilContextCancel(patient, dyingRetry, true, func(context.Context) (bool, error) {
		f, err = openSocket(ctx, s)
		return !errors.Is(err, errInUse), nil
	})
	var refusal *Refusal
	if errors.As(err, &refusal) {
		host, port, _ := net.SplitHostPort(s.address)
		switch refusal.Field {
		case s.portField:
			refusal.Help = "the cluster keeps its ports, and somebody took this one while it was stopped: `ss -tulnp 'sport = :" + port + "'` shows who; end that, then start the cluster"
		case s.addressField:
			refusal.Help = "the cluster keeps its addresses: give the host " + host + " again, then start the cluster"
		}
	}
	return f, err
}

// openNew opens sockets of a new cluster: others keep theirs, running or not.
func openNew(others []*record) func(context.Context, socket) (*os.File, error) {
	return func(ctx context.Context, s socket) (*os.File, error) {
		if owner := ownerOf(s, others); owner != "" {
			_, port, _ := net.SplitHostPort(s.address)
			return nil, &Refusal{Field: s.portField, Err: fmt.Errorf("port %s is kept by cluster %q", port, owner),
				Help: "choose another port, or 0 for a free one"}
		}
		var passed []*os.File // held, so that the kernel gives each only once
		defer func() {
			for _, f := range passed {
				f.Close()
			}
		}()
		for {
			f, err := openSocket(ctx, s)
			if err != nil {
				return nil, err
			}
			port, err := portOf(f)
			if err != nil {
				f.Close()
				return nil, err
			}
			host, _, _ := net.SplitHostPort(s.address)
			if ownerOf(socket{network: s.network, address: joinPort(host, port)}, others) == "" {
				return f, nil
			}
			passed = append(passed, f)
		}
	}
}

// ownerOf is the cluster that keeps the port of s, on an address that
// overlaps; empty if none does. Port 0 is nobody's.
func ownerOf(s socket, clusters []*record) string {
	host, port, err := net.SplitHostPort(s.address)
	if err != nil || port == "0" {
		return ""
	}
	for _, rec := range clusters {
		for i := range rec.Machines {
			for _, theirs := range planSockets(rec, i) {
				h, p, err := net.SplitHostPort(theirs.address)
				if err == nil && p == port && theirs.network == s.network && (h == host || unspecified(h) || unspecified(host)) {
					return rec.Cluster.Name
				}
			}
		}
	}
	return ""
}

func unspecified(host string) bool {
	ip := net.ParseIP(host)
	return ip != nil && ip.IsUnspecified()
}

// openSockets opens every socket of the cluster and writes the ports that
// were free into its record. Keys are "machine/name".
func openSockets(ctx context.Context, rec *record, open func(context.Context, socket) (*os.File, error)) (files map[string]*os.File, err error) {
	files = map[string]*os.File{}
	defer func() {
		if err != nil {
			closeAll(files)
			files = nil
		}
	}()
	var errs []error
	for i, m := range rec.Machines {
		planned := planSockets(rec, i)
		for _, name := range keys(planned) {
			f, err := shared(files, name)
			if f == nil && err == nil {
				f, err = open(ctx, planned[name])
			}
			if err != nil {
				errs = append(errs, err)
				continue
			}
			files[m.Name+"/"+name] = f
			errs = append(errs, setPort(rec, i, name, f))
		}
	}
	return files, errors.Join(errs...)
}

// shared is the socket of an API server once more if another machine's is
// among files: they accept from one. Nil: name is not shared, or is new.
func shared(files map[string]*os.File, name string) (*os.File, error) {
	if name != machine.SocketAPIServer {
		return nil, nil
	}
	for key, f := range files {
		if strings.HasSuffix(key, "/"+name) {
			return duplicate(f)
		}
	}
	return nil, nil
}

// duplicate is another descriptor of the same open socket.
func duplicate(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate socket %s: %w", f.Name(), err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// setPort writes the port of an open socket where it was left open.
func setPort(rec *record, i int, name string, f *os.File) error {
	port, err := portOf(f)
	if err != nil {
		return err
	}
	at := strings.LastIndexByte(name, '/')
	if at < 0 {
		rec.Cluster.Networking.APIServerPort = port
		return nil
	}
	j, err := strconv.Atoi(name[at+1:])
	if err != nil {
		return err
	}
	rec.Cluster.Nodes[i].ExtraPortMappings[j].HostPort = port
	return nil
}

func closeAll(files map[string]*os.File) {
	for _, f := range files {
		f.Close()
	}
}
