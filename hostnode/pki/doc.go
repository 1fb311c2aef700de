// Package pki makes and renews the certificates and keys of a cluster.
//
// A cluster has one CA for servers and clients, one CA for the aggregation
// layer's front proxy, one key pair that signs service-account tokens and one
// key that encrypts Secrets in etcd. All of it is ECDSA P-256 and lives in
// the cluster's directory; each machine gets only the files it may know.
// Ensure reads, compares and mends: what is valid stays as it is.
//
// Nothing here talks to the network or to Kubernetes.
package pki
