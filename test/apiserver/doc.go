// Command apiserver runs etcd, the API server and, with -scheduler, the
// scheduler of skiff on loopback, for tests of controllers and of the API
// server itself: real storage, real admission, fresh certificates, no nodes.
//
// It prints the path of an admin kubeconfig as its first line when /readyz
// passes, and stops on SIGTERM or SIGINT, with -stop-on-stdin also when its
// standard input ends: so it cannot outlive the test that started it. All
// files are below -dir, which it never removes; started again on the same
// directory it is the same cluster.
package main
