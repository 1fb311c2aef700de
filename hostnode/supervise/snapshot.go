package supervise

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
	"time"

	machine "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/hostnode/namespaces"
	"github.com/skiff-k8s/skiff/hostnode/snapshot"
)

// ErrForeignEtcd says that the cluster's data is in an etcd that is not ours.
var ErrForeignEtcd = errors.New("the cluster's data is in an etcd of your own")

// etcdSocketBound is how long the etcd of a running machine may take to
// answer: its process may just be starting.
const etcdSocketBound = 30 * time.Second

// SnapshotOptions of CreateSnapshot.
type SnapshotOptions struct {
	Cluster string
	// Name of the snapshot; empty means the cluster's and the time.
	Name string
	// Version of the calling program.
	Version string
	// Progress is called for each event, from one goroutine at a time.
	Progress func(Event)
}

// CreateSnapshot saves the control plane of a cluster, running or stopped:
// etcd, certificates and keys, and the record.
func CreateSnapshot(ctx context.Context, opts SnapshotOptions) (m *snapshot.Manifest, err error) {
	p, rec, unlock, err := lockedRecord(ctx, opts.Cluster)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if len(rec.Cluster.EtcdServers) > 0 {
		return nil, foreignEtcd(opts.Cluster)
	}
	now := time.Now().UTC()
	if opts.Name == "" {
		opts.Name = opts.Cluster + now.Format("-20060102-150405.000")
	}
	progress := opts.Progress
	if progress == nil {
		progress = func(Event) {}
	}
	end := begin(progress, StepSave)
	d, err := p.draft(ctx, opts.Name)
	if err != nil {
		return nil, end(err)
	}
	defer func() { err = errors.Join(err, d.Discard()) }()
	m = &snapshot.Manifest{
		Created: now.Truncate(time.Millisecond), Version: opts.Version, Cluster: opts.Cluster, ClusterID: rec.ID, Nodes: len(rec.Machines),
	}
	if err = p.save(ctx, rec, d.Dir(), &m.Etcd); err == nil {
		m, err = d.Publish(*m)
	}
	return m, end(roomy(err, p.Snapshots()))
}

func foreignEtcd(name string) error {
	return &Refusal{Field: "etcdServers", Err: fmt.Errorf("cluster %q: %w", name, ErrForeignEtcd),
		Help: "save and restore that etcd with its own tools (etcdctl snapshot save), and keep a copy of the cluster's directory for the key of its Secrets"}
}

// store is the host's, without what dead commands left half-made in it.
func (p Paths) store(ctx context.Context) (snapshot.Store, error) {
	s := snapshot.Store{Dir: p.Snapshots()}
	unlock, err := p.lockSnapshots(ctx)
	if err != nil {
		return s, err
	}
	defer unlock()
	return s, s.Sweep()
}

