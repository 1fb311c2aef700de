package runtime

import (
	"context"
	"encoding/hex"
	"fmt"
	"regexp"

	"github.com/containerd/containerd/v2/core/leases"
	core "github.com/containerd/containerd/v2/core/sandbox"
	"github.com/containerd/containerd/v2/pkg/namespaces"
)

// sandboxIDSize is the number of bytes in CRI's ids, which are in hexadecimal.
const sandboxIDSize = 32

// ofOneCall matches the ids that containerd's client gives the leases which it
// holds for the length of a call (leases.WithRandomID).
var ofOneCall = regexp.MustCompile(`^[0-9]+-[A-Za-z0-9_-]{4}$`)

// dropLeases removes, before anything is begun, what a node process that died
// in the middle left of leases: those of calls, which would keep half-made
// snapshots and content for a day, and those of sandboxes that are not on
// record. CRI makes a sandbox's lease, which never expires, before the record.
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
		// Leases with other names are kept: somebody chose the name to use the
		// lease again.
		id, err := hex.DecodeString(lease.ID)
		sandbox := err == nil && len(id) == sandboxIDSize
		if !ofOneCall.MatchString(lease.ID) && (!sandbox || used[lease.ID]) {
			continue
		}
		if err := manager.Delete(ctx, lease); err != nil {
			return fmt.Errorf("drop lease %s: %w", lease.ID, err)
		}
	}
	return nil
}
