package lb

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/dataplane/features"
	"github.com/skiff-k8s/skiff/dataplane/lb/switchnat"
	"github.com/skiff-k8s/skiff/dataplane/lb/table"
)

// sockets are the socket programs of one node: loaded, and attached once
// attach has been called.
type sockets struct {
	objects sockObjects
	// constants are those that the programs were loaded with.
	constants *ebpf.Map
	cgroup    string
	pins      string
	// families are those of the services that the programs may meet.
	families []corev1.IPFamily
	// links keeps every link referenced: one that is not is closed by its
	// finalizer, which detaches the program.
	links []link.Link
}

// constantsMap is the section of variables that never change.
const constantsMap = ".rodata"

// origins are the maps in which sockets keep what they were translated to.
var origins = []string{sockMapLbPeers, sockMapLbRings}

// hook is one program and where it goes.
type hook struct {
	name   string
	attach ebpf.AttachType
	prog   **ebpf.Program // in sockets
	// families of the services that the program serves: sockets of IPv6 may
	// call IPv4's too.
	families []corev1.IPFamily
}

func (s *sockets) hooks() []hook {
	o := &s.objects
	four, six := []corev1.IPFamily{corev1.IPv4Protocol}, []corev1.IPFamily{corev1.IPv6Protocol}
	// What brings addresses back comes before what changes them.
	return []hook{
		{sockProgLbGetpeername4, ebpf.AttachCgroupInet4GetPeername, &o.LbGetpeername4, four},
		{sockProgLbGetpeername6, ebpf.AttachCgroupInet6GetPeername, &o.LbGetpeername6, families},
		{sockProgLbRecvmsg4, ebpf.AttachCGroupUDP4Recvmsg, &o.LbRecvmsg4, four},
		{sockProgLbRecvmsg6, ebpf.AttachCGroupUDP6Recvmsg, &o.LbRecvmsg6, families},
		{sockProgLbConnect4, ebpf.AttachCGroupInet4Connect, &o.LbConnect4, four},
		{sockProgLbConnect6, ebpf.AttachCGroupInet6Connect, &o.LbConnect6, families},
		{sockProgLbSendmsg4, ebpf.AttachCGroupUDP4Sendmsg, &o.LbSendmsg4, four},
		{sockProgLbSendmsg6, ebpf.AttachCGroupUDP6Sendmsg, &o.LbSendmsg6, six},
	}
}

// wanted are the hooks at which a service can be met.
func (s *sockets) wanted() []hook {
	return slices.DeleteFunc(s.hooks(), func(h hook) bool {
		return !slices.ContainsFunc(h.families, func(f corev1.IPFamily) bool { return slices.Contains(s.families, f) })
	})
}

// loadSockets loads the programs over the table's maps. netns is the cookie
// of the node's network namespace.
func loadSockets(t *table.Table, netns uint64, cgroup, pins string, families []corev1.IPFamily) (*sockets, error) {
	spec, err := loadSock()
	if err != nil {
		return nil, fmt.Errorf("read socket programs: %w", err)
	}
	if err := spec.Variables[sockVarLbNodeNetns].Set(netns); err != nil {
		return nil, fmt.Errorf("set the node's network namespace: %w", err)
	}
	if err := spec.Variables[sockVarLbSetsRetval].Set(features.Refusals() == nil); err != nil {
		return nil, fmt.Errorf("set how calls are refused: %w", err)
	}
	s := &sockets{cgroup: cgroup, pins: pins, families: families}
	if err := s.loadOrigins(spec); err != nil {
		return nil, fmt.Errorf("load maps of sockets: %w", err)
	}
	if err := s.loadPrograms(spec, t); err != nil {
		return nil, errors.Join(fmt.Errorf("load socket programs: %w", err), s.close())
	}
	return s, nil
}

