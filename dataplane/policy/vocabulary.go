package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/labels"
)

// vocabulary is what policies ask of other pods, counted by how often: keys of
// labels, names of ports on the way out, and ipBlocks of rules with such
// names. Pods of a namespace that answer all of it alike are one identity, so
// that a label that no policy mentions, as a ReplicaSet's hash, makes none.
type vocabulary struct {
	keys   map[string]int
	ports  map[namedPort]int
	blocks map[string]*countedBlock
}

type countedBlock struct {
	*block
	count int
}

func newVocabulary() vocabulary {
	return vocabulary{keys: map[string]int{}, ports: map[namedPort]int{}, blocks: map[string]*countedBlock{}}
}

// replace takes the words of one policy out and those of another in; either
// may be nil. It says whether there are others now.
func (v *vocabulary) replace(before, now *policy) bool {
	changed := map[string]int{}
	v.count(before, -1, changed)
	v.count(now, 1, changed)
	for _, d := range changed {
		if d != 0 {
			return true
		}
	}
	return false
}

// count adds by to all words of a policy and notes in changed which came (+1)
// or went (-1).
func (v *vocabulary) count(p *policy, by int, changed map[string]int) {
	if p == nil {
		return
	}
	note := func(before, after int, word string) {
		if (before == 0) != (after == 0) {
			changed[word] += by
		}
	}
	for d, rules := range p.rules {
		for _, r := range rules {
			for _, key := range r.keys() {
				before := v.keys[key]
				add(v.keys, key, by)
				note(before, before+by, "key "+key)
			}
			if Direction(d) != Egress || len(r.named) == 0 {
				continue
			}
			for _, name := range r.named {
				before := v.ports[name]
				add(v.ports, name, by)
				note(before, before+by, fmt.Sprint("port ", name))
			}
			for _, peer := range r.peers {
				if peer.block == nil {
					continue
				}
				c := v.blocks[peer.block.text]
				if c == nil {
					c = &countedBlock{block: peer.block}
					v.blocks[peer.block.text] = c
				}
				c.count += by
				note(c.count-by, c.count, "block "+peer.block.text)
				if c.count == 0 {
					delete(v.blocks, peer.block.text)
				}
			}
		}
	}
}

func add[K comparable](counts map[K]int, key K, by int) {
	counts[key] += by
	if counts[key] == 0 {
		delete(counts, key)
	}
}

// keys are those that the rule's selectors of pods name.
func (r *rule) keys() []string {
	var out []string
	for _, peer := range r.peers {
		if peer.pods == nil {
			continue
		}
		requirements, _ := peer.pods.Requirements()
		for _, q := range requirements {
			out = append(out, q.Key())
		}
	}
	return out
}

// labels are what of a set policies ask for.
func (v *vocabulary) labels(set map[string]string) labels.Set {
	out := labels.Set{}
	for key := range v.keys {
		if value, ok := set[key]; ok {
			out[key] = value
		}
	}
	return out
}

// resolve finds the ports among names.
func resolve(names map[namedPort]int, ports []Port) map[namedPort]uint16 {
	out := map[namedPort]uint16{}
	for _, p := range ports {
		name := namedPort{p.Name, p.Protocol}
		if _, asked := names[name]; !asked {
			continue
		}
		if _, first := out[name]; !first {
			out[name] = p.Number
		}
	}
	return out
}

// holding are the texts of the blocks that hold an address.
func (v *vocabulary) holding(addr netip.Addr) map[string]struct{} {
	out := map[string]struct{}{}
	for text, b := range v.blocks {
		if b.holds(netip.PrefixFrom(addr, addr.BitLen())) {
			out[text] = struct{}{}
		}
	}
	return out
}

// signature is an identity as text: the separator is in no name.
func signature(namespace string, set labels.Set, ports map[namedPort]uint16, blocks map[string]struct{}) string {
	var b strings.Builder
	b.WriteString(namespace)
	for _, key := range slices.Sorted(maps.Keys(set)) {
		b.WriteByte('\n')
		b.WriteString(key)
		b.WriteByte('=')
		b.WriteString(set[key])
	}
	for _, name := range sortedPorts(ports) {
		b.WriteByte('\n')
		writePort(&b, name, ports[name])
	}
	for _, text := range slices.Sorted(maps.Keys(blocks)) {
		b.WriteByte('\n')
		b.WriteString(text)
	}
	return b.String()
}

func sortedPorts(ports map[namedPort]uint16) []namedPort {
	return slices.SortedFunc(maps.Keys(ports), func(a, b namedPort) int {
		if a.name != b.name {
			return strings.Compare(a.name, b.name)
		}
		return int(a.protocol) - int(b.protocol)
	})
}

func writePort(b *strings.Builder, name namedPort, number uint16) {
	fmt.Fprintf(b, "%s/%d:%d ", name.name, name.protocol, number)
}
