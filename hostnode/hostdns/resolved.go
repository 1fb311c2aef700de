package hostdns

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

const (
	resolvedName = "org.freedesktop.resolve1"
	resolvedPath = "/org/freedesktop/resolve1"
	// resolvedManager is the interface of its methods.
	resolvedManager = "org.freedesktop.resolve1.Manager"
)

// linkServer and linkDomain are resolve1's "(iay)" and "(sb)".
type linkServer struct {
	Family  int32
	Address []byte
}

type linkDomain struct {
	Domain string
	// RoutingOnly sends questions there, and completes no names.
	RoutingOnly bool
}

// resolvedAnswers says whether systemd-resolved is on the bus.
func resolvedAnswers(ctx context.Context, socket string) bool {
	conn, err := dbus.Connect("unix:path="+socket, dbus.WithContext(ctx))
	if err != nil {
		return false
	}
	defer conn.Close()
	var there bool
	err = conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.NameHasOwner", 0, resolvedName).Store(&there)
	return err == nil && there
}

// tellResolved gives the cluster's device its nameserver and the domain that
// is asked for there. Not more: it is no way to the rest of the world, and
// what it says is signed by nobody.
func tellResolved(ctx context.Context, cfg Config) error {
	device, err := net.InterfaceByName(cfg.Device)
	if err != nil {
		return fmt.Errorf("host DNS: device %s: %w", cfg.Device, err)
	}
	conn, err := dbus.Connect("unix:path="+cfg.bus(), dbus.WithContext(ctx))
	if err != nil {
		return fmt.Errorf("host DNS: systemd-resolved: %w", err)
	}
	defer conn.Close()
	server := linkServer{Family: unix.AF_INET, Address: cfg.Server.AsSlice()}
	if cfg.Server.Is6() {
		server.Family = unix.AF_INET6
	}
	index := int32(device.Index)
	manager := conn.Object(resolvedName, resolvedPath)
	for _, call := range []struct {
		method string
		value  any
	}{
		{"SetLinkDNSSEC", "no"},
		{"SetLinkDNSOverTLS", "no"},
		{"SetLinkDefaultRoute", false},
		{"SetLinkDomains", []linkDomain{{cfg.Domain, true}}},
		{"SetLinkDNS", []linkServer{server}}, // last: now it is asked
	} {
		if err := manager.CallWithContext(ctx, resolvedManager+"."+call.method, 0, index, call.value).Err; err != nil {
			return mendResolved(fmt.Errorf("host DNS: systemd-resolved: %s %s: %w", call.method, cfg.Device, err), cfg)
		}
	}
	return nil
}

// mendResolved says what to run with more rights.
func mendResolved(err error, cfg Config) error {
	var refused dbus.Error
	if !errors.As(err, &refused) || refused.Name != "org.freedesktop.DBus.Error.AccessDenied" && refused.Name != "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired" {
		return err
	}
	return &Error{Err: err, Help: fmt.Sprintf(
		"create the cluster without --host-dns, then run with the rights for it: resolvectl dns %[1]s %[2]s && resolvectl domain %[1]s '~%[3]s'", cfg.Device, cfg.Server, cfg.Domain)}
}
