// Package storage is the etcd of a control plane: an embedded member, alone or
// one of several (Replica), or the client of an existing etcd cluster.
//
// New checks the configuration and starts nothing. Run starts the embedded
// member, or connects, and blocks until its context ends; Client waits for it
// and returns the one client that everything in the process shares. So the
// caller can start etcd first, compose the API server meanwhile, and stop
// etcd last:
//
//	store, err := storage.New(storage.Config{Durable: cp.Durable})
//	go store.Run(storeCtx) // ends after the API server did
//	srv, err := server.New(ctx, server.Config{Storage: store, ...})
//
// The package knows keys and bytes only. What is in them is the API server's
// business.
package storage
