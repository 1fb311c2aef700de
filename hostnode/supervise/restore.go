package supervise

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"k8s.io/apimachinery/pkg/util/version"

	machine "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/hostnode/snapshot"
)

// RestoreOptions of RestoreSnapshot.
type RestoreOptions struct {
	Snapshot string
	// Cluster is restored, or made of the snapshot if there is none of that
	// name. Empty means the one that the snapshot was taken of.
	Cluster string
	// Version of the calling program.
	Version string
	// Now pulls the plug of a running cluster: Pods have no time to end.
	Now bool
	// Retain keeps what is there when the restore of a new cluster fails.
	Retain bool
	// Progress is called for each event, from one goroutine at a time.
	Progress func(Event)
}

// RestoreSnapshot brings a cluster back to a snapshot, or makes another one of
// it, and returns when its API server is ready. When that fails or ctx ends,
// the cluster is as it was before, or not there.
//
//	verified → staged → stopped → exchanged → started → old state dropped
func RestoreSnapshot(ctx context.Context, opts RestoreOptions) (*Info, error) {
	p, err := DefaultPaths()
	if err != nil {
		return nil, err
	}
	if opts.Progress == nil {
		opts.Progress = func(Event) {}
	}
	end := begin(opts.Progress, StepVerify)
	from, err := p.openSnapshot(opts.Snapshot)
	if err == nil {
		err = from.readableBy(opts.Version)
	}
	if err := end(err); err != nil {
		return nil, err
	}
	if opts.Cluster == "" {
		opts.Cluster = from.manifest.Cluster
	}
	_, rec, unlock, err := lockedRecord(ctx, opts.Cluster)
	if errors.Is(err, ErrNotFound) {
		return p.restoreAnother(ctx, from, opts)
	}
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := from.fits(rec); err != nil {
		return nil, err
	}
	return p.restoreSame(ctx, rec, from, opts)
}

// origin is a snapshot that a cluster is made of.
type origin struct {
	dir      string
	manifest *snapshot.Manifest
	rec      *record
}

// openSnapshot finds a snapshot and reads it to its end.
func (p Paths) openSnapshot(name string) (*origin, error) {
	s := snapshot.Store{Dir: p.Snapshots()}
	m, err := s.Get(name)
	if err != nil {
		return nil, err
	}
	if err := s.Verify(m); err != nil {
		return nil, err
	}
	rec, err := readRecordAt(filepath.Join(s.Path(name), snapshot.RecordFile))
	if err != nil {
		return nil, fmt.Errorf("snapshot %q: %w", name, err)
	}
	if len(rec.Cluster.EtcdServers) > 0 {
		return nil, foreignEtcd(rec.Cluster.Name)
	}
	return &origin{dir: s.Path(name), manifest: m, rec: rec}, nil
}

// readableBy refuses a snapshot of a later minor release of Kubernetes: its
// objects may be of versions that this one does not know.
func (o *origin) readableBy(ours string) error {
	theirs, err := version.ParseGeneric(o.manifest.Version)
	mine, mineErr := version.ParseGeneric(ours)
	if err != nil || mineErr != nil {
		return nil // of a build without one
	}
	if theirs.WithPatch(0).GreaterThan(mine.WithPatch(0)) {
		return fmt.Errorf("snapshot %q: %w: %s, and this is %s", o.manifest.Name, snapshot.ErrNewer, o.manifest.Version, ours)
	}
	return nil
}

// fits says whether a cluster is the one that the snapshot was taken of, with
// the same machines.
func (o *origin) fits(rec *record) error {
	name := rec.Cluster.Name
	if rec.ID != o.rec.ID {
		return &Refusal{Err: fmt.Errorf("cluster %q: %w, and is not the one that snapshot %q was taken of", name, ErrExists, o.manifest.Name),
			Help: "restore it as another one with --name NEW, or skiff delete cluster --name " + name + " first"}
	}
	same := slices.EqualFunc(rec.Machines, o.rec.Machines, func(a, b machineRecord) bool {
		return a.Name == b.Name && a.Role == b.Role && slices.Equal(a.IPs, b.IPs) && slices.Equal(a.PodCIDRs, b.PodCIDRs)
	})
	if !same {
		return &Refusal{Err: fmt.Errorf("cluster %q has other nodes than when snapshot %q was taken", name, o.manifest.Name),
			Help: "restore it as another cluster with --name NEW"}
	}
	return nil
}

