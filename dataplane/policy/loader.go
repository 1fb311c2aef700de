package policy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// Config is what a Loader needs.
type Config struct {
	// NodeName is this node's name.
	NodeName string
	// PinDir is a directory of a bpf file system for this Loader alone; it is
	// made. With an empty PinDir programs and maps go with the process.
	PinDir string
	// Client may list and watch NetworkPolicies, Pods, Namespaces and
	// EndpointSlices, and create Events.
	Client kubernetes.Interface
	// Log; default slog.Default().
	Log *slog.Logger
}

const (
	// retryAfter is how long what could not be written waits: a full map has
	// room again when something else has gone.
	retryAfter = time.Second
	// admitPatience bounds how long a pod waits for the watches to tell of
	// it. They are milliseconds behind, or seconds while an API server is
	// away, and then the kubelet tries again.
	admitPatience = 3 * time.Second
)

// errUnsupported says that the kernel has no programs for netfilter.
var errUnsupported = errors.New("this kernel has no BPF programs for netfilter (Linux 6.4 has): NetworkPolicies are not enforced")

// Loader enforces NetworkPolicies for the pods of one node.
type Loader struct {
	cfg Config
	log *slog.Logger
	// wake gets a token when there is something to do.
	wake chan struct{}

	// mu guards the fields below.
	mu     sync.Mutex
	report *reporter
	model  *model
	// listed: the policies of the first list are in the model.
	listed bool
	// peers is nil while there are no policies.
	peers *peersWatch
	// kernel is nil until all is listed and there is an isolated pod, and
	// while there are no policies.
	kernel *kernel
	// resting: there are no policies, and nothing to take away.
	resting bool
	// enforcing: the maps hold what the API server told.
	enforcing bool
	// trouble is why policies are not enforced.
	trouble error
	// changed is closed, and replaced, when one of these changes.
	changed chan struct{}
	// dropped is what was counted by programs that are gone.
	dropped Drops
}

// New checks the configuration. The caller is in the node's network
// namespace, and so is Run.
func New(cfg Config) (*Loader, error) {
	if cfg.NodeName == "" || cfg.Client == nil {
		return nil, fmt.Errorf("policy loader: node name and client are required")
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	return &Loader{
		cfg: cfg, log: cfg.Log, model: newModel(cfg.NodeName),
		wake: make(chan struct{}, 1), changed: make(chan struct{}),
	}, nil
}

// Run enforces policies until ctx ends. What is pinned stays in force then,
// and while the API server is away.
func (l *Loader) Run(ctx context.Context) error {
	l.mu.Lock()
	l.report = newReporter(ctx, l.cfg.Client, l.cfg.NodeName)
	l.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		l.watchPolicies(ctx)
	}()
	defer func() {
		cancel()
		<-watching
		l.report.close()
	}()
	var retry <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return l.stop()
		case <-l.wake:
		case <-retry:
		}
		again, left := l.step(ctx)
		if left != nil {
			// They wait for mu to tell what nobody wants to know any more.
			<-left.done
		}
		if retry = nil; again {
			retry = time.After(retryAfter)
		}
	}
}

// stop lets go of everything; what is pinned stays in force.
func (l *Loader) stop() error {
	l.mu.Lock()
	left := l.peers
	l.peers, l.enforcing = nil, false
	var err error
	if l.kernel != nil {
		err = l.kernel.close()
		l.kernel = nil
	}
	l.mu.Unlock()
	if left != nil {
		left.cancel()
		<-left.done
	}
	return err
}