func (p Paths) draft(ctx context.Context, name string) (*snapshot.Draft, error) {
	s := snapshot.Store{Dir: p.Snapshots()}
	unlock, err := p.lockSnapshots(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := s.Sweep(); err != nil {
		return nil, err
	}
	return s.Draft(name)
}

func (p Paths) lockSnapshots(ctx context.Context) (func(), error) {
	return lock(ctx, filepath.Join(p.RunDir, ".snapshots.lock"))
}

// save writes what a snapshot of the cluster holds into dir.
func (p Paths) save(ctx context.Context, rec *record, dir string, etcd *snapshot.Etcd) error {
	// The database first: it takes longest, and all else stays as it is while
	// we have the cluster's lock.
	if err := p.saveEtcd(ctx, rec, filepath.Join(dir, snapshot.EtcdFile), etcd); err != nil {
		return err
	}
	own := p.Cluster(rec.Cluster.Name)
	if err := snapshot.CopyFile(p.record(rec.Cluster.Name), filepath.Join(dir, snapshot.RecordFile)); err != nil {
		return err
	}
	if err := copyPlain(filepath.Join(own, "pki"), filepath.Join(dir, snapshot.PKIDir)); err != nil {
		return err
	}
	for _, file := range givenFiles {
		from := filepath.Join(own, "machines", rec.controlPlane().Name, "etc", filepath.Base(file))
		err := snapshot.CopyFile(from, filepath.Join(dir, snapshot.EtcDir, filepath.Base(file)))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// givenFiles are the user's that the control plane reads, by their paths in
// the machine. Those for an etcd of the user's own are not among them.
var givenFiles = []string{auditPolicyFile}

// saveEtcd asks the members that run. Of a cluster that does not, it reads
// their directories.
func (p Paths) saveEtcd(ctx context.Context, rec *record, file string, etcd *snapshot.Etcd) error {
	name := rec.Cluster.Name
	layout, err := namespaces.Layout()
	if err != nil {
		return err
	}
	paused := false
	args := []string{"save", "--file", file}
	for _, m := range rec.controlPlanes() {
		proc, _, err := findProcess(p.machineState(name, m.Name))
		if errors.Is(err, namespaces.ErrGone) {
			continue
		}
		if err != nil {
			return err
		}
		defer proc.Close()
		if layout.Frozen(machineCgroup(name, m.Name)) {
			paused = true
			continue
		}
		socket := filepath.Join("/proc", strconv.Itoa(proc.PID), "root", machine.RunDir, "etcd.sock")
		args = append(args, "--endpoint", "unix://"+socket)
	}
	switch {
	case slices.Contains(args, "--endpoint"):
		bounded, cancel := context.WithTimeoutCause(ctx, etcdSocketBound, fmt.Errorf("the etcd of cluster %q does not answer within %v", name, etcdSocketBound))
		defer cancel()
		return p.etcdTool(bounded, etcd, args...)
	case paused:
		return fmt.Errorf("cluster %q: %w", name, ErrPaused)
	case p.meantToRun(name) == nil && p.supervised(name):
		return fmt.Errorf("cluster %q: %w", name, ErrNotRunning)
	}
	return p.saveStopped(ctx, rec, file, etcd)
}

// saveStopped has what is not as the last stop left it out: a majority of the
// others has what is in it.
func (p Paths) saveStopped(ctx context.Context, rec *record, file string, etcd *snapshot.Etcd) error {
	name := rec.Cluster.Name
	args := []string{"save", "--file", file}
	var damaged []trouble
	for _, m := range rec.controlPlanes() {
		changed, err := p.changed(name, m.Name)
		if err != nil {
			return err
		}
		if changed != "" {
			damaged = append(damaged, sealBroken(m.Name, changed))
			continue
		}
		args = append(args, "--data-dir", p.etcdDir(name, m.Name))
	}
	if !p.majorityWithout(rec, damaged) {
		return p.refuse(name, damaged)
	}
	return p.etcdTool(ctx, etcd, args...)
}

// copyPlain copies the files of a directory that has no others.
func copyPlain(from, to string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() || filepath.Ext(e.Name()) == ".new" {
			continue // half-written, of a command that was killed
		}
		if err := snapshot.CopyFile(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// Snapshots lists those of the host, the oldest first.
func Snapshots(ctx context.Context) ([]snapshot.Manifest, error) {
	p, err := DefaultPaths()
	if err != nil {
		return nil, err
	}
	return snapshot.Store{Dir: p.Snapshots()}.List()
}

// DeleteSnapshot removes one.
func DeleteSnapshot(ctx context.Context, name string) error {
	p, err := DefaultPaths()
	if err != nil {
		return err
	}
	s, err := p.store(ctx)
	if err != nil {
		return err
	}
	return s.Delete(name)
}

// ExportSnapshot writes one as one file.
func ExportSnapshot(_ context.Context, name string, w io.Writer) error {
	p, err := DefaultPaths()
	if err != nil {
		return err
	}
	s := snapshot.Store{Dir: p.Snapshots()}
	m, err := s.Get(name)
	if err != nil {
		return err
	}
	return s.Export(m, w)
}

// ImportSnapshot reads what ExportSnapshot wrote. An empty name means the one
// that it has.
func ImportSnapshot(ctx context.Context, name string, r io.Reader) (m *snapshot.Manifest, err error) {
	p, err := DefaultPaths()
	if err != nil {
		return nil, err
	}
	a, err := snapshot.ReadArchive(r)
	if err != nil {
		return nil, err
	}
	if name == "" {
		name = a.Manifest.Name
	}
	d, err := p.draft(ctx, name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.Discard()) }()
	if err := a.Extract(d); err != nil {
		return nil, roomy(err, p.Snapshots())
	}
	// Before it is one of ours: a record that nobody here could restore.
	if _, err := readRecordAt(filepath.Join(d.Dir(), snapshot.RecordFile)); err != nil {
		return nil, err
	}
	m, err = d.Publish(a.Manifest)
	return m, roomy(err, p.Snapshots())
}
