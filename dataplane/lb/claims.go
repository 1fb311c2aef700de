package lb

import (
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-k8s/skiff/dataplane/lb/table"
)

// claims says whose every key is. Two Services may name the same external
// address and port: the first one has it, the other one waits.
type claims struct {
	owner map[table.Key]owned
	keys  map[types.NamespacedName]*claim
	// waiting are the Services that wanted a key which another one had.
	waiting map[table.Key]map[types.NamespacedName]struct{}
	// round numbers the calls of settle.
	round uint64
}

// claim is what one Service has.
type claim struct {
	name types.NamespacedName
	keys []table.Key
}

// owned is whose a key is since, or once more in, a round.
type owned struct {
	by    *claim
	round uint64
}

func newClaims() *claims {
	return &claims{
		owner:   map[table.Key]owned{},
		keys:    map[types.NamespacedName]*claim{},
		waiting: map[table.Key]map[types.NamespacedName]struct{}{},
	}
}

// ownerOf is the Service that has a key.
func (c *claims) ownerOf(k table.Key) (types.NamespacedName, bool) {
	o, ok := c.owner[k]
	if !ok {
		return types.NamespacedName{}, false
	}
	return o.by.name, true
}

// settle gives a Service the keys it wants. It returns those that it got,
// those that another one has (by owner), those it had and wants no more, and
// the Services that waited for these. It uses want up.
func (c *claims) settle(name types.NamespacedName, want []table.Frontend) (got []table.Frontend, taken map[table.Key]types.NamespacedName, gone []table.Key, freed []types.NamespacedName) {
	for _, waiters := range c.waiting {
		delete(waiters, name)
	}
	c.round++
	mine, has := c.keys[name]
	if !has {
		mine = &claim{name: name}
	}
	had := mine.keys
	mine.keys = make([]table.Key, 0, len(want))
	got = want[:0]
	for _, f := range want {
		o, has := c.owner[f.Key]
		switch {
		case has && o.by == mine && o.round == c.round: // named twice
			continue
		case has && o.by != mine:
			if taken == nil {
				taken = map[table.Key]types.NamespacedName{}
			}
			taken[f.Key] = o.by.name
			c.wait(f.Key, name)
			continue
		}
		c.owner[f.Key] = owned{mine, c.round}
		mine.keys = append(mine.keys, f.Key)
		got = append(got, f)
	}
	for _, k := range had {
		if c.owner[k].round == c.round {
			continue
		}
		gone = append(gone, k)
		delete(c.owner, k)
		for waiter := range c.waiting[k] {
			freed = append(freed, waiter)
		}
		delete(c.waiting, k)
	}
	switch {
	case len(mine.keys) == 0:
		delete(c.keys, name)
	case !has:
		c.keys[name] = mine
	}
	return got, taken, gone, freed
}

func (c *claims) wait(k table.Key, name types.NamespacedName) {
	if c.waiting[k] == nil {
		c.waiting[k] = map[types.NamespacedName]struct{}{}
	}
	c.waiting[k][name] = struct{}{}
}
