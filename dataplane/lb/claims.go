package lb

import (
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-k8s/skiff/dataplane/lb/table"
)

// claims says whose every key is. Two Services may name the same external
// address and port: the first one has it, the other one waits.
type claims struct {
	owner map[table.Key]types.NamespacedName
	keys  map[types.NamespacedName]map[table.Key]struct{}
	// waiting are the Services that wanted a key which another one had.
	waiting map[table.Key]map[types.NamespacedName]struct{}
}

func newClaims() *claims {
	return &claims{
		owner:   map[table.Key]types.NamespacedName{},
		keys:    map[types.NamespacedName]map[table.Key]struct{}{},
		waiting: map[table.Key]map[types.NamespacedName]struct{}{},
	}
}

// settle gives a Service the keys it wants. It returns those that it got,
// those that another one has (by owner), those it had and wants no more, and
// the Services that waited for these.
func (c *claims) settle(name types.NamespacedName, want []table.Frontend) (got []table.Frontend, taken map[table.Key]types.NamespacedName, gone []table.Key, freed []types.NamespacedName) {
	for _, waiters := range c.waiting {
		delete(waiters, name)
	}
	wanted := make(map[table.Key]struct{}, len(want))
	for _, f := range want {
		if _, twice := wanted[f.Key]; twice {
			continue
		}
		if o, has := c.owner[f.Key]; has && o != name {
			if taken == nil {
				taken = map[table.Key]types.NamespacedName{}
			}
			taken[f.Key] = o
			if c.waiting[f.Key] == nil {
				c.waiting[f.Key] = map[types.NamespacedName]struct{}{}
			}
			c.waiting[f.Key][name] = struct{}{}
			continue
		}
		wanted[f.Key] = struct{}{}
		c.owner[f.Key] = name
		got = append(got, f)
	}
	for k := range c.keys[name] {
		if _, still := wanted[k]; still {
			continue
		}
		gone = append(gone, k)
		delete(c.owner, k)
		for waiter := range c.waiting[k] {
			freed = append(freed, waiter)
		}
		delete(c.waiting, k)
	}
	if len(wanted) == 0 {
		delete(c.keys, name)
	} else {
		c.keys[name] = wanted
	}
	return got, taken, gone, freed
}
