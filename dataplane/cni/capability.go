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
	ns := &gocni.Namespace{}
	args := map[string]any{}
	for name, value := range map[string]any{"capabilityArgs": args, "args": map[string]string{}} {
		field := reflect.ValueOf(ns).Elem().FieldByName(name)
		if !field.IsValid() || field.Type() != reflect.TypeOf(value) {
			return nil, fmt.Errorf("go-cni's Namespace has no field %s of type %T any more", name, value)
		}
		reflect.NewAt(field.Type(), field.Addr().UnsafePointer()).Elem().Set(reflect.ValueOf(value))
	}
	for _, o := range opts {
		if err := o(ns); err != nil {
			return nil, err
		}
	}
	return args, nil
}

// checkCapabilityAccess says at start what would fail at the first pod.
func checkCapabilityAccess() error {
	args, err := capabilities([]gocni.NamespaceOpts{gocni.WithCapability("probe", true), gocni.WithArgs("probe", "")})
	if err != nil {
		return err
	}
	if args["probe"] != true {
		return fmt.Errorf("go-cni's capability arguments are kept elsewhere now")
	}
	return nil
}

// portMappings returns the mappings that ask for a port of the node.
func portMappings(opts []gocni.NamespaceOpts) ([]gocni.PortMapping, error) {
	args, err := capabilities(opts)
	if err != nil {
		return nil, err
	}
	all, _ := args["portMappings"].([]gocni.PortMapping)
	var asked []gocni.PortMapping
	for _, m := range all {
		if m.HostPort > 0 {
			asked = append(asked, m)
		}
	}
	return asked, nil
}

// hostPorts checks mappings and completes them with the pod's address.
func hostPorts(mappings []gocni.PortMapping, pod netip.Addr) ([]HostPort, error) {
	var ports []HostPort
	for _, m := range mappings {
		h := HostPort{Protocol: strings.ToLower(m.Protocol), HostIP: netip.IPv4Unspecified(), PodIP: pod}
		if h.Protocol != "tcp" && h.Protocol != "udp" {
			return nil, fmt.Errorf("hostPort %d: protocol %s is not supported", m.HostPort, m.Protocol)
		}
		if m.HostPort > math.MaxUint16 || m.ContainerPort <= 0 || m.ContainerPort > math.MaxUint16 {
			return nil, fmt.Errorf("hostPort %d to %d: not a port", m.HostPort, m.ContainerPort)
		}
		h.Port, h.PodPort = uint16(m.HostPort), uint16(m.ContainerPort)
		if m.HostIP != "" {
			ip, err := netip.ParseAddr(m.HostIP)
			if err != nil {
				return nil, fmt.Errorf("hostPort %d: host address: %w", m.HostPort, err)
			}
			if ip.Unmap().Is6() {
				if !ip.IsUnspecified() {
					return nil, fmt.Errorf("hostPort %d: host address %s: IPv6 is not supported", m.HostPort, ip)
				}
				ip = netip.IPv4Unspecified()
			}
			h.HostIP = ip.Unmap()
		}
		ports = append(ports, h)
	}
	return ports, nil
}
