package policy

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/skiff-k8s/skiff/dataplane/internal/apitest"
	"github.com/skiff-k8s/skiff/dataplane/internal/sandbox"
)

// cluster is a network with an API server that knows it.
type cluster struct {
	*network
	api *apitest.Server
	// dataplane is the client that nodes have.
	dataplane kubernetes.Interface
	pins      []string
}

func newCluster(t *testing.T) *cluster {
	c := &cluster{network: newNetwork(t), api: apitest.Start(t)}
	cfg := rest.CopyConfig(c.api.Config)
	cfg.Impersonate.UserName = "system:kube-proxy"
	var err error
	if c.dataplane, err = kubernetes.NewForConfig(cfg); err != nil {
		t.Fatal(err)
	}
	for range c.nodes {
		dir := sandbox.BPFFS(t) + "/policies"
		c.pins = append(c.pins, dir)
		t.Cleanup(func() {
			if err := Unpin(dir); err != nil {
				t.Error(err)
			}
		})
	}
	for _, name := range []string{"x", "y"} {
		_, err := c.api.Client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		c.must(err)
		_, err = c.api.Client.CoreV1().ServiceAccounts(name).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
		c.must(err)
	}
	return c
}

func (c *cluster) must(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

// create makes a Pod object; its status comes with running.
func (c *cluster) create(namespace, name string, node int) *corev1.Pod {
	c.Helper()
	no := false
	pod, err := c.api.Client.CoreV1().Pods(namespace).Create(c.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{
			NodeName: nodeNames[node], AutomountServiceAccountToken: &no,
			Containers: []corev1.Container{{Name: "c", Image: "i", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 80}}}},
		},
	}, metav1.CreateOptions{})
	c.must(err)
	return pod
}

func (c *cluster) running(pod *corev1.Pod, p *testPod) {
	c.Helper()
	pod.Status.Phase = corev1.PodRunning
	for _, a := range p.addrs() {
		pod.Status.PodIPs = append(pod.Status.PodIPs, corev1.PodIP{IP: a.String()})
	}
	pod.Status.PodIP = pod.Status.PodIPs[0].IP
	_, err := c.api.Client.CoreV1().Pods(pod.Namespace).UpdateStatus(c.Context(), pod, metav1.UpdateOptions{})
	c.must(err)
}

// addPod is a pod that runs.
func (c *cluster) addPod(namespace, name string, node, number int) *testPod {
	c.Helper()
	p := c.pod(name, node, number)
	c.running(c.create(namespace, name, node), p)
	return p
}

func (c *cluster) apply(namespace, name, spec string) {
	c.Helper()
	p := policyFrom(c, name, spec)
	p.Namespace = namespace
	client := c.api.Client.NetworkingV1().NetworkPolicies(namespace)
	have, err := client.Get(c.Context(), name, metav1.GetOptions{})
	if err != nil {
		_, err = client.Create(c.Context(), p, metav1.CreateOptions{})
		c.must(err)
		return
	}
	have.Spec = p.Spec
	_, err = client.Update(c.Context(), have, metav1.UpdateOptions{})
	c.must(err)
}

// start runs the loader of a node until stop is called, which leaves
// everything pinned, as the death of the process does.
func (c *cluster) start(node int) (_ *Loader, stop func()) {
	c.Helper()
	l, err := New(Config{NodeName: nodeNames[node], PinDir: c.pins[node], Client: c.dataplane})
	c.must(err)
	ctx, cancel := context.WithCancel(c.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		// The programs go where this thread is.
		c.nodes[node].Do(func() error { return l.Run(ctx) })
	}()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			<-done
		})
	}
	c.Cleanup(stop)
	return l, stop
}

// state waits until a loader is as it should be.
func (c *cluster) state(what string, l *Loader, reached func() bool) {
	c.Helper()
	deadline := time.After(10 * time.Second)
	for {
		l.mu.Lock()
		ok, changed := reached(), l.changed
		l.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			c.Fatalf("%s: not so after 10 s", what)
		}
	}
}

// pinned lists what is pinned of a node's programs.
func (c *cluster) pinned(node int) []string {
	c.Helper()
	all, err := filepath.Glob(c.pins[node] + "/*/*")
	c.must(err)
	return all
}

