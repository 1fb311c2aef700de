package hostdns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Files says where the host keeps what its names are resolved by. Zero fields
// are the usual places.
type Files struct {
	// EtcDir holds resolv.conf and nsswitch.conf. Default /etc.
	EtcDir string
	// Bus is the socket of the system's D-Bus. Default
	// /run/dbus/system_bus_socket.
	Bus string
}

func (f Files) etc(name string) string {
	if f.EtcDir == "" {
		return filepath.Join("/etc", name)
	}
	return filepath.Join(f.EtcDir, name)
}

// ResolvConf is the path of resolv.conf.
func (f Files) ResolvConf() string { return f.etc("resolv.conf") }

func (f Files) bus() string {
	if f.Bus == "" {
		return "/run/dbus/system_bus_socket"
	}
	return f.Bus
}

// Config is one cluster's wish.
type Config struct {
	Files
	// Cluster is its name.
	Cluster string
	// Domain is "cluster.local".
	Domain string
	// Device is the cluster's device on the host.
	Device string
	// Server is the address of cluster DNS. Check does without.
	Server netip.Addr
	// Upstreams are the nameservers to which cluster DNS hands questions of
	// others.
	Upstreams []string
	// Forwards says that the host forwards packets, so that cluster DNS
	// reaches Upstreams.
	Forwards bool
}

// Error is a refusal with what the user can do.
type Error struct {
	Err error
	// Help says what to run.
	Help string
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Mend says what to do about the error.
func (e *Error) Mend() string { return e.Help }

// Check refuses what Ensure could not do, and changes nothing.
func Check(ctx context.Context, cfg Config) error {
	f, err := look(ctx, cfg)
	if err != nil {
		return err
	}
	way, err := decide(f, cfg)
	if err != nil || way == resolved {
		return err
	}
	return writable(cfg)
}

// Ensure makes the cluster's names resolve on the host. When they do already,
// it writes nothing.
func Ensure(ctx context.Context, cfg Config) error {
	f, err := look(ctx, cfg)
	if err != nil {
		return err
	}
	way, err := decide(f, cfg)
	if err != nil {
		return err
	}
	if way == resolved {
		return tellResolved(ctx, cfg)
	}
	path := cfg.ResolvConf()
	want := with(without(f.conf, cfg.Cluster), cfg.Cluster, cfg.Server, f.missing || made(f.conf, cfg.Cluster))
	if bytes.Equal(want, f.conf) {
		return nil
	}
	if err := replace(path, want); err != nil {
		return &Error{Err: fmt.Errorf("host DNS: %w", err), Help: cfg.byHand()}
	}
	return nil
}

// Remove takes the cluster's lines out of resolv.conf. It succeeds when there
// are none. What systemd-resolved knows goes with the cluster's device.
func Remove(files Files, cluster string) error {
	// Somebody may have made it a link since.
	path, err := filepath.EvalSymlinks(files.ResolvConf())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("host DNS: %w", err)
	}
	if err := os.Remove(aside(path)); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EROFS) {
		return fmt.Errorf("host DNS: %w", err)
	}
	conf, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("host DNS: %w", err)
	}
	rest := without(conf, cluster)
	switch {
	case bytes.Equal(rest, conf):
		return nil
	case len(rest) == 0 && made(conf, cluster):
		err = os.Remove(path)
	default:
		err = replace(path, rest)
	}
	if err != nil {
		return &Error{Err: fmt.Errorf("host DNS: %w", err),
			Help: fmt.Sprintf("take the lines of cluster %q out of %s, then delete the cluster again", cluster, path)}
	}
	return nil
}

// Has says whether resolv.conf has lines of the cluster.
func Has(files Files, cluster string) bool {
	conf, err := os.ReadFile(files.ResolvConf())
	return err == nil && !bytes.Equal(without(conf, cluster), conf)
}

// writable says what to run when resolv.conf cannot be written.
func writable(cfg Config) error {
	path := cfg.ResolvConf()
	err := unix.Access(filepath.Dir(path), unix.W_OK)
	if err != nil && unix.Access(path, unix.W_OK) == nil {
		return nil
	}
	if err != nil {
		return &Error{Err: fmt.Errorf("host DNS: write %s: %w", path, err), Help: cfg.byHand()}
	}
	return nil
}

// byHand is what the user can do instead.
func (c Config) byHand() string {
	server := "$(kubectl -n kube-system get service kube-dns -o jsonpath={.spec.clusterIP})"
	if c.Server.IsValid() {
		server = c.Server.String()
	}
	return fmt.Sprintf("create the cluster without --host-dns, and make cluster DNS the first nameserver yourself, with the rights to write %[1]s: sed -i \"1i nameserver %[2]s\" %[1]s", c.ResolvConf(), server)
}
