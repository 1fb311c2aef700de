// Command dataplane measures how Services are served: pod to pod directly, by
// skiff's loader and programs, and by kube-proxy in its nftables and iptables
// modes, all in one run, in turn, on equal nodes with equal cables (package
// arena) and the same API server (package world). It writes dataplane.json
// and dataplane.md: figures with n and spread, never a verdict.
//
//	dataplane [-short] [-services 1,1000,10000] [-out _output/bench] [-programs _output/bench/bin]
//
// A connection is socket, connect, one byte each way and a reset, client and
// server on one core, so that a figure is the work and not the wake-up of
// another core; streams have a core for each end. Every round measures every
// subject; ratios are of the same round. While connections are timed the
// agents are frozen: what serves them is in the kernel.
package main