// change takes in what a watch tells. What comes from a watch of peers that
// was ended is too late.
func (l *Loader) change(from *peersWatch, f func()) {
	l.mu.Lock()
	if from == nil || from == l.peers {
		f()
		l.signal()
	}
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// signal tells those who wait in Admit to look again.
func (l *Loader) signal() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// step brings the kernel to what the model says. It says whether to try again
// later, and returns a watch that has been told to end.
func (l *Loader) step(ctx context.Context) (again bool, left *peersWatch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.signal()
	switch {
	case !l.listed:
		return false, nil
	case len(l.model.policies) == 0:
		left = l.peers
		if left != nil {
			left.cancel()
		}
		if err := l.rest(); err != nil {
			l.log.Error("policy programs not removed", "err", err)
			return true, left
		}
		return false, left
	case l.peers == nil:
		l.resting = false
		l.peers = l.startPeers(ctx)
		return false, nil
	case l.peers.missing > 0:
		return false, nil
	}
	return l.enforce(), nil
}

// rest takes away all that costs something: there are no policies.
func (l *Loader) rest() error {
	if l.resting {
		return nil
	}
	attached := l.model.attached
	l.model = newModel(l.cfg.NodeName)
	l.model.attached = attached
	l.peers, l.enforcing, l.trouble = nil, false, nil
	var errs []error
	if l.kernel != nil {
		l.keepDrops()
		errs = append(errs, l.kernel.detach(), l.kernel.close())
		l.kernel = nil
	}
	if l.cfg.PinDir != "" {
		// Also those of an earlier process.
		errs = append(errs, Unpin(l.cfg.PinDir))
	}
	err := errors.Join(errs...)
	l.resting = err == nil
	return err
}

// enforce writes what the model says. It says whether to try again later.
func (l *Loader) enforce() (again bool) {
	before := l.trouble
	l.trouble = l.program()
	if l.trouble == nil {
		l.enforcing = true
		return l.model.unwritten()
	}
	l.enforcing = false
	for _, p := range l.model.policies {
		l.report.problem(p, ReasonNotEnforced, l.trouble.Error())
	}
	if before == nil || before.Error() != l.trouble.Error() {
		l.log.Error("network policies not enforced", "err", l.trouble)
	}
	return !errors.Is(l.trouble, errUnsupported)
}

// program writes what changed, and has the programs attached while there is
// an isolated pod. They are loaded when there is the first one.
func (l *Loader) program() error {
	if l.kernel == nil {
		// To know whether there is one.
		l.model.commit()
		if l.model.isolated() == 0 {
			return removeSets(l.cfg.PinDir, 0)
		}
		if err := features.HaveProgramType(ebpf.Netfilter); errors.Is(err, ebpf.ErrNotSupported) {
			return errUnsupported
		}
		start := time.Now()
		k, err := loadKernel(l.cfg.PinDir)
		if err != nil {
			return err
		}
		l.kernel = k
		l.model.refill()
		l.log.Info("network policies are enforced", "policies", len(l.model.policies), "loaded", time.Since(start))
	}
	l.write()
	if l.model.isolated() == 0 {
		if err := l.kernel.detach(); err != nil {
			return err
		}
	} else if err := l.kernel.attach(); err != nil {
		return err
	}
	// Now, and not before, an earlier process's may go.
	return removeSets(l.cfg.PinDir, l.kernel.number)
}

// write commits the model to the maps and reports what does not fit.
func (l *Loader) write() {
	f := l.kernel.table.apply(l.model.commit())
	for _, err := range f.stale {
		l.log.Error("policy entry not removed", "err", err)
	}
	lacking := l.model.failed(f)
	for p, err := range lacking {
		l.log.Error("network policy not programmed", "policy", p.name, "err", err)
		l.report.problem(p, ReasonNotProgrammed, err.Error())
	}
	l.report.well(l.model.policies, lacking)
}

// Admission is a pod of this node that is about to start.
type Admission struct {
	Namespace, Name string
	// UID is the Pod's as the kubelet knows it.
	UID   string
	Addrs []netip.Addr
}

func (a Admission) name() types.NamespacedName {
	return types.NamespacedName{Namespace: a.Namespace, Name: a.Name}
}

// Admit returns when the policies of a pod that is about to start are in
// force. Without policies it returns at once; else it waits, if need be, for
// the watches to tell of the pod, and fails if they do not in time.
func (l *Loader) Admit(ctx context.Context, a Admission) error {
	ctx, cancel := context.WithTimeout(ctx, admitPatience)
	defer cancel()
	for {
		done, changed, err := l.admit(a)
		if done {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("network policies of pod %s/%s: %s", a.Namespace, a.Name, l.behind())
		}
	}
}

// admit tries once. Else something has to change first.
func (l *Loader) admit(a Admission) (done bool, changed <-chan struct{}, _ error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	known := l.model.attach(a.name(), types.UID(a.UID), a.Addrs)
	switch {
	case l.listed && len(l.model.policies) == 0, errors.Is(l.trouble, errUnsupported):
		return true, nil, nil
	case !l.enforcing || !known:
		return false, l.changed, nil
	}
	if err := l.program(); err != nil {
		return true, nil, err
	}
	for _, addr := range a.Addrs {
		if !l.model.written(addr) {
			return true, nil, fmt.Errorf("network policies of pod %s/%s: %s has no room in the node's maps", a.Namespace, a.Name, addr)
		}
	}
	return true, nil, nil
}

// behind says what Admit waited for in vain.
func (l *Loader) behind() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.trouble != nil:
		return l.trouble.Error()
	case !l.listed:
		return fmt.Sprintf("the API server did not list NetworkPolicies within %s", admitPatience)
	case !l.enforcing:
		return fmt.Sprintf("the API server did not list Pods and Namespaces within %s", admitPatience)
	}
	return fmt.Sprintf("the API server did not tell of the Pod within %s", admitPatience)
}

// Dismiss forgets the pod of addresses that are nobody's again.
func (l *Loader) Dismiss(addrs []netip.Addr) {
	l.change(nil, func() { l.model.detach(addrs) })
}

// Drops counts the packets that policies have dropped.
func (l *Loader) Drops() (Drops, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.kernel == nil {
		return l.dropped, nil
	}
	d, err := l.kernel.drops()
	return d.plus(l.dropped), err
}

func (l *Loader) keepDrops() {
	if d, err := l.kernel.drops(); err == nil {
		l.dropped = l.dropped.plus(d)
	}
}

func (d Drops) plus(o Drops) Drops {
	return Drops{d.Egress + o.Egress, d.Ingress + o.Ingress, d.Malformed + o.Malformed}
}
