package apiservertest_test

import (
	"bytes"
	"errors"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/test/apiserver/apiservertest"
)

// etcdClient reads and writes past the API server.
func etcdClient(t *testing.T, srv *apiservertest.Server) *clientv3.Client {
	t.Helper()
	etcd, err := clientv3.New(clientv3.Config{
		Endpoints:   []string{"unix://" + filepath.Join(srv.Dir, "etcd.sock")},
		DialTimeout: 10 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { etcd.Close() })
	return etcd
}

func raw(t *testing.T, etcd *clientv3.Client, key string) []byte {
	t.Helper()
	resp, err := etcd.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	if len(resp.Kvs) != 1 {
		t.Fatalf("%s: %d keys", key, len(resp.Kvs))
	}
	return resp.Kvs[0].Value
}

func TestSecretsAreEncryptedInEtcdAndNothingElseIs(t *testing.T) {
	t.Parallel()
	srv := apiservertest.Start(t)
	client := kubernetes.NewForConfigOrDie(srv.Config()).CoreV1()
	const value = "the-quick-brown-fox"
	_, err := client.Secrets("default").Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "s"}, StringData: map[string]string{"k": value}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "c"}, Data: map[string]string{"k": value}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}

	etcd := etcdClient(t, srv)
	if secret := raw(t, etcd, "/registry/secrets/default/s"); !bytes.HasPrefix(secret, []byte("k8s:enc:secretbox:v1:key1:")) || bytes.Contains(secret, []byte(value)) {
		t.Errorf("secret in etcd: %q", secret)
	}
	if configMap := raw(t, etcd, "/registry/configmaps/default/c"); !bytes.HasPrefix(configMap, []byte("k8s\x00")) || !bytes.Contains(configMap, []byte(value)) {
		t.Errorf("config map in etcd: %q", configMap)
	}
	got, err := client.Secrets("default").Get(t.Context(), "s", metav1.GetOptions{})
	if err != nil || string(got.Data["k"]) != value {
		t.Errorf("secret read back: %v, %v", got, err)
	}
}

func TestARestartKeepsWhatWasWritten(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		args []string
		end  func(*testing.T, *apiservertest.Server)
	}{
		{"after SIGTERM", nil, func(t *testing.T, srv *apiservertest.Server) {
			if err := srv.Stop(); err != nil {
				t.Fatalf("%v\n%s", err, srv.Log())
			}
		}},
		{"after SIGKILL, without fsync", nil, func(_ *testing.T, srv *apiservertest.Server) { srv.Kill() }},
		{"after SIGKILL, durable", []string{"-durable"}, func(_ *testing.T, srv *apiservertest.Server) { srv.Kill() }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			srv := apiservertest.Start(t, test.args...)
			secrets := kubernetes.NewForConfigOrDie(srv.Config()).CoreV1().Secrets("default")
			made, err := secrets.Create(t.Context(), &corev1.Secret{
				ObjectMeta: metav1.ObjectMeta{Name: "s"}, StringData: map[string]string{"k": "v"}}, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			test.end(t, srv)
			srv.Restart(t)
			secrets = kubernetes.NewForConfigOrDie(srv.Config()).CoreV1().Secrets("default")
			have, err := secrets.Get(t.Context(), "s", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if have.UID != made.UID || have.ResourceVersion != made.ResourceVersion || string(have.Data["k"]) != "v" {
				t.Errorf("have %v, made %v", have, made)
			}
		})
	}
}

