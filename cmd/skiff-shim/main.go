// Command skiff-shim is containerd's runc task service, one process a node:
// every container of the node joins it, so that a pod costs neither a shim
// process nor the runs of one. It is upstream's task service and upstream's
// shim frame; what differs is that it does not end with its last container,
// that it remembers how a container ended while nobody was connected, and that
// it runs runc only to create containers and to exec in them (see inProcess).
//
// It runs in three ways. `skiff-shim -namespace NS -id node` serves on the
// socket that it got as descriptor 3. `-info` and `delete` are containerd's
// calls of a shim binary by name; containerd finds it as
// containerd-shim-runc-v2.
package main

import (
	"context"

	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"

	"github.com/containerd/containerd/v2/plugins"
)

func main() {
	registry.Register(&plugin.Registration{
		Type:     plugins.TTRPCPlugin,
		ID:       "task",
		Requires: []plugin.Type{plugins.EventPlugin, plugins.InternalPlugin},
		InitFn:   newTaskService,
	})
	shim.RunShim(context.Background(), newManager(), func(c *shim.Config) {
		// The log goes to standard error, which is the node's log: there is
		// no containerd at the other end of a pipe.
		c.NoSetupLogger = true
	})
}
