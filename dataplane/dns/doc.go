// Package dns is the cluster's DNS: CoreDNS as a library inside the control
// plane's process, with the Corefile that users know in the ConfigMap
// kube-system/coredns, behind the Service kube-system/kube-dns.
//
// What differs from CoreDNS in a pod, and why:
//   - its client is the control plane's own, so it needs no credentials and
//     no network to the API server;
//   - it listens on one address only (`bind` is added where the Corefile has
//     none): the control-plane node's network namespace is also that of its
//     hostNetwork pods. For the same reason `health` and `ready` open no port;
//     the process around it is what is watched;
//   - a changed ConfigMap is in force at once, not after `reload`'s interval,
//     and one that does not work leaves the last one in force and is reported
//     by an Event on the ConfigMap;
//   - without `forward`, names outside the cluster do not exist (NXDOMAIN)
//     instead of SERVFAIL and a line in the log for each;
//   - the zone has no NS record: upstream asks its own listen addresses for it;
//   - `loop` is left out: its answer to a loop is to end the process.
package dns
