package cni

import (
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"strings"

	gocni "github.com/containerd/go-cni"
)

// go-cni hands options over as functions on its Namespace, whose fields are
// not exported and which only go-cni itself can make. This file is the one
// place that reaches into it. New checks that it can.

// capabilities applies opts and returns the capability arguments they set.
func capabilities(opts []gocni.NamespaceOpts) (map[string]any, error) {
	args, _, err := arguments(opts)
	return args, err
}

// arguments applies opts and returns the arguments they set: capabilities,
// and what CRI calls labels.
func arguments(opts []gocni.NamespaceOpts) (map[string]any, map[string]string, error) {
	ns := &gocni.Namespace{}
	args, labels := map[string]any{}, map[string]string{}
	for name, value := range map[string]any{"capabilityArgs": args, "args": labels} {
		field := reflect.ValueOf(ns).Elem().FieldByName(name)
		if !field.IsValid() || field.Type() != reflect.TypeOf(value) {
			return nil, nil, fmt.Errorf("go-cni's Namespace has no field %s of type %T any more", name, value)
		}
		reflect.NewAt(field.Type(), field.Addr().UnsafePointer()).Elem().Set(reflect.ValueOf(value))
	}
	for _, o := range opts {
		if err := o(ns); err != nil {
			return nil, nil, err
		}
	}
	return args, labels, nil
}

// checkCapabilityAccess says at start what would fail at the first pod.
func checkCapabilityAccess() error {
	args, labels, err := arguments([]gocni.NamespaceOpts{gocni.WithCapability("probe", true), gocni.WithArgs("probe", "yes")})
	if err != nil {
		return err
	}
	if args["probe"] != true || labels["probe"] != "yes" {
		return fmt.Errorf("go-cni's arguments are kept elsewhere now")
	}
	return nil
}

// portMappings returns the mappings that ask for a port of the node.
func portMappings(args map[string]any) []gocni.PortMapping {
	all, _ := args["portMappings"].([]gocni.PortMapping)
	var asked []gocni.PortMapping
	for _, m := range all {
		if m.HostPort > 0 {
			asked = append(asked, m)
		}
	}
	return asked
}

// hostPorts checks mappings and completes them with the pod's addresses: a
// mapping leads to the pod in every family that its host address allows.
func hostPorts(mappings []gocni.PortMapping, pods []netip.Addr) ([]HostPort, error) {
	var ports []HostPort
	for _, m := range mappings {
		h := HostPort{Protocol: strings.ToLower(m.Protocol)}
		// A port of SCTP is accepted on kernels without it, as upstream's plugin
		// does: there the pod itself cannot listen either.
		if h.Protocol != "tcp" && h.Protocol != "udp" && h.Protocol != "sctp" {
			return nil, fmt.Errorf("hostPort %d: protocol %s is not supported", m.HostPort, m.Protocol)
		}
		if m.HostPort > math.MaxUint16 || m.ContainerPort <= 0 || m.ContainerPort > math.MaxUint16 {
			return nil, fmt.Errorf("hostPort %d to %d: not a port", m.HostPort, m.ContainerPort)
		}
		h.Port, h.PodPort = uint16(m.HostPort), uint16(m.ContainerPort)
		led, err := lead(m.HostIP, pods)
		if err != nil {
			return nil, fmt.Errorf("hostPort %d: %w", m.HostPort, err)
		}
		for _, l := range led {
			h.HostIP, h.PodIP = l.host, l.pod
			ports = append(ports, h)
		}
	}
	return ports, nil
}

// leading is a host address and the pod's address of its family.
type leading struct{ host, pod netip.Addr }

// lead pairs the pod's addresses with a mapping's host address. None means all
// addresses of the node, an unspecified one those of its family, or, if the
// pod has none of that family, those that it has: :: is also written for "all".
func lead(hostIP string, pods []netip.Addr) ([]leading, error) {
	var all, matching []leading
	var host netip.Addr
	if hostIP != "" {
		var err error
		if host, err = netip.ParseAddr(hostIP); err != nil {
			return nil, fmt.Errorf("host address: %w", err)
		}
		host = host.Unmap()
	}
	for _, pod := range pods {
		unspecified := netip.IPv4Unspecified()
		if pod.Is6() {
			unspecified = netip.IPv6Unspecified()
		}
		all = append(all, leading{unspecified, pod})
		if host.IsValid() && host.Is4() == pod.Is4() {
			matching = append(matching, leading{host, pod})
		}
	}
	switch {
	case !host.IsValid(), host.IsUnspecified() && len(matching) == 0:
		return all, nil
	case len(matching) == 0:
		return nil, fmt.Errorf("host address %s: the pod has no address of that family", host)
	}
	return matching, nil
}
