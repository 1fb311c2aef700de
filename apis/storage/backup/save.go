package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.uber.org/zap"

	"github.com/skiff-k8s/skiff/apis/storage"
)

// Status describes a saved etcd.
type Status struct {
	// Revision is the last one that it holds, Keys how many keys live then.
	Revision int64 `json:"revision"`
	Keys     int   `json:"keys"`
	// Hash is of the content, the same for each copy.
	Hash uint32 `json:"hash"`
}

// Save writes what the member at endpoint holds to path, where nothing is.
func Save(ctx context.Context, endpoint, path string) (*Status, error) {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()})
	if err != nil {
		return nil, fmt.Errorf("call etcd at %s: %w", endpoint, err)
	}
	defer client.Close()
	if err := save(ctx, client, path); err != nil {
		return nil, fmt.Errorf("save etcd at %s: %w", endpoint, err)
	}
	return status(path)
}

// SaveStopped writes what the member of a data directory held to path. The
// member runs for a moment on a copy beside path: what its log has and its
// database has not is part of it.
func SaveStopped(ctx context.Context, dir, path string) (st *Status, err error) {
	copied := path + ".data"
	defer func() { err = errors.Join(err, os.RemoveAll(copied)) }()
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		return nil, fmt.Errorf("copy etcd's directory %s: %w", dir, err)
	}
	err = Edit(ctx, copied, func(ctx context.Context, client *clientv3.Client) error { return save(ctx, client, path) })
	if err != nil {
		return nil, fmt.Errorf("save etcd of %s: %w", dir, err)
	}
	return status(path)
}

// Edit runs a member on a data directory that nobody else uses.
func Edit(ctx context.Context, dir string, do func(context.Context, *clientv3.Client) error) (err error) {
	// A short name for the directory, however long its path is: that of a
	// socket has 107 bytes.
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	socket := "/proc/self/fd/" + strconv.Itoa(int(d.Fd())) + "/skiff.sock"
	etcd, err := storage.New(storage.Config{DataDir: dir, Socket: socket, Durable: true, CompactionInterval: -1})
	if err != nil {
		return err
	}
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- etcd.Run(running) }()
	defer func() {
		stop()
		err = errors.Join(err, <-ended)
		if removeErr := os.Remove(filepath.Join(dir, "skiff.sock")); !errors.Is(removeErr, fs.ErrNotExist) {
			err = errors.Join(err, removeErr)
		}
	}()
	client, err := etcd.Client(ctx)
	if err != nil {
		return err
	}
	return do(ctx, client.Client)
}

func save(ctx context.Context, client *clientv3.Client, path string) (err error) {
	from, err := client.Snapshot(ctx)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	if _, err := io.Copy(to, from); err != nil {
		return err
	}
	return to.Sync()
}

// status reads a saved etcd to its end, so that a database that etcd itself
// finds broken is no snapshot.
func status(path string) (*Status, error) {
	st, err := snapshot.NewV3(zap.NewNop()).Status(path)
	if err != nil {
		return nil, fmt.Errorf("check %s: %w", path, err)
	}
	return &Status{Revision: st.Revision, Keys: st.TotalKey, Hash: st.Hash}, nil
}
