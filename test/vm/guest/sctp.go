package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/skiff-k8s/skiff/test/sctp"
)

// The guest program is also what speaks SCTP in Pods: no image of the samples
// does.
const (
	serveSCTP = "sctp-serve" // address
	callSCTP  = "sctp-call"  // address
)

// speak is the program's work in a Pod.
func speak(verb, address string) error {
	addr, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	switch verb {
	case serveSCTP:
		name, err := os.Hostname()
		if err != nil {
			return err
		}
		ended, err := sctp.Serve(addr, nil, func(netip.Addr) string { return name })
		if err != nil {
			return err
		}
		<-ended
		return nil
	case callSCTP:
		payload := bytes.Repeat([]byte("0123456789abcdef"), 1<<6)
		hello, back, err := sctp.Call(addr, payload, 5*time.Minute)
		if err == nil && !bytes.Equal(back, payload) {
			err = fmt.Errorf("%d bytes came back, and not those that were sent", len(back))
		}
		if err != nil {
			return err
		}
		fmt.Println(hello)
		return nil
	}
	return fmt.Errorf("unknown verb %q: want %s or %s", verb, serveSCTP, callSCTP)
}

// sctpService calls a Service of SCTP, whose port is not its Pod's, from all
// sides, and the Pod's host port.
func sctpService() (string, error) {
	if err := command("modprobe", "sctp"); err != nil {
		return "", err
	}
	if err := apply(phones); err != nil {
		return "", err
	}
	if _, err := kubectl("wait", "pod/phone", "pod/caller", "pod/node-caller", "--for=condition=Ready", "--timeout="+patience.String()); err != nil {
		return "", err
	}
	cluster, err := get("service/phones", "{.spec.clusterIP}:5000")
	if err != nil {
		return "", err
	}
	nodePort, err := get("service/phones", "{.spec.ports[0].nodePort}")
	if err != nil {
		return "", err
	}
	nodes, err := get("nodes", `{.items[*].status.addresses[?(@.type=="InternalIP")].address}`)
	if err != nil {
		return "", err
	}
	worker, err := get("node/skiff-worker", `{.status.addresses[?(@.type=="InternalIP")].address}`)
	if err != nil {
		return "", err
	}
	called := []string{cluster, worker + ":7001"}
	for node := range strings.FieldsSeq(nodes) {
		called = append(called, node+":"+nodePort)
	}
	// The first call may come before the endpoint is known.
	if err := until(func() error { return answers(here+"/guest", callSCTP, cluster) }); err != nil {
		return "", err
	}
	var errs []error
	for _, addr := range called {
		errs = append(errs, answers(here+"/guest", callSCTP, addr),
			answers("kubectl", "exec", "caller", "--", "/guest", callSCTP, addr),
			answers("kubectl", "exec", "phone", "--", "/guest", callSCTP, addr),
			answers("kubectl", "exec", "node-caller", "--", "/guest", callSCTP, addr))
	}
	_, err = kubectl("delete", "service/phones", "pod/phone", "pod/caller", "pod/node-caller")
	return "cluster address, node ports and host port answer the host, a Pod, the node and the Pod itself", errors.Join(append(errs, err)...)
}

// answers says whether the phone does.
func answers(name string, args ...string) error {
	said, err := output(name, args...)
	if err == nil && strings.TrimSpace(said) != "phone" {
		err = fmt.Errorf("%s: %q answers, want the Pod phone", strings.Join(args, " "), said)
	}
	return err
}
