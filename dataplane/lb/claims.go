package lb

import (
	"net/netip"

	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-k8s/skiff/dataplane/inet"
	"github.com/skiff-k8s/skiff/dataplane/lb/table"
)

// claims says whose every key is. Two Services may name the same external
// address and port: the first one has it, the other one waits.
type claims struct {
	owner map[packed]*claim
	of    map[*known]*claim
	// rooms is for the first claim of each Service that there was before us;
	// nil once the maps are filled.
	rooms *claimSlabs
	// waiting are the Services that wanted a key which another one had.
	waiting map[packed]map[*known]struct{}
}

// claim is what one Service has, since settle was called last for it.
type claim struct {
	by   *known
	keys []packed
}

// packed is a table.Key in little room: there may be ten thousands.
type packed struct {
	addr  [16]byte
	port  uint16
	proto inet.Protocol
	scope table.Scope
}

func pack(k table.Key) packed { return packed{k.Addr.As16(), k.Port, k.Proto, k.Scope} }

func (p packed) key() table.Key {
	return table.Key{Addr: netip.AddrFrom16(p.addr).Unmap(), Port: p.port, Proto: p.proto, Scope: p.scope}
}

func newClaims() *claims {
	return &claims{
		owner:   map[packed]*claim{},
		of:      map[*known]*claim{},
		rooms:   &claimSlabs{},
		waiting: map[packed]map[*known]struct{}{},
	}
}

// ownerOf is the Service that has a key; nil: none.
func (c *claims) ownerOf(k table.Key) *known {
	if o := c.owner[pack(k)]; o != nil {
		return o.by
	}
	return nil
}

// settle gives a Service the keys it wants. It returns those that it got,
// those that another one has (by owner), those it had and wants no more, and
// the Services that waited for these. It uses want up.
func (c *claims) settle(by *known, want []table.Frontend) (got []table.Frontend, taken map[table.Key]types.NamespacedName, gone []table.Key, freed []*known) {
	for _, waiters := range c.waiting {
		delete(waiters, by)
	}
	had, mine := c.of[by], c.rooms.take(by, len(want))
	got = want[:0]
	for _, f := range want {
		key := pack(f.Key)
		o := c.owner[key]
		switch {
		case o == mine: // named twice
			continue
		case o != nil && o != had:
			if taken == nil {
				taken = map[table.Key]types.NamespacedName{}
			}
			taken[f.Key] = o.by.name
			c.wait(key, by)
			continue
		}
		c.owner[key] = mine
		mine.keys = append(mine.keys, key)
		got = append(got, f)
	}
	if had != nil {
		gone, freed = c.free(had)
	}
	if len(mine.keys) == 0 {
		delete(c.of, by)
	} else {
		c.of[by] = mine
	}
	return got, taken, gone, freed
}

// free takes away the keys that still are of an old claim.
func (c *claims) free(had *claim) (gone []table.Key, freed []*known) {
	for _, key := range had.keys {
		if c.owner[key] != had {
			continue
		}
		gone = append(gone, key.key())
		delete(c.owner, key)
		for waiter := range c.waiting[key] {
			freed = append(freed, waiter)
		}
		delete(c.waiting, key)
	}
	return gone, freed
}

func (c *claims) wait(key packed, by *known) {
	if c.waiting[key] == nil {
		c.waiting[key] = map[*known]struct{}{}
	}
	c.waiting[key][by] = struct{}{}
}
