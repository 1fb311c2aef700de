// Package election has one of several control planes run the scheduler and the
// controllers: by upstream's own leases, kube-system/kube-scheduler and
// kube-controller-manager, and its leaderelection package.
//
// What is added is the end of a holder's process, when somebody is told of it
// (Gone): then its lease is given back as it would have done itself, and is
// asked for at once, seconds before it would expire.
package election