// TestBootstrapObjects holds what our own start-up hooks make, and that they
// repair it: upstream's hooks of the same names are switched off.
func TestBootstrapObjects(t *testing.T) {
	t.Parallel()
	srv := apiservertest.Start(t)
	client := kubernetes.NewForConfigOrDie(srv.Config())
	roles := client.RbacV1().ClusterRoles()
	list, err := roles.List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(list.Items) < 70 {
		t.Errorf("%d cluster roles", len(list.Items))
	}
	for _, namespace := range []string{"default", "kube-system", "kube-public", "kube-node-lease"} {
		if _, err := client.CoreV1().Namespaces().Get(t.Context(), namespace, metav1.GetOptions{}); err != nil {
			t.Error(err)
		}
	}
	for _, class := range []string{"system-node-critical", "system-cluster-critical"} {
		if _, err := client.SchedulingV1().PriorityClasses().Get(t.Context(), class, metav1.GetOptions{}); err != nil {
			t.Error(err)
		}
	}
	cidr, err := client.NetworkingV1().ServiceCIDRs().Get(t.Context(), "kubernetes", metav1.GetOptions{})
	if err != nil || cidr.Spec.CIDRs[0] != "10.96.0.0/16" {
		t.Errorf("service range: %v, %v", cidr, err)
	}
	service, err := client.CoreV1().Services("default").Get(t.Context(), "kubernetes", metav1.GetOptions{})
	if err != nil || service.Spec.ClusterIP != "10.96.0.1" {
		t.Errorf("service: %v, %v", service, err)
	}
	eventually(t, func() error {
		slices, err := client.DiscoveryV1().EndpointSlices("default").Get(t.Context(), "kubernetes", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if address := slices.Endpoints[0].Addresses[0]; address != "192.0.2.10" {
			t.Errorf("endpoint %s", address)
		}
		return nil
	})

	node, err := roles.Get(t.Context(), "system:node", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if manager := node.ManagedFields[0].Manager; manager != "kube-apiserver" {
		t.Errorf("manager %q", manager)
	}
	rules := len(node.Rules)
	node.Rules = node.Rules[1:]
	if _, err := roles.Update(t.Context(), node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := roles.Delete(t.Context(), "system:kube-scheduler", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := srv.Stop(); err != nil {
		t.Fatal(err)
	}
	srv.Restart(t)
	roles = kubernetes.NewForConfigOrDie(srv.Config()).RbacV1().ClusterRoles()
	if _, err := roles.Get(t.Context(), "system:kube-scheduler", metav1.GetOptions{}); err != nil {
		t.Errorf("deleted role: %v", err)
	}
	if node, err = roles.Get(t.Context(), "system:node", metav1.GetOptions{}); err != nil || len(node.Rules) != rules {
		t.Errorf("shortened role: %d rules, want %d; %v", len(node.Rules), rules, err)
	}
}

func TestCompactionForgetsOldRevisions(t *testing.T) {
	t.Parallel()
	srv := apiservertest.Start(t, "-compaction-interval", "200ms")
	configMaps := kubernetes.NewForConfigOrDie(srv.Config()).CoreV1().ConfigMaps("default")
	made, err := configMaps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	revision, err := strconv.ParseInt(made.ResourceVersion, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	etcd := etcdClient(t, srv)
	eventually(t, func() error {
		// A compaction forgets what was old at the one before.
		if _, err := configMaps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "more-"}}, metav1.CreateOptions{}); err != nil {
			return err
		}
		if _, err := etcd.Get(t.Context(), "/registry/configmaps/default/a", clientv3.WithRev(revision)); !errors.Is(err, rpctypes.ErrCompacted) {
			return errorf("revision %d: %v", revision, err)
		}
		return nil
	})
	if _, err := configMaps.Get(t.Context(), "a", metav1.GetOptions{}); err != nil {
		t.Errorf("the last revision of an object: %v", err)
	}
}

func TestConsistentReadsAndWatchesOfManyKinds(t *testing.T) {
	t.Parallel()
	srv := apiservertest.Start(t)
	config := srv.Config()
	client := kubernetes.NewForConfigOrDie(config)
	watch, err := client.CoreV1().ConfigMaps("default").Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Stop()
	const n = 200
	for i := range n {
		_, err := client.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{GenerateName: "c-"}, Data: map[string]string{"i": strings.Repeat("x", i)}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	list, err := client.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{LabelSelector: "!none"})
	if err != nil || len(list.Items) < n {
		t.Errorf("list after the last write: %d of %d, %v", len(list.Items), n, err)
	}
	for range n {
		select {
		case event := <-watch.ResultChan():
			if event.Object == nil {
				t.Fatalf("watch ended: %v", event)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("watch stands still")
		}
	}
	all := dynamic.NewForConfigOrDie(config)
	_, lists, err := client.Discovery().ServerGroupsAndResources()
	if err != nil {
		t.Fatal(err)
	}
	for _, group := range lists {
		gv, err := schema.ParseGroupVersion(group.GroupVersion)
		if err != nil {
			t.Fatal(err)
		}
		for _, resource := range group.APIResources {
			if !strings.Contains(strings.Join(resource.Verbs, ","), "watch") {
				continue
			}
			if _, err := all.Resource(gv.WithResource(resource.Name)).List(t.Context(), metav1.ListOptions{}); err != nil {
				t.Errorf("list %s %s: %v", gv, resource.Name, err)
			}
		}
	}
}

// BenchmarkConsistentList lists a kind that nobody writes right after a write
// to another: the read that upstream makes wait for a tick of 100 ms. The
// control is a list that any revision will do for.
func BenchmarkConsistentList(b *testing.B) {
	srv := apiservertest.Start(b)
	client := kubernetes.NewForConfigOrDie(srv.Config()).CoreV1()
	for name, opts := range map[string]metav1.ListOptions{"consistent": {}, "control": {ResourceVersion: "0"}} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				if _, err := client.ConfigMaps("default").Create(b.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "c-"}}, metav1.CreateOptions{}); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				if _, err := client.LimitRanges("default").List(b.Context(), opts); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
