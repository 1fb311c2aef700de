package lb

import (
	"cmp"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// feed holds the parts of Services, EndpointSlices and Nodes that planning
// needs, as the API server last told. No whole object is kept.
type feed struct {
	client kubernetes.Interface
	// nodeName is the node whose Node is kept for self.
	nodeName string
	// reports says that Events may be written, which need UIDs.
	reports bool
	// wake gets a token when there is something to plan.
	wake chan struct{}

	// mu guards the fields below.
	mu       sync.Mutex
	services *index[*known]
	room     slab[known]
	names    texts
	// slices are those of services.
	slices *index[*slice]
	nodes  map[string]node
	// self is what Node answers.
	self *corev1.Node
	// planned is room for the slices of the one that is planned.
	planned []*slice
	// dirty are the services that changed since the last take.
	dirty map[*known]struct{}
	// allDirty: the nodes changed, which every service may depend on.
	allDirty bool
	// since is when the oldest change of those came.
	since time.Time
	// missing counts the kinds that were not listed yet.
	missing int
}

// known is what was told of one Service; it and its slices come in any order.
// It is there, and the same, for as long as anything is known of the Service
// or the maps may have anything of it.
type known struct {
	name types.NamespacedName
	// service is nil while there is none.
	service *service
	// slices is the first of them, by name.
	slices *slice
}

func (k *known) fullName() types.NamespacedName { return k.name }

func newFeed(client kubernetes.Interface, nodeName string) *feed {
	return &feed{
		client:   client,
		nodeName: nodeName,
		wake:     make(chan struct{}, 1),
		services: newIndex[*known](),
		slices:   newIndex[*slice](),
		nodes:    map[string]node{},
		dirty:    map[*known]struct{}{},
		missing:  3,
	}
}

// change is what take hands over.
type change struct {
	// since is when the oldest of it came.
	since time.Time
	// all says that everything is to be compared, not just services.
	all      bool
	services []*known
}

// take empties what is dirty; ok is false when nothing is, or while some kind
// was not listed yet.
func (f *feed) take() (c change, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.missing > 0 {
		return change{}, false
	}
	if !f.allDirty && len(f.dirty) == 0 {
		f.since = time.Time{}
		return change{}, false
	}
	c.all, c.since = f.allDirty, f.since
	f.since = time.Time{}
	if !c.all {
		c.services = byAge(maps.Keys(f.dirty), len(f.dirty))
	}
	f.allDirty = false
	clear(f.dirty)
	return c, true
}

// byAge are services, the oldest first: who came first keeps an address that
// two ask for. mu is held.
func byAge(services iter.Seq[*known], n int) []*known {
	all := slices.AppendSeq(make([]*known, 0, n), services)
	slices.SortFunc(all, func(a, b *known) int {
		if c := cmp.Compare(a.created(), b.created()); c != 0 {
			return c
		}
		return cmp.Or(cmp.Compare(a.name.Namespace, b.name.Namespace), cmp.Compare(a.name.Name, b.name.Name))
	})
	return all
}

// created is when the service was made; what is gone comes first.
func (k *known) created() int64 {
	if k.service == nil {
		return time.Time{}.Unix()
	}
	return k.service.created
}

// manyServices is from when on the garbage of a start is worth collecting at
// once: some megabytes, which a quiet process would keep for minutes.
const manyServices = 1000

func (f *feed) large() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.services.len() >= manyServices
}

// touch marks services for planning once more.
func (f *feed) touch(services ...*known) {
	f.mu.Lock()
	f.news()
	for _, k := range services {
		f.mark(k)
	}
	f.mu.Unlock()
	f.notify()
}

// touchAll marks all services for planning once more.
func (f *feed) touchAll() {
	f.mu.Lock()
	f.news()
	f.allDirty = true
	f.mu.Unlock()
	f.notify()
}

// mark notes that a service is to be planned once more; mu is held. Until all
// kinds were listed that goes without saying.
func (f *feed) mark(k *known) {
	if f.missing == 0 {
		f.dirty[k] = struct{}{}
	}
}

// news notes that a change has come; mu is held.
func (f *feed) news() {
	if f.since.IsZero() {
		f.since = time.Now()
	}
}

func (f *feed) notify() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// at is what is known of a service; mu is held.
func (f *feed) at(name types.NamespacedName) *known {
	k := f.services.get(name)
	if k == nil {
		name.Name = f.names.take(name.Name)
		k = &f.room.take(known{name: name})[0]
		f.services.put(k)
	}
	return k
}

