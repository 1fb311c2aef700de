// Package seed holds the objects that every API server of this release makes
// in an empty etcd and that are the same in every cluster: roles, bindings,
// priority classes, flow schemas, system namespaces, built-in APIServices.
// Written in one transaction they take a millisecond; through the API they are
// half of a cold start.
//
// The objects were recorded from a server that made them through the API, with
// placeholders for what is a cluster's own: UIDs and times. A test makes them
// again and compares (`go test ./test/apiserver/apiservertest -run Seed
// -update` records). The server still reconciles all of them at every start,
// as upstream does: what the seed lacks is made, so it can be old, but not
// wrong.
package seed
