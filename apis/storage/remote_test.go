package storage_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/test/apiserver/apiservertest"
)

// authority signs certificates for 127.0.0.1, for servers and clients alike.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{dir: t.TempDir()}
	a.cert, a.key = a.sign(t, "ca", true)
	return a
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

func (a *authority) sign(t *testing.T, name string, ca bool) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, BasicConstraintsValid: true,
	}
	parent, signer := a.cert, a.key
	if ca {
		template.IsCA, template.ExtKeyUsage, template.IPAddresses = true, nil, nil
		template.KeyUsage = x509.KeyUsageCertSign
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{
		name + ".crt": {Type: "CERTIFICATE", Bytes: der},
		name + ".key": {Type: "EC PRIVATE KEY", Bytes: keyDER},
	} {
		if err := os.WriteFile(a.file(file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

type member struct {
	*etcdserver.EtcdServer
	stop func()
}

// threeMembers is an etcd cluster on loopback that wants client certificates.
func threeMembers(t *testing.T, a *authority) (urls []string, members []member) {
	t.Helper()
	a.sign(t, "member", false)
	tls := transport.TLSInfo{CertFile: a.file("member.crt"), KeyFile: a.file("member.key"), TrustedCAFile: a.file("ca.crt"), ClientCertAuth: true}
	var configs []*embed.Config
	var cluster []string
	for i := range 3 {
		cfg := embed.NewConfig()
		cfg.Name = fmt.Sprintf("m%d", i)
		cfg.Dir = t.TempDir()
		client, peer := freeURL(t), freeURL(t)
		cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
		cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
		cfg.ClientTLSInfo, cfg.PeerTLSInfo = tls, tls
		cfg.UnsafeNoFsync = true
		cfg.LogLevel = "fatal"
		configs = append(configs, cfg)
		cluster = append(cluster, cfg.Name+"="+peer.String())
		urls = append(urls, client.String())
	}
	for _, cfg := range configs {
		cfg.InitialCluster = strings.Join(cluster, ",")
		etcd, err := embed.StartEtcd(cfg)
		if err != nil {
			t.Fatal(err)
		}
		m := member{etcd.Server, sync.OnceFunc(etcd.Close)}
		t.Cleanup(m.stop)
		members = append(members, m)
	}
	for _, m := range members {
		select {
		case <-m.ReadyNotify():
		case <-time.After(30 * time.Second):
			t.Fatal("etcd finds no leader")
		}
	}
	return urls, members
}

func freeURL(t *testing.T) url.URL {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return url.URL{Scheme: "https", Host: l.Addr().String()}
}

func TestAnExistingEtcdClusterWithTLS(t *testing.T) {
	a := newAuthority(t)
	urls, members := threeMembers(t, a)
	a.sign(t, "client", false)
	srv := apiservertest.Start(t, "-etcd-servers", strings.Join(urls, ","),
		"-etcd-cafile", a.file("ca.crt"), "-etcd-certfile", a.file("client.crt"), "-etcd-keyfile", a.file("client.key"))
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
	leader := members[0].Leader()
	for _, m := range members {
		if m.MemberID() == leader {
			m.stop()
		}
	}
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
	urls, _ := threeMembers(t, a)
	stranger := newAuthority(t)
	stranger.sign(t, "client", false)
	out := apiservertest.Try(t, "-etcd-servers", urls[0],
		"-etcd-cafile", a.file("ca.crt"), "-etcd-certfile", stranger.file("client.crt"), "-etcd-keyfile", stranger.file("client.key"))
	if !strings.Contains(out, urls[0]) {
		t.Error(out)
	}
}