func TestLoaderFollowsTheAPIServer(t *testing.T) {
	c := newCluster(t)
	a, b, far := c.addPod("x", "a", 0, 1), c.addPod("x", "b", 0, 2), c.addPod("y", "far", 1, 3)
	l0, stop0 := c.start(0)
	l1, _ := c.start(1)
	for _, l := range []*Loader{l0, l1} {
		c.state("at rest without policies", l, func() bool { return l.resting && l.kernel == nil && l.peers == nil })
	}
	c.expect("without policies: b to a", b.Namespace, a, true)
	c.expect("without policies: far to a", far.Namespace, a, true)

	c.apply("x", "a", `
podSelector: {matchLabels: {app: a}}
policyTypes: [Ingress]`)
	t.Logf("denied %s after the first policy", c.eventually("denied", b.Namespace, a.v4, false))
	c.expect("deny: b to a", b.Namespace, a, false)
	c.expect("deny: far to a", far.Namespace, a, false)
	c.expect("deny: a's own node to a", c.nodes[0], a, true)
	c.expect("deny: another node to a", c.nodes[1], a, false)
	c.expect("deny: a to b", a.Namespace, b, true)
	c.expect("deny: a to far", a.Namespace, far, true)
	c.state("nothing is loaded on a node without an isolated pod", l1, func() bool { return l1.enforcing && l1.kernel == nil })

	c.apply("x", "a", `
podSelector: {matchLabels: {app: a}}
ingress:
- from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: "y"}}}]
  ports: [{port: http}, {port: 80, protocol: UDP}]`)
	t.Logf("allowed %s after the change", c.eventually("allowed", far.Namespace, a.v4, true))
	c.expect("y only: far to a", far.Namespace, a, true)
	c.expect("y only: b to a", b.Namespace, a, false)

	c.apply("y", "far", `
podSelector: {}
policyTypes: [Egress]
egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.244.0.0/24]}}]}]`)
	c.eventually("egress denied", far.Namespace, a.v4, false)
	c.expect("egress: far to a", far.Namespace, a, false)
	// Its own node is egress too; who is not there refuses at once.
	if err := call(far.Namespace, "tcp", nodeAddr(1)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("far to its own node, which the block holds: %v", err)
	}
	if err := call(far.Namespace, "tcp", netip.MustParseAddr("fd30::11")); !os.IsTimeout(err) {
		t.Errorf("far to its own node's IPv6 address, which no block holds: %v", err)
	}

	// The process dies: all stays in force, and a new one takes over without
	// a window.
	tries, through := 0, 0
	ctx, cancel := context.WithCancel(t.Context())
	probing := make(chan struct{})
	go func() {
		defer close(probing)
		for ctx.Err() == nil {
			tries++
			if call(b.Namespace, "udp", a.v4) == nil {
				through++
			}
		}
	}()
	stop0()
	before := c.pinned(0)
	l0, stop0 = c.start(0)
	c.state("taken over", l0, func() bool { return l0.enforcing })
	c.state("the old programs gone", l0, func() bool { return l0.kernel.number == 2 })
	for _, old := range before {
		if _, err := os.Stat(old); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still pinned: %v", old, err)
		}
	}
	cancel()
	<-probing
	if through > 0 {
		t.Errorf("%d of %d packets got through while a process took over", through, tries)
	}
	d, err := l0.Drops()
	c.must(err)
	if d.Ingress == 0 {
		t.Error("the count of drops did not outlive the process")
	}

	for _, p := range []struct{ namespace, name string }{{"x", "a"}, {"y", "far"}} {
		c.must(c.api.Client.NetworkingV1().NetworkPolicies(p.namespace).Delete(t.Context(), p.name, metav1.DeleteOptions{}))
	}
	c.eventually("allowed again", b.Namespace, a.v4, true)
	c.state("at rest again", l0, func() bool { return l0.resting && l0.kernel == nil && l0.peers == nil })
	if got := c.pinned(0); len(got) != 0 {
		t.Errorf("left behind: %v", got)
	}
	if again, err := l0.Drops(); err != nil || again.Ingress < d.Ingress {
		t.Errorf("drops %+v, %v after %+v", again, err, d)
	}
	stop0()
}

