package lb

import (
	"net/netip"

	"github.com/skiff-k8s/skiff/dataplane/lb/table"
)

// identityOf picks the first address of each family.
func identityOf(addrs []netip.Addr) table.Identity {
	var id table.Identity
	for _, a := range addrs {
		switch {
		case a.Is4() && !id.V4.IsValid():
			id.V4 = a
		case !a.Is4() && !id.V6.IsValid():
			id.V6 = a
		}
	}
	return id
}
