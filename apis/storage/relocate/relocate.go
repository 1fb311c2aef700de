package relocate

import (
	"bytes"
	"context"
	"fmt"
	"path"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/client-go/kubernetes/scheme"
)

// root is where API servers keep their objects.
const root = "/registry/"

// change is what becomes of a key: an empty one goes.
type change struct {
	key   string
	value []byte
}

// pageSize is how many keys are read at once, and fewer than etcd takes in one
// transaction are written.
const pageSize = 100

// Run rewrites the objects in an etcd that nobody else uses.
func (p *Plan) Run(ctx context.Context, client *clientv3.Client) error {
	for _, k := range kinds {
		if err := p.runKind(ctx, client, k); err != nil {
			return fmt.Errorf("relocate %s: %w", k.prefix, err)
		}
	}
	return nil
}

func (p *Plan) runKind(ctx context.Context, client *clientv3.Client, k kind) error {
	prefix := root + k.prefix
	from, end, revision := prefix, clientv3.GetPrefixRangeEnd(prefix), int64(0)
	for {
		// As it was before: what has been rewritten is not to be again.
		page, err := client.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(pageSize), clientv3.WithRev(revision))
		if err != nil {
			return err
		}
		if revision == 0 {
			revision = page.Header.Revision
		}
		if len(page.Kvs) == 0 {
			return nil
		}
		var ops []clientv3.Op
		for _, kv := range page.Kvs {
			c, err := p.change(k, string(kv.Key), kv.Value)
			if err != nil {
				return fmt.Errorf("%s: %w", kv.Key, err)
			}
			if c.key != string(kv.Key) {
				ops = append(ops, clientv3.OpDelete(string(kv.Key)))
			}
			if c.key != "" && (c.key != string(kv.Key) || !bytes.Equal(c.value, kv.Value)) {
				ops = append(ops, clientv3.OpPut(c.key, string(c.value)))
			}
		}
		if err := commit(ctx, client, ops); err != nil {
			return err
		}
		if !page.More {
			return nil
		}
		from = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
	}
}

// commit writes the operations of a page; a key that one object leaves may be
// another's new one, so what is left goes first.
func commit(ctx context.Context, client *clientv3.Client, ops []clientv3.Op) error {
	var deletes, puts []clientv3.Op
	for _, op := range ops {
		if op.IsDelete() {
			deletes = append(deletes, op)
		} else {
			puts = append(puts, op)
		}
	}
	for _, part := range [][]clientv3.Op{deletes, puts} {
		if len(part) == 0 {
			continue
		}
		if _, err := client.Txn(ctx).Then(part...).Commit(); err != nil {
			return err
		}
	}
	return nil
}

// kind of objects that is rewritten; new makes one, nil means that all go.
type kind struct {
	prefix string
	new    func() runtime.Object
	// change rewrites the object and returns its name, empty if it goes.
	change func(*Plan, runtime.Object) string
}

// of is a kind with the type of its objects.
func of[T any, O interface {
	*T
	runtime.Object
}](prefix string, change func(*Plan, O) string) kind {
	return kind{prefix: prefix, new: func() runtime.Object { return O(new(T)) },
		change: func(p *Plan, o runtime.Object) string { return change(p, o.(O)) }}
}

var kinds = []kind{
	of("minions/", func(p *Plan, n *corev1.Node) string {
		to := p.node(n.Name)
		if to == nil {
			return "" // nobody is this node
		}
		renameNode(n, to)
		return n.Name
	}),
	of("pods/", func(p *Plan, pod *corev1.Pod) string {
		if _, static := pod.Annotations[corev1.MirrorPodAnnotationKey]; static {
			return "" // its kubelet makes it again, under its own name
		}
		p.movePod(pod)
		return pod.Name
	}),
	of("persistentvolumes/", func(p *Plan, pv *corev1.PersistentVolume) string { p.moveVolume(pv); return pv.Name }),
	of("services/specs/", func(p *Plan, s *corev1.Service) string { p.moveService(s); return s.Name }),
	of("services/endpoints/", func(p *Plan, e *endpoints) string {
		if !keepsEndpoints(e) {
			return ""
		}
		p.moveEndpoints(e)
		return e.Name
	}),
	of("endpointslices/", func(p *Plan, s *discoveryv1.EndpointSlice) string {
		if !keepsSlice(s) {
			return ""
		}
		p.moveSlice(s)
		return s.Name
	}),
	of("ipaddresses/", func(p *Plan, a *networkingv1.IPAddress) string { a.Name = p.address(a.Name); return a.Name }),
	of("servicecidrs/", func(p *Plan, c *networkingv1.ServiceCIDR) string { p.moveServiceCIDR(c); return c.Name }),
	// Who had these is no more; who needs them makes its own.
	{prefix: "leases/kube-node-lease/"}, {prefix: "leases/kube-system/"}, {prefix: "masterleases/"},
	{prefix: "csinodes/"}, {prefix: "volumeattachments/"},
}

var codec = protobuf.NewSerializer(scheme.Scheme, scheme.Scheme)

// change decides about one key.
func (p *Plan) change(k kind, key string, value []byte) (change, error) {
	if k.new == nil {
		return change{}, nil
	}
	object, kindOf, err := codec.Decode(value, nil, k.new())
	if err != nil {
		return change{}, err
	}
	name := k.change(p, object)
	if name == "" {
		return change{}, nil
	}
	object.GetObjectKind().SetGroupVersionKind(*kindOf)
	var out bytes.Buffer
	if err := codec.Encode(object, &out); err != nil {
		return change{}, err
	}
	return change{key: strings.TrimSuffix(key, path.Base(key)) + name, value: out.Bytes()}, nil
}
