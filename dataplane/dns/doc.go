// Package dns is the cluster's DNS: CoreDNS as a library inside the control
// plane's process, with the Corefile that users know in the ConfigMap
// kube-system/coredns, behind the Service kube-system/kube-dns.
//
// What differs from CoreDNS in a pod, and why:
//   - its client is the control plane's own, so it needs no credentials and
//     no network to the API server;
//   - it listens on the node's own addresses only (`bind` is added where the
//     Corefile has none): the control-plane node's network namespace is also
//     that of its hostNetwork pods. For the same reason `prometheus :9153`
//     means those addresses, and `health` and `ready` open a port only if they
//     name its address; the process around it is what is watched;
//   - metrics are served by a server of this package, which shows CoreDNS's
//     and not the whole process's; if its port is in use, names are answered
//     all the same;
//   - a changed ConfigMap is in force at once, not after `reload`'s interval,
//     and one that does not work leaves the last one in force and is reported
//     by an Event on the ConfigMap;
//   - every key of the ConfigMap is a file in /etc/coredns, as if all of them
//     were mounted: `import`, `hosts` and `file` find them there;
//   - two of upstream's plugins are left out (see leftOut);
//   - without `forward`, or with one to a resolv.conf that names nobody, names
//     outside the cluster do not exist (NXDOMAIN) instead of SERVFAIL and a
//     line in the log for each;
//   - the zone has no NS record: upstream asks its own listen addresses for it;
//   - `loop` is left out: its answer to a loop is to end the process.
package dns
