package runtime

import (
	"context"
	"encoding/hex"
	"fmt"

	"github.com/containerd/containerd/v2/core/leases"
	core "github.com/containerd/containerd/v2/core/sandbox"
	"github.com/containerd/containerd/v2/pkg/namespaces"
)

// sandboxIDSize is the number of bytes in CRI's ids, which are in hexadecimal.
const sandboxIDSize = 32

// adoptionLabel is on leases of images that are being adopted.
const adoptionLabel = "skiff.cluster/adopting"

// dropLeases removes, before anything is begun, what a node process that died
// in the middle left of leases: those of images that it was adopting, and those
// of sandboxes that are not on record. CRI makes a sandbox's lease, which never
// expires, before the record.
func dropLeases(ctx context.Context, manager leases.Manager, sandboxes core.Store) error {
	ctx = namespaces.WithNamespace(ctx, namespace)
	known, err := sandboxes.List(ctx)
	if err != nil {
		return fmt.Errorf("drop leases: list sandboxes: %w", err)
	}
	used := map[string]bool{}
	for _, sandbox := range known {
		used[sandbox.ID] = true
	}
	all, err := manager.List(ctx)
	if err != nil {
		return fmt.Errorf("drop leases: %w", err)
	}
	for _, lease := range all {
		_, adopting := lease.Labels[adoptionLabel]
		// Other leases have other names, and end by themselves.
		id, err := hex.DecodeString(lease.ID)
		if sandbox := err == nil && len(id) == sandboxIDSize; !adopting && (!sandbox || used[lease.ID]) {
			continue
		}
		if err := manager.Delete(ctx, lease); err != nil {
			return fmt.Errorf("drop lease %s: %w", lease.ID, err)
		}
	}
	return nil
}
