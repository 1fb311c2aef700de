package agent

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/kubelet"
	"k8s.io/kubernetes/pkg/kubelet/volumemanager"
	"k8s.io/kubernetes/pkg/kubelet/volumemanager/populator"
	"k8s.io/kubernetes/pkg/kubelet/volumemanager/reconciler"
	volumeutil "k8s.io/kubernetes/pkg/volume/util"
)

// Upstream's volume manager has two loops, one that lists the volumes that
// pods want and one that mounts and unmounts, with pauses of 100 ms; a pod
// looks every 300 ms whether they are done. The loops are upstream's here too,
// but run as long as a pod waits without pauses, and hardly at all when
// nobody does; the pod looks every 2 ms.
//
// Upstream changed when one of the fields that eagerVolumes needs is gone:
// then a start takes up to half a second longer, and nothing else.

const (
	// volumePoll is the pause between two passes, and between two looks, while
	// a pod waits: mounting a Secret takes about as long.
	volumePoll = 2 * time.Millisecond
	// volumePatience is how long a pod looks often; afterwards it waits as
	// upstream does, which also finds and words the errors.
	volumePatience = time.Second
	// upstreamPause is upstream's own pause. It applies while a pod waits
	// longer, and for volumeTail after the last one: devices are detached then.
	upstreamPause = 100 * time.Millisecond
	volumeTail    = 5 * time.Second
	// idlePause is the pause when nobody waits.
	idlePause = time.Second
)

// eagerVolumes makes upstream's volume manager, inside k, run when a pod waits.
func eagerVolumes(k *kubelet.Kubelet) error {
	manager, err := unexported[volumemanager.VolumeManager](k, "volumeManager")
	if err != nil {
		return err
	}
	eager, err := newEagerVolumeManager(*manager)
	if err != nil {
		return err
	}
	*manager = eager
	return nil
}

// eagerVolumeManager is upstream's volume manager with a pace.
type eagerVolumeManager struct {
	volumemanager.VolumeManager
	pace *pace
}

func newEagerVolumeManager(upstream volumemanager.VolumeManager) (*eagerVolumeManager, error) {
	listLoop, err := unexported[populator.DesiredStateOfWorldPopulator](upstream, "desiredStateOfWorldPopulator")
	if err != nil {
		return nil, err
	}
	listPause, err := unexported[time.Duration](*listLoop, "loopSleepDuration")
	if err != nil {
		return nil, err
	}
	pods, err := unexported[populator.PodManager](*listLoop, "podManager")
	if err != nil {
		return nil, err
	}
	mountLoop, err := unexported[reconciler.Reconciler](upstream, "reconciler")
	if err != nil {
		return nil, err
	}
	mountPause, err := unexported[time.Duration](*mountLoop, "loopSleepDuration")
	if err != nil {
		return nil, err
	}
	listed, err := unexported[func() bool](*mountLoop, "populatorHasAddedPods")
	if err != nil {
		return nil, err
	}
	if *listPause != upstreamPause || *mountPause != upstreamPause {
		return nil, fmt.Errorf("pace volume loops: their pauses are %v and %v, not %v", *listPause, *mountPause, upstreamPause)
	}

	// Each loop asks one question at the start of every pass: there it waits.
	p := &pace{kicked: make(chan struct{}), listed: *listed}
	*pods = pacedPods{PodManager: *pods, pace: p}
	*listed = func() bool {
		p.wait(mounting)
		return p.listed()
	}
	*listPause, *mountPause = volumePoll, volumePoll
	return &eagerVolumeManager{VolumeManager: upstream, pace: p}, nil
}

// WaitForAttachAndMount returns when all volumes of the pod are mounted.
func (m *eagerVolumeManager) WaitForAttachAndMount(ctx context.Context, pod *corev1.Pod) error {
	if pod == nil {
		return nil
	}
	defer m.pace.begin()()
	m.pace.look(ctx, func() bool {
		mounts, devices, _ := volumeutil.GetPodVolumeNames(pod, false)
		mounted := m.GetMountedVolumesForPod(volumeutil.GetUniquePodName(pod))
		for name := range mounts.Union(devices) {
			if _, ok := mounted[name]; !ok {
				return false
			}
		}
		return true
	})
	// Upstream also asks for changed contents to be written again.
	return m.VolumeManager.WaitForAttachAndMount(ctx, pod)
}

// WaitForUnmount returns when no volume of the pod is mounted.
func (m *eagerVolumeManager) WaitForUnmount(ctx context.Context, pod *corev1.Pod) error {
	if pod == nil {
		return nil
	}
	defer m.pace.begin()()
	m.pace.look(ctx, func() bool {
		return !m.HasPossiblyMountedVolumesForPod(volumeutil.GetUniquePodName(pod))
	})
	return m.VolumeManager.WaitForUnmount(ctx, pod)
}

// WaitForAllPodsUnmount returns when no volume of the pods is mounted.
func (m *eagerVolumeManager) WaitForAllPodsUnmount(ctx context.Context, pods []*corev1.Pod) error {
	defer m.pace.begin()()
	return m.VolumeManager.WaitForAllPodsUnmount(ctx, pods)
}

// pacedPods lets upstream's listing loop wait where it asks for the pods.
type pacedPods struct {
	populator.PodManager
	pace *pace
}

func (p pacedPods) GetPods() []*corev1.Pod {
	p.pace.wait(listing)
	return p.PodManager.GetPods()
}

// The two loops.
const (
	listing = iota
	mounting
	loops
)

// passes is how many passes each loop makes without a pause after a pod was
// there: one that sees what changed, one that acts on it, and one because the
// loops do not run in step.
const passes = 3

// pace says when upstream's two loops make their next pass.
type pace struct {
	// listed says that the pods that were there at start have been listed.
	listed func() bool

	// mu guards the fields below.
	mu sync.Mutex
	// looking pods want no pauses, waiting ones upstream's.
	looking, waiting int
	// credit is what is left of passes.
	credit [loops]int
	// last is when the last pod was there.
	last time.Time
	// kicked is closed, and made anew, when a pod comes.
	kicked chan struct{}
}

// wait returns when it is time for the loop's next pass.
func (p *pace) wait(loop int) {
	pause, kicked := p.next(loop, time.Now())
	if pause == 0 {
		return
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-kicked:
	}
}

func (p *pace) next(loop int, now time.Time) (pause time.Duration, kicked <-chan struct{}) {
	listed := p.listed()
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.looking > 0:
		return 0, nil
	case p.credit[loop] > 0:
		p.credit[loop]--
		return 0, nil
	case p.waiting > 0, !listed, now.Sub(p.last) < volumeTail:
		return upstreamPause - volumePoll, p.kicked
	default:
		return idlePause, p.kicked
	}
}

// begin counts a waiting pod until the returned function is called.
func (p *pace) begin() (end func()) {
	count := func(n int) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.waiting += n
		p.kick()
	}
	count(1)
	return func() { count(-1) }
}

// kick wakes the loops; the caller holds mu.
func (p *pace) kick() {
	p.last = time.Now()
	for loop := range p.credit {
		p.credit[loop] = passes
	}
	close(p.kicked)
	p.kicked = make(chan struct{})
}

// look returns when done says so, or patience or ctx ends.
func (p *pace) look(ctx context.Context, done func() bool) {
	if done() {
		return
	}
	count := func(n int) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.looking += n
		p.kick()
	}
	count(1)
	defer count(-1)
	tick := time.NewTicker(volumePoll)
	defer tick.Stop()
	late := time.NewTimer(volumePatience)
	defer late.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			return
		case <-late.C:
			return
		case <-tick.C:
		}
	}
}