// forget drops what says nothing (any more); mu is held. What is dirty may be
// in the maps.
func (f *feed) forget(k *known) {
	if _, dirty := f.dirty[k]; !dirty && k.service == nil && k.slices == nil && f.services.get(k.name) == k {
		f.services.drop(k.name)
	}
}

// settled is called when the maps are as change wanted them.
func (f *feed) settled(c change) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, k := range c.services {
		f.forget(k)
	}
	if c.all {
		for k := range f.services.all() {
			f.forget(k)
		}
	}
}

func (f *feed) putService(obj any) {
	read, ok := obj.(*readService)
	if !ok {
		read = f.readService(obj.(*corev1.Service))
	}
	s := read.service
	if s == nil {
		f.dropService(read.name)
		return
	}
	k := f.at(read.name)
	k.service = s
	f.mark(k)
}

func (f *feed) dropService(name types.NamespacedName) {
	if k := f.services.get(name); k != nil && k.service != nil {
		k.service = nil
		f.mark(k)
		f.forget(k)
	}
}

func (f *feed) knownServices() []types.NamespacedName {
	var out []types.NamespacedName
	for k := range f.services.all() {
		if k.service != nil {
			out = append(out, k.name)
		}
	}
	return out
}

func (f *feed) putSlice(obj any) {
	read, ok := obj.(*readSlice)
	if !ok {
		read = f.readSlice(obj.(*discoveryv1.EndpointSlice))
	}
	name, svc, s := read.name, read.of, read.slice
	if before := f.slices.get(name); before != nil && before.of.name != svc {
		f.dropSlice(name)
	}
	if s == nil {
		f.dropSlice(name)
		return
	}
	k := f.at(svc)
	s.of = k
	f.slices.put(s)
	k.put(s)
	f.mark(k)
}

func (f *feed) dropSlice(name types.NamespacedName) {
	s := f.slices.get(name)
	if s == nil {
		return
	}
	f.slices.drop(name)
	k := s.of
	k.cut(k.place(name.Name))
	f.mark(k)
	f.forget(k)
}

// place is what names a slice, or would.
func (k *known) place(name string) **slice {
	at := &k.slices
	for *at != nil && (*at).name < name {
		at = &(*at).next
	}
	return at
}

// put adds a slice, in place of one of its name.
func (k *known) put(s *slice) {
	at := k.place(s.name)
	if old := *at; old != nil && old.name == s.name {
		k.cut(at)
	}
	s.next = *at
	*at = s
}

// cut takes a slice out. It may share room with others: it keeps hold of
// nothing.
func (k *known) cut(at **slice) {
	old := *at
	*at = old.next
	old.of, old.next = nil, nil
}

// all are the slices, in order; it uses room.
func (k *known) all(room []*slice) []*slice {
	room = room[:0]
	for s := k.slices; s != nil; s = s.next {
		room = append(room, s)
	}
	return room
}

func (f *feed) knownSlices() []types.NamespacedName {
	var out []types.NamespacedName
	for s := range f.slices.all() {
		out = append(out, s.fullName())
	}
	return out
}

func (f *feed) putNode(obj any) {
	n := newNode(obj.(*corev1.Node))
	name := obj.(*corev1.Node).Name
	if name == f.nodeName {
		full := obj.(*corev1.Node)
		f.self = &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name, DeletionTimestamp: full.DeletionTimestamp},
			Spec:       corev1.NodeSpec{Taints: full.Spec.Taints},
		}
	}
	if have, ok := f.nodes[name]; ok && have.zone == n.zone && slices.Equal(have.addrs, n.addrs) {
		return
	}
	// Plans hold on to the map they were given.
	f.nodes = maps.Clone(f.nodes)
	f.nodes[name] = n
	f.allDirty = true
}

func (f *feed) dropNode(name types.NamespacedName) {
	if name.Name == f.nodeName {
		f.self = nil
	}
	if _, ok := f.nodes[name.Name]; ok {
		f.nodes = maps.Clone(f.nodes)
		delete(f.nodes, name.Name)
		f.allDirty = true
	}
}

// Node is this node's own Node, as far as load balancers ask about it; nil
// when there is none.
func (f *feed) Node() *corev1.Node {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.self
}

func (f *feed) knownNodes() []types.NamespacedName {
	var out []types.NamespacedName
	for n := range f.nodes {
		out = append(out, types.NamespacedName{Name: n})
	}
	return out
}
