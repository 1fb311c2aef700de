package lb

import (
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/skiff-k8s/skiff/dataplane/inet"
	"github.com/skiff-k8s/skiff/dataplane/lb/table"
)

// stale ends the connected UDP sockets of a node whose backend left: they
// would send to nobody for ever. It loads its programs when it first has to.
type stale struct {
	peers   *ebpf.Map
	log     *slog.Logger
	objects staleObjects
	loaded  bool
	// missing: this kernel cannot (before 6.5); said once.
	missing bool
}

// end ends the sockets that are with a backend in gone, in every network
// namespace that a process here is in, and says how many that were.
func (s *stale) end(gone []table.Departure) (int, error) {
	var dead []staleLbDead
	for _, d := range gone {
		if d.Proto == inet.UDP {
			dead = append(dead, deadOf(d))
		}
	}
	if len(dead) == 0 || !s.load() {
		return 0, nil
	}
	for _, k := range dead {
		var present uint8
		if err := s.objects.LbDeadBackends.Update(&k, &present, ebpf.UpdateAny); err != nil {
			return 0, fmt.Errorf("name stale backends: %w", err)
		}
	}
	n, err := s.sweep()
	for _, k := range dead {
		if del := s.objects.LbDeadBackends.Delete(&k); del != nil {
			err = errors.Join(err, fmt.Errorf("forget stale backends: %w", del))
		}
	}
	return n, err
}

func deadOf(d table.Departure) staleLbDead {
	raw := table.RawBackend(d.Backend)
	k := staleLbDead{Group: d.Group}
	k.Backend.Addr.W, k.Backend.PortBe = raw.Addr, raw.Port
	return k
}

// load says whether the programs are there.
func (s *stale) load() bool {
	if s.loaded || s.missing {
		return s.loaded
	}
	spec, err := loadStale()
	if err == nil {
		err = spec.LoadAndAssign(&s.objects, &ebpf.CollectionOptions{MapReplacements: map[string]*ebpf.Map{sockMapLbPeers: s.peers}})
	}
	if err != nil {
		s.missing = true
		s.log.Info("connected UDP sockets stay with backends that left: this kernel cannot end them (6.5 can)", "err", err)
		return false
	}
	s.loaded = true
	return true
}

// sweep ends what is stale. Mostly nothing is: one look tells.
func (s *stale) sweep() (int, error) {
	found, err := read(s.objects.LbStaleFound)
	if err != nil {
		return 0, err
	}
	if err := iterate(link.IterOptions{Program: s.objects.LbFindStale, Map: s.peers}); err != nil {
		return 0, fmt.Errorf("find stale sockets: %w", err)
	}
	now, err := read(s.objects.LbStaleFound)
	if err != nil || now == found {
		return 0, err
	}
	before, err := read(s.objects.LbStaleEnded)
	if err != nil {
		return 0, err
	}
	if err := inEachNetns(func() error { return iterate(link.IterOptions{Program: s.objects.LbEndStale}) }); err != nil {
		return 0, fmt.Errorf("end stale sockets: %w", err)
	}
	after, err := read(s.objects.LbStaleEnded)
	return int(after - before), err
}

func (s *stale) close() error {
	if !s.loaded {
		return nil
	}
	s.loaded = false
	return s.objects.Close()
}

func read(v *ebpf.Variable) (uint64, error) {
	var n uint64
	if err := v.Get(&n); err != nil {
		return 0, fmt.Errorf("count stale sockets: %w", err)
	}
	return n, nil
}

// iterate runs an iterator in the calling thread's network namespace.
func iterate(opts link.IterOptions) error {
	it, err := link.AttachIter(opts)
	if err != nil {
		return err
	}
	defer it.Close()
	r, err := it.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(io.Discard, r)
	return err
}
