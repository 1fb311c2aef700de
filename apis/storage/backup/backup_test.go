package backup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/skiff-k8s/skiff/apis/storage"
	"github.com/skiff-k8s/skiff/apis/storage/pagesum/pagesumtest"
)

// run starts a member and returns a client of it, and the end of it.
func run(t *testing.T, dir string) (*clientv3.Client, string, func()) {
	t.Helper()
	sockets, err := os.MkdirTemp("", "skiff")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(sockets) })
	socket := filepath.Join(sockets, "s")
	etcd, err := storage.New(storage.Config{DataDir: dir, Socket: socket})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- etcd.Run(ctx) }()
	stop := func() {
		cancel()
		if err, ok := <-ended; ok && err != nil {
			t.Error(err)
		}
		close(ended)
	}
	client, err := etcd.Client(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return client.Client, "unix://" + socket, stop
}

func put(t *testing.T, client *clientv3.Client, key, value string) int64 {
	t.Helper()
	r, err := client.Put(t.Context(), key, value)
	if err != nil {
		t.Fatal(err)
	}
	return r.Header.Revision
}

func content(t *testing.T, client *clientv3.Client) string {
	t.Helper()
	r, err := client.Get(t.Context(), "", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	text := ""
	for _, kv := range r.Kvs {
		text += fmt.Sprintf("%s=%s@%d ", kv.Key, kv.Value, kv.ModRevision)
	}
	return text
}

func TestARestoredEtcdHoldsWhatWasSavedAndGoesOnFarAbove(t *testing.T) {
	dir := t.TempDir()
	live := filepath.Join(dir, "live")
	client, endpoint, stop := run(t, live)
	for i := range 50 {
		put(t, client, fmt.Sprintf("key%02d", i), "old")
	}
	want := content(t, client)
	running, err := Save(t.Context(), []string{endpoint}, filepath.Join(dir, "running.db"))
	if err != nil {
		t.Fatal(err)
	}
	last := put(t, client, "key00", "new")
	stop()
	stopped, err := SaveStopped(t.Context(), []string{live}, filepath.Join(dir, "stopped.db"))
	if err != nil {
		t.Fatal(err)
	}
	if running.Keys != 50 || running.Revision != last-1 || stopped.Keys != 50 || stopped.Revision != last || running.Hash == stopped.Hash {
		t.Errorf("running %+v, stopped %+v, last revision %d", running, stopped, last)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.data")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}

	restored := filepath.Join(dir, "restored")
	if err := Restore(filepath.Join(dir, "running.db"), restored, "token", Alone); err != nil {
		t.Fatal(err)
	}
	client, endpoint, stop = run(t, restored)
	if got := content(t, client); got != want {
		t.Errorf("saved %s\nrestored %s", want, got)
	}
	if next := put(t, client, "next", "x"); next < last+revisionBump {
		t.Errorf("revisions go on at %d", next)
	}
	// Who saw what is no more must not wait for it.
	watch := <-client.Watch(t.Context(), "key00", clientv3.WithRev(last))
	if watch.CompactRevision == 0 {
		t.Errorf("a watch from the past: %+v", watch)
	}
	again, err := Save(t.Context(), []string{endpoint}, filepath.Join(dir, "again.db"))
	stop()
	if err != nil {
		t.Fatal(err)
	}
	if again.Revision < last+revisionBump {
		t.Errorf("saved again: %+v", again)
	}
	twice := filepath.Join(dir, "twice")
	if err := Restore(filepath.Join(dir, "again.db"), twice, "token2", Alone); err != nil {
		t.Fatal(err)
	}
	client, _, stop = run(t, twice)
	defer stop()
	if next := put(t, client, "next", "y"); next < last+2*revisionBump {
		t.Errorf("restored twice, revisions go on at %d", next)
	}
}

// TestADamagedFileIsRefused: by etcd's own checksum.
func TestADamagedFileIsRefused(t *testing.T) {
	dir := t.TempDir()
	client, endpoint, stop := run(t, filepath.Join(dir, "live"))
	put(t, client, "key", "value")
	path := filepath.Join(dir, "file.db")
	_, err := Save(t.Context(), []string{endpoint}, path)
	stop()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Restore(path, filepath.Join(dir, "restored"), "token", Alone); err == nil {
		t.Error("restored a damaged file")
	}
}

// TestWhatOnlyTheLogHasIsSaved: a member that was killed has not written its
// last keys to the database.
func TestWhatOnlyTheLogHasIsSaved(t *testing.T) {
	dir := t.TempDir()
	live, killed := filepath.Join(dir, "live"), filepath.Join(dir, "killed")
	client, _, stop := run(t, live)
	defer stop()
	put(t, client, "key", "value")
	if err := os.CopyFS(killed, os.DirFS(filepath.Dir(live)+"/live")); err != nil {
		t.Fatal(err)
	}
	st, err := SaveStopped(t.Context(), []string{killed}, filepath.Join(dir, "killed.db"))
	if err != nil || st.Keys != 1 {
		t.Errorf("%+v, %v", st, err)
	}
}

func TestADamagedDirectoryIsNotSaved(t *testing.T) {
	dir := t.TempDir()
	live := filepath.Join(dir, "live")
	client, _, stop := run(t, live)
	put(t, client, "key", "the value")
	stop()
	db := filepath.Join(live, "member/snap/db")
	at, err := pagesumtest.Find(db, "the value")
	if err == nil {
		err = pagesumtest.Flip(db, at)
	}
	if err != nil {
		t.Fatal(err)
	}
	var trouble *storage.Trouble
	if _, err := SaveStopped(t.Context(), []string{live}, filepath.Join(dir, "saved.db")); !errors.As(err, &trouble) || trouble.File != db {
		t.Errorf("have %v", err)
	}
	if err := pagesumtest.Flip(db, at); err != nil {
		t.Fatal(err)
	}
	if _, err := SaveStopped(t.Context(), []string{live}, filepath.Join(dir, "saved.db")); err != nil {
		t.Errorf("as it was: %v", err)
	}
}
