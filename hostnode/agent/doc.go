// Package agent runs the node's kubelet: upstream's, whole, in the process
// that also runs containerd.
//
// It builds upstream's configuration from a NodeConfiguration, hands upstream
// its Dependencies and calls app.RunKubelet. Where upstream waits for time to
// pass, a seam of ours waits for the event instead; each seam is one file that
// says what upstream waits for, what we do instead and how we notice that
// upstream changed:
//
//	cloud/           the emulated cloud's CSI drivers, when first needed
//	stats/           cAdvisor: the declared capacity, usage read on demand
//	doors.go         requests wait for the API server instead of backing off
//	outage/          requests wait for an API server that restarts
//	node.go          the Node object, created by us before the kubelet looks
//	podsource.go     pods are watched as soon as the Node is seen
//	volumes.go       volumes are mounted when a pod asks
//	relist.go        exits and deletions are looked at when they happen
//	probes.go        probes of a fresh node start at once
//	reflection.go    the only place that touches unexported fields
//
// It never creates cgroups outside of its root, never talks to containerd
// other than through the CRI services it is given, and leaves the labels that
// a kubelet must not set to the control plane. `skiff-machine node` calls it.
package agent
