// Package server composes upstream's API server in this process: every
// built-in group, CRDs and aggregation, all of upstream's default admission
// plugins and NodeRestriction, the Node and RBAC authorizers, priority and
// fairness, audit, encryption at rest. The verdicts are upstream's; what is
// ours is how it starts, waits and talks to itself.
//
// The caller opens the listeners before anything else, so that early clients
// queue instead of being refused, starts storage.Storage, and then:
//
//	release := server.HoldGC() // first in main
//	srv, err := server.New(ctx, server.Config{
//		ControlPlane: cp,
//		Listeners:    []net.Listener{machine, host},
//		Storage:      store,
//	})
//	go srv.Run(ctx) // blocks until the graceful shutdown is over
//	cfg := srv.LoopbackClientConfig() // usable as soon as Run is running
//	<-srv.Ready()   // /readyz passes, with every check of upstream's
//	release()
//
// A process runs at most one Server: upstream keeps feature gates, metrics and
// schemes in globals.
package server
