package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

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

// Save writes what an etcd holds to path, where nothing is. Endpoints are of
// members that run, of which some may lag behind.
func Save(ctx context.Context, endpoints []string, path string) (*Status, error) {
	for left := slices.Clone(endpoints); ; {
		client, err := upToDate(ctx, left)
		if err != nil {
			return nil, fmt.Errorf("read etcd at %s: %w", strings.Join(left, ", "), err)
		}
		from := client.Endpoints()[0]
		err = save(ctx, client, path)
		client.Close()
		if err == nil {
			return status(path)
		}
		// It may have died on the way; another has the same.
		left = slices.DeleteFunc(left, func(e string) bool { return e == from })
		if len(left) == 0 {
			return nil, fmt.Errorf("save etcd at %s: %w", from, err)
		}
	}
}

// upToDate is a client of the first member that has all that was acknowledged
// before the call: a member's snapshot is of what that member has, a read that
// is linearizable waits until it has it all, or fails without a majority.
func upToDate(ctx context.Context, endpoints []string) (*clientv3.Client, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		client *clientv3.Client
		err    error
	}
	answers := make(chan answer, len(endpoints))
	for _, endpoint := range endpoints {
		go func() {
			client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()})
			if err == nil {
				if _, err = client.Get(ctx, "/", clientv3.WithCountOnly()); err != nil {
					client.Close()
				}
			}
			answers <- answer{client, err}
		}()
	}
	var first *clientv3.Client
	var errs []error
	for range endpoints {
		a := <-answers
		switch {
		case a.err != nil:
			errs = append(errs, a.err)
		case first == nil:
			first = a.client
			cancel() // the others are not needed
		default:
			a.client.Close()
		}
	}
	if first == nil {
		return nil, errors.Join(errs...)
	}
	return first, nil
}

// SaveStopped writes what an etcd held to path whose members do not run: dirs
// are the data directories of all, or of a majority. The member that has the
// last writes runs for a moment on a copy beside path: what its log has and
// its database has not is part of it. One that is damaged, a storage.Trouble,
// does not count.
func SaveStopped(ctx context.Context, dirs []string, path string) (st *Status, err error) {
	var whole []string
	var troubles []error
	for _, dir := range dirs {
		// Of a copy there is less to tell.
		if err := storage.Inspect(dir); err != nil {
			troubles = append(troubles, err)
		} else {
			whole = append(whole, dir)
		}
	}
	if len(whole) == 0 {
		return nil, errors.Join(troubles...)
	}
	from, err := mostAdvanced(whole)
	if err != nil {
		return nil, errors.Join(append(troubles, err)...)
	}
	dir, several := from.dir, len(from.voters) > 1
	copied := path + ".data"
	defer func() { err = errors.Join(err, os.RemoveAll(copied)) }()
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		return nil, fmt.Errorf("copy etcd's directory %s: %w", dir, err)
	}
	if several {
		if err := commitAll(copied); err != nil {
			return nil, fmt.Errorf("end the log of %s: %w", dir, err)
		}
	}
	err = edit(ctx, copied, several, func(ctx context.Context, client *clientv3.Client) error { return save(ctx, client, path) })
	if err != nil {
		return nil, fmt.Errorf("save etcd of %s: %w", dir, err)
	}
	return status(path)
}

// Edit runs a member on a data directory that nobody else uses.
func Edit(ctx context.Context, dir string, do func(context.Context, *clientv3.Client) error) error {
	return edit(ctx, dir, false, do)
}

func edit(ctx context.Context, dir string, leaveOthers bool, do func(context.Context, *clientv3.Client) error) (err error) {
	// A short name for the directory, however long its path is: that of a
	// socket has 107 bytes.
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	socket := "/proc/self/fd/" + strconv.Itoa(int(d.Fd())) + "/skiff.sock"
	etcd, err := storage.New(storage.Config{DataDir: dir, Socket: socket, Durable: true, CompactionInterval: -1, LeaveOthers: leaveOthers})
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
	defer func() {
		if err = errors.Join(err, to.Close()); err != nil {
			err = errors.Join(err, os.Remove(path)) // half of it is of no use
		}
	}()
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
