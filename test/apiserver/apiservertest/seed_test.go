package apiservertest_test

import (
	"bytes"
	"flag"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/skiff-k8s/skiff/apis/server/seed"
	"github.com/skiff-k8s/skiff/test/apiserver/apiservertest"
)

var update = flag.Bool("update", false, "record the bootstrap objects anew")

// seededKinds are the keys below /registry that are the same in every cluster.
var seededKinds = []string{
	"clusterroles", "clusterrolebindings", "roles", "rolebindings", "namespaces", "priorityclasses",
	"flowschemas", "prioritylevelconfigurations", "apiregistration.k8s.io/apiservices",
}

// ownKinds are keys that the server writes with the cluster's own addresses.
var ownKinds = []string{"servicecidrs", "services/specs", "ipaddresses"}

var uid = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}`)

// record reads what a server that started not before since has made, once it
// makes no more.
func record(t *testing.T, srv *apiservertest.Server, since time.Time, kinds ...string) []seed.Object {
	t.Helper()
	etcd := etcdClient(t, srv)
	var objects []seed.Object
	var revision int64
	eventually(t, func() error {
		var now []seed.Object
		newest := int64(0)
		for _, kind := range kinds {
			resp, err := etcd.Get(t.Context(), "/registry/"+kind+"/", clientv3.WithPrefix())
			if err != nil {
				return err
			}
			for _, kv := range resp.Kvs {
				newest = max(newest, kv.ModRevision)
				now = append(now, seed.Object{Key: strings.TrimPrefix(string(kv.Key), "/registry"), Value: kv.Value})
			}
		}
		if newest != revision {
			revision = newest
			time.Sleep(2 * time.Second)
			return errorf("still at work at revision %d", revision)
		}
		objects = now
		return nil
	})

	uids := map[string]bool{}
	for i := range objects {
		value := objects[i].Value
		found := uid.FindAll(value, -1)
		if len(found) != 1 || uids[string(found[0])] {
			t.Fatalf("%s: UIDs %q", objects[i].Key, found)
		}
		uids[string(found[0])] = true
		value = bytes.ReplaceAll(value, found[0], []byte(seed.UID))
		for at := since; at.Before(time.Now().Add(time.Second)); at = at.Add(time.Second) {
			value = bytes.ReplaceAll(value, seed.Seconds(at), seed.Seconds(seed.Time))
			value = bytes.ReplaceAll(value, seed.Text(at), seed.Text(seed.Time))
		}
		if !bytes.Contains(value, seed.Seconds(seed.Time)) && !bytes.Contains(value, seed.Text(seed.Time)) {
			t.Fatalf("%s: no time found", objects[i].Key)
		}
		objects[i].Value = value
	}
	return objects
}

// TestTheSeedIsWhatAFreshServerMakes compares the recording with what a server
// without it makes through the API, and with what a server with it ends up
// with.
func TestTheSeedIsWhatAFreshServerMakes(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	// The same port for both: it is in the Service default/kubernetes.
	address := listener.Addr().String()
	listener.Close()

	since := time.Now().Add(-time.Second)
	srv := apiservertest.Start(t, "-listen", address, "-unseeded")
	made, own := record(t, srv, since, seededKinds...), record(t, srv, since, ownKinds...)
	if err := srv.Stop(); err != nil {
		t.Fatal(err)
	}
	if *update {
		_, file, _, _ := runtime.Caller(0)
		path := filepath.Join(filepath.Dir(file), "..", "..", "..", "apis", "server", "seed", "zz_generated.seed.bin")
		if err := os.WriteFile(path, seed.Encode(made), 0o644); err != nil {
			t.Fatal(err)
		}
		t.Logf("recorded %d objects, %d bytes", len(made), len(seed.Encode(made)))
		return
	}
	recorded, err := seed.Objects()
	if err != nil {
		t.Fatal(err)
	}
	compare(t, "made through the API", made, recorded)
	since = time.Now().Add(-time.Second)
	srv = apiservertest.Start(t, "-listen", address)
	compare(t, "after a start with the seed", record(t, srv, since, seededKinds...), recorded)
	compare(t, "after a start with the seed", record(t, srv, since, ownKinds...), own)
}

func compare(t *testing.T, what string, have, recorded []seed.Object) {
	t.Helper()
	want := map[string][]byte{}
	for _, object := range recorded {
		want[object.Key] = object.Value
	}
	for _, object := range have {
		if value, ok := want[object.Key]; !ok || !bytes.Equal(value, object.Value) {
			t.Errorf("%s: %s differs (recorded: %v)\nhave %q\nwant %q", what, object.Key, ok, object.Value, value)
		}
		delete(want, object.Key)
	}
	for key := range want {
		t.Errorf("%s: %s is missing", what, key)
	}
}
