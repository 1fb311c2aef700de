package storage_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/test/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/test/etcdtest"
)

func newAuthority(t *testing.T) *etcdtest.Authority {
	t.Helper()
	a, err := etcdtest.NewAuthority(t.TempDir(), net.IPv4(127, 0, 0, 1))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func pair(t *testing.T, a *etcdtest.Authority, name string) (cert, key string) {
	t.Helper()
	cert, key, err := a.Pair(name)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func threeMembers(t *testing.T, a *etcdtest.Authority) etcdtest.Members {
	t.Helper()
	members, err := etcdtest.Start(t.TempDir(), a)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(members.Stop)
	return members
}

func TestAnExistingEtcdClusterWithTLS(t *testing.T) {
	a := newAuthority(t)
	members := threeMembers(t, a)
	cert, key := pair(t, a, "client")
	srv := apiservertest.Start(t, "-etcd-servers", strings.Join(members.URLs(), ","),
		"-etcd-cafile", a.CA(), "-etcd-certfile", cert, "-etcd-keyfile", key)
	if _, err := os.Stat(filepath.Join(srv.Dir, "etcd")); !os.IsNotExist(err) {
		t.Errorf("an embedded member runs beside it: %v", err)
	}
	secrets := kubernetes.NewForConfigOrDie(srv.Config()).CoreV1().Secrets("default")
	watch, err := secrets.Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Stop()
	create := func(name string) error {
		_, err := secrets.Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, StringData: map[string]string{"k": "v"}}, metav1.CreateOptions{})
		return err
	}
	if err := create("three"); err != nil {
		t.Fatal(err)
	}

	// One member may go, the leader at that.
	members.StopLeader()
	var last error
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		start := time.Now()
		if last = create("two"); last == nil {
			break
		}
		t.Logf("%v: %v", time.Since(start), last)
	}
	if last != nil {
		t.Fatalf("with two of three members: %v", last)
	}
	seen := map[string]bool{}
	for !seen["three"] || !seen["two"] {
		select {
		case event, ok := <-watch.ResultChan():
			if !ok {
				t.Fatalf("watch ended after %v", seen)
			}
			seen[event.Object.(*corev1.Secret).Name] = true
		case <-time.After(30 * time.Second):
			t.Fatalf("watch saw only %v", seen)
		}
	}
}

func TestAnEtcdThatRefusesUsIsAnError(t *testing.T) {
	a := newAuthority(t)
	first := threeMembers(t, a).URLs()[0]
	cert, key := pair(t, newAuthority(t), "client")
	out := apiservertest.Try(t, "-etcd-servers", first, "-etcd-cafile", a.CA(), "-etcd-certfile", cert, "-etcd-keyfile", key)
	if !strings.Contains(out, "etcd "+first+" does not answer: ") {
		t.Error(out)
	}
}
