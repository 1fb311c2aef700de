package storage

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver"
)

// run starts an embedded member and returns it when it answers.
func run(t *testing.T, cfg Config) (*Storage, func()) {
	t.Helper()
	// Unix socket paths are short.
	dir, err := os.MkdirTemp("", "sk")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	cfg.Socket = filepath.Join(dir, "etcd.sock")
	if cfg.DataDir == "" {
		cfg.DataDir = filepath.Join(dir, "data")
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop := func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if _, err := s.Client(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s, stop
}

func TestTheEmbeddedMember(t *testing.T) {
	dir := t.TempDir()
	s, stop := run(t, Config{DataDir: dir})
	client, err := s.Client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Put(t.Context(), "/k", "v"); err != nil {
		t.Fatal(err)
	}

	// Slow ticks must not slow down what hangs on a leader or a lease.
	time.Sleep(3 * time.Second)
	start := time.Now()
	if _, err := client.KV.Get(t.Context(), "/k"); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 500*time.Millisecond {
		t.Errorf("a linearizable read took %v", took)
	}
	lease, err := client.Grant(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Put(t.Context(), "/leased", "v", clientv3.WithLease(lease.ID)); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(15 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		left, err := client.KV.Get(t.Context(), "/leased")
		if err != nil {
			t.Fatal(err)
		}
		if len(left.Kvs) == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("a lease of a second does not end")
		}
	}
	var size int64
	err = filepath.Walk(dir, func(_ string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			size += info.Size()
		}
		return err
	})
	if err != nil || size > 20<<20 {
		t.Errorf("data directory: %d bytes, %v", size, err)
	}
	stop()
	if _, err := os.Stat(s.cfg.Socket); !os.IsNotExist(err) {
		t.Errorf("socket: %v", err)
	}

	again, stop := run(t, Config{DataDir: dir})
	defer stop()
	client, err = again.Client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got, err := client.KV.Get(t.Context(), "/k")
	if err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "v" {
		t.Errorf("after a restart: %v, %v", got, err)
	}
}

// TestTheRaftTickerIsWhereWeLookForIt fails when an update of etcd moves it.
func TestTheRaftTickerIsWhereWeLookForIt(t *testing.T) {
	if slowTicks(&etcdserver.EtcdServer{}) {
		t.Error("found in a server that has none")
	}
	cfg, err := (&Storage{cfg: Config{DataDir: t.TempDir(), Socket: filepath.Join(t.TempDir(), "s")}}).embedConfig(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cfg.ListenClientUrls = nil
	etcd, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer etcd.Close()
	if !slowTicks(etcd.Server) {
		t.Error("not found")
	}
}

func TestADataDirectoryThatIsNoDirectoryIsAnError(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{DataDir: file, Socket: filepath.Join(os.TempDir(), "sk-never.sock")})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context()); err == nil {
		t.Error("runs")
	}
	if _, err := s.Client(t.Context()); err == nil {
		t.Error("has a client")
	}
}

func TestNewChecks(t *testing.T) {
	for name, cfg := range map[string]Config{
		"a socket path too long": {Socket: "/" + string(make([]byte, 101))},
		"half a key pair":        {Servers: []string{"https://127.0.0.1:1"}, CertFile: "a"},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}
