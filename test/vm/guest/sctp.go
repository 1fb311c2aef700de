package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/skiff-k8s/skiff/dataplane/features"
	"github.com/skiff-k8s/skiff/test/sctp"
)

// The guest program is also what speaks SCTP in Pods: no image of the samples
// does.
const (
	serveSCTP   = "sctp-serve"   // address
	callSCTP    = "sctp-call"    // address
	silenceSCTP = "sctp-silence" // address
)

const (
	// answer is how long a call may take: packets that are lost are sent again
	// after 3, 6, 12, 24 and 48 seconds.
	answer = 2 * time.Minute
	// silence is how long nobody answers before that is taken for a policy's
	// doing.
	silence = time.Minute
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
		hello, back, err := sctp.Call(addr, payload, answer)
		if err == nil && !bytes.Equal(back, payload) {
			err = fmt.Errorf("%d bytes came back, and not those that were sent", len(back))
		}
		if err != nil {
			return err
		}
		fmt.Println(hello)
		return nil
	case silenceSCTP:
		hello, _, err := sctp.Call(addr, nil, silence)
		switch {
		case err == nil:
			return fmt.Errorf("%s: %q answers", addr, hello)
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		}
		return err
	}
	return fmt.Errorf("unknown verb %q: want %s, %s or %s", verb, serveSCTP, callSCTP, silenceSCTP)
}

// sctpAssociations runs the test of the node's programs that skips itself on
// kernels without SCTP, such as that of this machine's host may be.
func sctpAssociations() (string, error) {
	if err := command("modprobe", "sctp"); err != nil {
		return "", err
	}
	err := passes("nodenat.test", "TestAssociationsOfTheKernel")
	return "cluster, balancer and node addresses of IPv4 and IPv6; Pods, nodes and host; 64 KiB each way", err
}

// sctpService calls a Service of SCTP, whose port is not its Pod's, from all
// sides, and the Pod's host port.
func sctpService() (string, error) {
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
	return "cluster address, node ports and host port answer the host, a Pod, the node and the Pod itself", errors.Join(errs...)
}

// sctpPolicy lets one of two Pods call the phone of sctpService, or expects to
// be told that the kernel cannot. The phone goes with it.
func sctpPolicy() (string, error) {
	cluster, err := get("service/phones", "{.spec.clusterIP}:5000")
	if err != nil {
		return "", err
	}
	if err := apply(friends); err != nil {
		return "", err
	}
	if _, err := kubectl("wait", "pod/stranger", "--for=condition=Ready", "--timeout="+patience.String()); err != nil {
		return "", err
	}
	seen := "who is named by the policy is answered, who is not gets no answer"
	if missing := features.Policies(); missing != nil {
		seen = missing.Error() + "; an Event says so"
		err = notEnforced("friends")
	} else {
		err = until(func() error { return command("kubectl", "exec", "stranger", "--", "/guest", silenceSCTP, cluster) })
	}
	if err != nil {
		return "", err
	}
	if err := answers("kubectl", "exec", "caller", "--", "/guest", callSCTP, cluster); err != nil {
		return "", err
	}
	if _, err := kubectl("delete", "networkpolicy", "friends"); err != nil {
		return "", err
	}
	// Or it was something else that kept the answer away.
	if err := until(func() error { return answers("kubectl", "exec", "stranger", "--", "/guest", callSCTP, cluster) }); err != nil {
		return "", err
	}
	_, err = kubectl("delete", "service/phones", "pod/phone", "pod/caller", "pod/node-caller", "pod/stranger")
	return seen, err
}

// answers says whether the phone does.
func answers(name string, args ...string) error {
	said, err := output(name, args...)
	if err == nil && strings.TrimSpace(said) != "phone" {
		err = fmt.Errorf("%s: %q answers, want the Pod phone", strings.Join(args, " "), said)
	}
	return err
}