// loadOrigins makes or finds the maps of sockets, and makes the constants.
func (s *sockets) loadOrigins(spec *ebpf.CollectionSpec) error {
	var opts ebpf.CollectionOptions
	if s.pins != "" {
		// Sockets that live on are known by what is stored with them.
		for _, name := range origins {
			spec.Maps[name].Pinning = ebpf.PinByName
		}
		opts.Maps.PinPath = s.pins
	}
	var maps struct {
		Peers     *ebpf.Map `ebpf:"lb_peers"`
		Rings     *ebpf.Map `ebpf:"lb_rings"`
		Constants *ebpf.Map `ebpf:".rodata"`
	}
	err := spec.LoadAndAssign(&maps, &opts)
	if errors.Is(err, ebpf.ErrMapIncompatible) && s.pins != "" {
		for _, name := range origins {
			if err := removePin(filepath.Join(s.pins, name)); err != nil {
				return err
			}
		}
		err = spec.LoadAndAssign(&maps, &opts)
	}
	s.objects.LbPeers, s.objects.LbRings, s.constants = maps.Peers, maps.Rings, maps.Constants
	return err
}

// loadPrograms loads all programs at the same time: what it costs is the
// kernel's verifier, two milliseconds for each program that looks services up.
func (s *sockets) loadPrograms(spec *ebpf.CollectionSpec, t *table.Table) error {
	given := t.Maps()
	given[sockMapLbPeers], given[sockMapLbRings], given[constantsMap] = s.objects.LbPeers, s.objects.LbRings, s.constants
	var group errgroup.Group
	for _, h := range s.wanted() {
		group.Go(func() error { return h.load(spec.Programs[h.name], given) })
	}
	return group.Wait()
}

// load loads the hook's program over maps that there are.
func (h hook) load(spec *ebpf.ProgramSpec, given map[string]*ebpf.Map) (err error) {
	for i := range spec.Instructions {
		ins := &spec.Instructions[i]
		if m := given[ins.Reference()]; m != nil && ins.IsLoadFromMap() {
			if err := ins.AssociateMap(m); err != nil {
				return fmt.Errorf("%s: map %s: %w", h.name, ins.Reference(), err)
			}
		}
	}
	if *h.prog, err = ebpf.NewProgram(spec); err != nil {
		return fmt.Errorf("%s: %w", h.name, err)
	}
	return nil
}

// attached says whether another process's programs are pinned.
func (s *sockets) attached() bool {
	_, err := os.Stat(s.pin(sockProgLbConnect6)) // which serves all families
	return s.pins != "" && err == nil
}

func (s *sockets) pin(program string) string { return filepath.Join(s.pins, program+"_link") }

// attach puts every program at the machine's cgroup: a pinned link gets the
// new program without a moment without one, others are made and pinned.
func (s *sockets) attach() error {
	for _, h := range s.wanted() {
		l, err := s.attachOne(h)
		if err != nil {
			return fmt.Errorf("attach %s to %s: %w", h.name, s.cgroup, err)
		}
		s.links = append(s.links, l)
	}
	return nil
}

func (s *sockets) attachOne(h hook) (link.Link, error) {
	if s.pins != "" {
		l, err := link.LoadPinnedLink(s.pin(h.name), nil)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return nil, err
		default:
			if err = l.Update(*h.prog); err == nil {
				return l, nil
			}
			// The cgroup it was attached to is gone ("link has been
			// severed"): the pin holds nothing.
			if err := errors.Join(l.Close(), removePin(s.pin(h.name))); err != nil {
				return nil, err
			}
		}
	}
	l, err := link.AttachCgroup(link.CgroupOptions{Path: s.cgroup, Attach: h.attach, Program: *h.prog})
	if err != nil {
		return nil, err
	}
	if s.pins == "" {
		return l, nil
	}
	if err := l.Pin(s.pin(h.name)); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// close lets go of programs and links; what is pinned stays attached.
func (s *sockets) close() error {
	var errs []error
	for _, l := range s.links {
		errs = append(errs, l.Close())
	}
	return errors.Join(append(errs, s.constants.Close(), s.objects.Close())...)
}

// Unpin removes every pin of a Loader in dir, which detaches its programs.
// It succeeds when they are gone. Machines need no Unpin: their bpf file
// system goes with them.
func Unpin(dir string) error {
	s := sockets{pins: dir}
	errs := []error{table.Unpin(dir)}
	for _, name := range origins {
		errs = append(errs, removePin(filepath.Join(dir, name)))
	}
	for _, h := range s.hooks() {
		errs = append(errs, removePin(s.pin(h.name)))
	}
	errs = append(errs, switchnat.UnpinFlows(dir))
	uplink := uplinkPins(dir)
	return errors.Join(append(errs, switchnat.Unpin(uplink), removePin(uplink))...)
}

func removePin(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("unpin: %w", err)
	}
	return nil
}
