package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	machine "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
)

// parseClient reads POD: NAME, NAMESPACE/NAME, node/NAME or host.
func parseClient(text, namespace string) (machine.TraceName, error) {
	if text == machine.TraceHost {
		return machine.TraceName{Kind: machine.TraceHost}, nil
	}
	if name, ok := strings.CutPrefix(text, machine.TraceNode+"/"); ok {
		return machine.TraceName{Kind: machine.TraceNode, Name: name}, checkNames(text, name)
	}
	return parsePod(strings.TrimPrefix(text, machine.TracePod+"/"), namespace)
}

// parsePod reads NAME or NAMESPACE/NAME.
func parsePod(text, namespace string) (machine.TraceName, error) {
	n := machine.TraceName{Kind: machine.TracePod, Namespace: namespace, Name: text}
	if ns, name, ok := strings.Cut(text, "/"); ok {
		n.Namespace, n.Name = ns, name
	}
	return n, checkNames(text, n.Namespace, n.Name)
}

// parseDestination reads DEST: NAME[.NAMESPACE][:PORT] of a Service,
// ADDRESS:PORT, or pod/[NAMESPACE/]NAME[:PORT]. Without a namespace it is in
// the given one.
func parseDestination(text, namespace string) (machine.TraceName, error) {
	if rest, ok := strings.CutPrefix(text, machine.TracePod+"/"); ok {
		rest, port, err := cutPort(rest)
		if err != nil {
			return machine.TraceName{}, err
		}
		n, err := parsePod(rest, namespace)
		n.Port = port
		return n, err
	}
	if to, err := netip.ParseAddrPort(text); err == nil {
		if to.Port() == 0 {
			return machine.TraceName{}, errNoPort(to.Addr().String())
		}
		return machine.TraceName{Kind: machine.TraceAddress, Address: to.Addr().Unmap().WithZone(""), Port: strconv.Itoa(int(to.Port()))}, nil
	}
	if addr, err := netip.ParseAddr(strings.Trim(text, "[]")); err == nil {
		return machine.TraceName{}, errNoPort(addr.String())
	}
	text = strings.TrimPrefix(text, machine.TraceService+"/")
	if strings.Contains(text, "/") {
		return machine.TraceName{}, fmt.Errorf("%q: a Service is NAME.NAMESPACE, a pod is pod/NAMESPACE/NAME", text)
	}
	name, port, err := cutPort(text)
	if err != nil {
		return machine.TraceName{}, err
	}
	n := machine.TraceName{Kind: machine.TraceService, Namespace: namespace, Name: name, Port: port}
	if service, rest, ok := strings.Cut(strings.TrimSuffix(name, "."), "."); ok {
		// As DNS has it: NAME.NAMESPACE.svc.cluster.local.
		ns, zone, _ := strings.Cut(rest, ".")
		if zone != "" && zone != "svc" && !strings.HasPrefix(zone, "svc.") {
			return n, fmt.Errorf("%q: not a Service's name, which is NAME.NAMESPACE or NAME.NAMESPACE.svc.cluster.local", text)
		}
		n.Name, n.Namespace = service, ns
	}
	return n, checkNames(text, n.Namespace, n.Name)
}

func errNoPort(addr string) error {
	return fmt.Errorf("%s: no port; give one, as %s", addr, netip.AddrPortFrom(netip.MustParseAddr(addr), 80))
}

// cutPort parts "name:port"; the port is a number or a name.
func cutPort(text string) (name, port string, err error) {
	name, port, ok := strings.Cut(text, ":")
	if !ok {
		return name, "", nil
	}
	if n, err := strconv.ParseUint(port, 10, 64); err == nil {
		if n == 0 || n > 65535 {
			return name, port, fmt.Errorf("port %s of %q: not between 1 and 65535", port, name)
		}
		return name, strconv.FormatUint(n, 10), nil
	}
	if len(validation.IsDNS1123Label(port)) > 0 {
		return name, port, fmt.Errorf("port %q of %q: neither a number nor a port's name", port, name)
	}
	return name, port, nil
}

// checkNames refuses what can be no object's name.
func checkNames(text string, names ...string) error {
	for _, n := range names {
		if n == "" {
			return fmt.Errorf("%q: a part of the name is empty", text)
		}
		if len(validation.IsDNS1123Subdomain(n)) > 0 {
			return fmt.Errorf("%q: %q is no object's name, which has lower case letters, digits, '-' and '.'", text, n)
		}
	}
	return nil
}

// parseProtocol reads --protocol.
func parseProtocol(text string) (string, error) {
	switch p := strings.ToUpper(text); p {
	case "TCP", "UDP", "SCTP":
		return p, nil
	}
	return "", errors.New("--protocol " + strconv.Quote(text) + ": not one of tcp, udp, sctp")
}
