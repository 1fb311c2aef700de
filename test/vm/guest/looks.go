package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
)

// looks is what must be the same after a reboot and after a power cut.
type looks struct {
	Kubeconfig, Certificates, Machines, Nodes, Pod, Claim, Services string
}

// look reads it of the living cluster.
func look() (looks, error) {
	var (
		l    looks
		errs []error
	)
	read := func(to *string, from func() (string, error)) {
		value, err := from()
		*to = value
		errs = append(errs, err)
	}
	kube := func(to *string, object, path string) {
		read(to, func() (string, error) { return get(object, path) })
	}
	read(&l.Kubeconfig, func() (string, error) {
		data, err := os.ReadFile("/root/.kube/config")
		return string(data), err
	})
	read(&l.Certificates, func() (string, error) {
		return output("sh", "-c", "cd /var/lib/skiff/clusters/skiff/pki && find . -type f | sort | xargs sha256sum")
	})
	read(&l.Machines, machines)
	kube(&l.Nodes, "nodes", "{range .items[*]}{.metadata.name} {.metadata.uid} {.status.addresses} {.spec.podCIDR};{end}")
	kube(&l.Pod, "pod/diary-0", "{.metadata.uid} {.spec.nodeName}")
	kube(&l.Claim, "pvc/data-diary-0", "{.metadata.uid} {.spec.volumeName} {.status.phase}")
	kube(&l.Services, "services", "{range .items[*]}{.metadata.name} {.metadata.uid} {.spec.clusterIP} {.spec.ports[*].nodePort};{end}")
	return l, errors.Join(errs...)
}

// machines is what `skiff get clusters` says, but for what is of one life.
func machines() (string, error) {
	out, err := skiff("get", "clusters", "-o", "json")
	if err != nil {
		return "", err
	}
	var infos []map[string]any
	if err := json.Unmarshal([]byte(out), &infos); err != nil {
		return "", err
	}
	for _, info := range infos {
		delete(info, "supervisorPID")
		list, _ := info["machines"].([]any)
		for _, m := range list {
			if m, ok := m.(map[string]any); ok {
				delete(m, "pid")
				delete(m, "started")
			}
		}
	}
	data, err := json.Marshal(infos)
	return string(data), err
}

// same compares, and names what differs.
func (l looks) same(now looks) error {
	var errs []error
	for _, f := range []struct{ name, was, is string }{
		{"kubeconfig", l.Kubeconfig, now.Kubeconfig},
		{"certificates", l.Certificates, now.Certificates},
		{"machines, addresses and ports", l.Machines, now.Machines},
		{"nodes", l.Nodes, now.Nodes},
		{"Pod", l.Pod, now.Pod},
		{"claim", l.Claim, now.Claim},
		{"Services", l.Services, now.Services},
	} {
		if f.was != f.is {
			errs = append(errs, fmt.Errorf("%s: was %s, is %s", f.name, f.was, f.is))
		}
	}
	return errors.Join(errs...)
}

// diary is what the pod wrote into its volume, as the pod reads it.
func diary() (string, error) {
	out, err := kubectl("exec", "diary-0", "--", "cat", "/data/diary")
	return strings.Join(strings.Fields(out), " "), err
}
