// Package etcdtest runs an etcd of three members with TLS in the test program,
// as a team has one, on one address.
package etcdtest