// restoreSame gives a cluster the state that the snapshot has. Volumes stay as
// they are; those that are gone begin empty, and the user is told.
func (p Paths) restoreSame(ctx context.Context, rec *record, from *origin, opts RestoreOptions) (*Info, error) {
	name := rec.Cluster.Name
	r := p.replacement(name)
	end := begin(opts.Progress, StepRestore)
	live, volumes, err := p.stage(ctx, rec, from, r)
	if err := end(err); err != nil {
		return nil, errors.Join(roomy(err, r.dir), r.drop())
	}
	ran := p.meantToRun(name) == nil
	err = p.stop(ctx, rec, StopOptions{Now: opts.Now, Progress: opts.Progress})
	// Before anything has a use for them: one that no object has is swept away
	// by the next control plane.
	var made []string
	if err == nil {
		made, err = makeVolumes(p.Cluster(name), volumes)
	}
	if err == nil {
		err = r.exchange(live)
	}
	var info *Info
	if err == nil {
		info, err = p.start(ctx, rec, StartOptions{Progress: opts.Progress})
	}
	if err != nil {
		return nil, errors.Join(err, p.unrestore(ctx, rec, r, made, ran, opts))
	}
	for _, volume := range made {
		opts.Progress(Event{Step: StepRestore, Done: true, Note: "volume " + volume + " was gone: it begins empty"})
	}
	return info, r.drop()
}

// stage makes the new directories and returns whose places they take, and the
// volumes that there are to be.
func (p Paths) stage(ctx context.Context, rec *record, from *origin, r replacement) (live, volumes []string, err error) {
	live = []string{"pki"}
	for _, m := range rec.controlPlanes() {
		live = append(live, etcdDir("", m.Name))
	}
	if err := r.stage(live); err != nil {
		return nil, nil, err
	}
	if err := copyPlain(filepath.Join(from.dir, snapshot.PKIDir), r.next(0)); err != nil {
		return nil, nil, err
	}
	dirs := make([]string, len(live)-1)
	for i := range dirs {
		dirs[i] = r.next(i + 1)
	}
	volumes, err = p.restoreEtcd(ctx, rec, from, dirs, "")
	return live, volumes, err
}

// etcdPeerPort is where members of an etcd with several serve each other.
const etcdPeerPort = 2380

// restoreEtcd makes the data directories of a new etcd's members, one for each
// control plane in their order, and returns the directories of volumes that the
// objects have. plan is a file that says what is called otherwise, if anything
// is. Each of several has all that there is: one that is lost later joins the
// others, see memberLost.
func (p Paths) restoreEtcd(ctx context.Context, rec *record, from *origin, dirs []string, plan string) ([]string, error) {
	args := []string{"restore", "--file", filepath.Join(from.dir, snapshot.EtcdFile), "--token", rec.ID, "--relocate", plan}
	var has struct{ Volumes []string }
	if err := p.etcdTool(ctx, &has, append(args, memberArgs(rec, dirs)...)...); err != nil || len(dirs) == 1 {
		return has.Volumes, err
	}
	for _, dir := range dirs {
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(machine.EtcdFormedFile)), nil, 0o600); err != nil {
			return nil, fmt.Errorf("restore etcd: %w", err)
		}
	}
	return has.Volumes, nil
}

func memberArgs(rec *record, dirs []string) []string {
	if len(dirs) == 1 {
		return []string{"--data-dir", dirs[0]}
	}
	var args []string
	for i, m := range rec.controlPlanes() {
		args = append(args, "--member", m.Name+"=https://"+joinPort(m.IPs[0].String(), etcdPeerPort)+"="+dirs[i])
	}
	return args
}

// unrestore brings a cluster back whose restore failed, without the volumes that
// it made; the caller's ctx may be what has ended.
func (p Paths) unrestore(ctx context.Context, rec *record, r replacement, made []string, ran bool, opts RestoreOptions) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoBound)
	defer cancel()
	end := begin(opts.Progress, StepUndo)
	err := p.stop(ctx, rec, StopOptions{Now: true})
	if err == nil {
		err = unmakeVolumes(r.cluster, made)
	}
	if err == nil {
		err = r.reverse()
	}
	if err == nil {
		err = r.drop()
	}
	if err == nil && ran {
		_, err = p.start(ctx, rec, StartOptions{})
	}
	if err != nil {
		err = fmt.Errorf("undo: %w", err)
	}
	return end(err)
}