func TestAPodIsProtectedBeforeItStarts(t *testing.T) {
	c := newCluster(t)
	b := c.addPod("x", "b", 0, 2)
	l, _ := c.start(0)
	admit := func(pod *corev1.Pod, p *testPod) (err error) {
		c.nodes[0].Do(func() error {
			err = l.Admit(t.Context(), Admission{Namespace: pod.Namespace, Name: pod.Name, UID: string(pod.UID), Addrs: p.addrs()})
			return nil
		})
		return err
	}
	c.state("at rest", l, func() bool { return l.resting })
	begin := time.Now()
	if err := admit(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "nobody", UID: "u"}}, c.pod("nobody", 0, 9)); err != nil {
		t.Fatal(err)
	}
	t.Logf("admitted in %s without policies", time.Since(begin))

	c.apply("x", "all", `
podSelector: {}
policyTypes: [Ingress]
ingress: [{from: [{podSelector: {matchLabels: {app: friend}}}]}]`)
	c.eventually("denied", c.pods["nobody"].Namespace, b.v4, false)

	// The Pod is known: in force at once, before any status.
	friend := c.pod("friend", 0, 3)
	pod := c.create("x", "friend", 0)
	begin = time.Now()
	c.must(admit(pod, friend))
	t.Logf("admitted in %s, with the Pod just made", time.Since(begin))
	c.expect("friend to b", friend.Namespace, b, true)
	c.expect("b to friend", b.Namespace, friend, false)

	// Nobody tells of the Pod: refused, with the reason.
	err := admit(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "ghost", UID: "u"}}, c.pod("ghost", 0, 4))
	if err == nil || !strings.Contains(err.Error(), "network policies of pod x/ghost: the API server did not tell of the Pod") {
		t.Errorf("a pod that does not exist: %v", err)
	}

	// An address that is given to another pod is that pod's, whatever the
	// status of the one before says.
	pod, err = c.api.Client.CoreV1().Pods("x").Get(t.Context(), "friend", metav1.GetOptions{})
	c.must(err)
	c.running(pod, friend)
	l.Dismiss(friend.addrs())
	c.must(admit(c.create("x", "stranger", 0), friend))
	c.expect("stranger, with friend's address, to b", friend.Namespace, b, false)
}

func TestPoliciesThatDoNotFitSaySo(t *testing.T) {
	c := newCluster(t)
	a, b := c.addPod("x", "a", 0, 1), c.addPod("x", "b", 0, 2)
	l, _ := c.start(0)
	c.apply("x", "deny", `
podSelector: {}
policyTypes: [Ingress]`)
	c.eventually("denied", b.Namespace, a.v4, false)

	// The map of blocks is almost full of others.
	l.mu.Lock()
	m := l.kernel.objects.PolicyBlocks
	var fill []bpfPolicyBlock
	for i := range m.MaxEntries() - 1 {
		key := bpfPolicyBlock{PrefixBits: 96, Group: 1 << 30, Family: 4}
		key.Addr.WordBe[0] = i
		fill = append(fill, key)
	}
	for i := range fill {
		if err := m.Put(&fill[i], uint32(1)); err != nil {
			t.Fatal(err)
		}
	}
	l.mu.Unlock()
	c.apply("x", "large", `
podSelector: {matchLabels: {app: a}}
ingress: [{from: [{ipBlock: {cidr: 10.244.0.0/16, except: [10.244.0.128/25]}}]}]`)
	for start := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		events, err := c.api.Client.CoreV1().Events("x").List(t.Context(), metav1.ListOptions{})
		c.must(err)
		if len(events.Items) > 0 {
			e := events.Items[0]
			if e.InvolvedObject.Name != "large" && e.InvolvedObject.Name != "deny" || e.Reason != ReasonNotProgrammed || !strings.Contains(e.Message, "node n0: map policy_blocks of the node is full") {
				t.Errorf("%s: %s: %s", e.InvolvedObject.Name, e.Reason, e.Message)
			}
			break
		}
		if time.Since(start) > 5*time.Second {
			t.Fatal("no event")
		}
	}
	if call(b.Namespace, "tcp", a.v4) == nil {
		t.Error("an ipBlock without its exceptions is in force")
	}
	// There is room again: it is written without anybody's doing.
	for i := range fill {
		if err := m.Delete(&fill[i]); err != nil {
			t.Fatal(err)
		}
	}
	c.eventually("allowed", b.Namespace, a.v4, true)
}
