package storage

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.etcd.io/etcd/server/v3/embed"
	"k8s.io/apiserver/pkg/storage/etcd3"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
)

// DefaultCompactionInterval is kube-apiserver's --etcd-compaction-interval.
const DefaultCompactionInterval = 5 * time.Minute

// Config of the storage. The zero value is an embedded, ephemeral member at
// the machine's fixed paths.
type Config struct {
	// DataDir of the embedded member. Default: machinev1alpha1.EtcdDir.
	DataDir string
	// Socket is the unix socket on which the embedded member serves etcd's
	// API to other processes of the machine (etcdctl). At most 100 bytes.
	// Default: etcd.sock in machinev1alpha1.RunDir.
	Socket string
	// Durable makes every write reach the disk before it is answered. False
	// leaves that to the kernel: the death of any process loses nothing, a
	// power cut may.
	Durable bool

	// Servers are the client URLs of an existing etcd cluster; empty means
	// the embedded member. The files are PEM and needed for https only.
	Servers  []string
	CAFile   string
	CertFile string
	KeyFile  string

	// Replica makes the embedded member one of several; nil: it is alone.
	Replica *Replica
	// LeaveOthers makes a member that was one of several the only one of a new
	// etcd: it goes on with what its log says is committed. It is for copies of
	// a data directory.
	LeaveOthers bool
	// OnTrouble is called when the embedded member cannot serve what is in its
	// files, or the existing etcd does not answer at first, before Run returns
	// or the process ends, which etcd does by itself. It may be called several
	// times.
	OnTrouble func(*Trouble)

	// CompactionInterval is how often old revisions are forgotten; a watch or
	// a list page older than one to two intervals has to start anew. Default:
	// DefaultCompactionInterval; negative: never.
	CompactionInterval time.Duration
}

// Storage is one etcd, embedded or remote. All methods may be called from
// several goroutines; Run only once.
type Storage struct {
	cfg Config

	settle sync.Once
	// settled is closed when client or err is set.
	settled chan struct{}
	client  *kubernetes.Client
	err     error

	// mu guards the fields below, which a member of several has once it runs.
	mu         sync.Mutex
	leadership *leadership
	etcd       *embed.Etcd
}

// New checks cfg. It starts nothing.
func New(cfg Config) (*Storage, error) {
	if cfg.DataDir == "" {
		cfg.DataDir = machinev1alpha1.EtcdDir
	}
	if cfg.Socket == "" {
		cfg.Socket = machinev1alpha1.RunDir + "/etcd.sock"
	}
	if cfg.CompactionInterval == 0 {
		cfg.CompactionInterval = DefaultCompactionInterval
	}
	// sun_path has 108 bytes; some are left for etcd's own suffixes.
	if len(cfg.Servers) == 0 && len(cfg.Socket) > 100 {
		return nil, fmt.Errorf("etcd socket %s: longer than 100 bytes", cfg.Socket)
	}
	if (cfg.CertFile == "") != (cfg.KeyFile == "") {
		return nil, errors.New("etcd client certificate: certificate and key files go together")
	}
	if cfg.Replica != nil {
		if err := cfg.Replica.complete(); err != nil {
			return nil, err
		}
	}
	return &Storage{cfg: cfg, settled: make(chan struct{})}, nil
}

// PeerGone takes note of the end of another member's process: if it led, the
// others need not wait for it.
func (s *Storage) PeerGone(name string) {
	s.mu.Lock()
	lead, etcd := s.leadership, s.etcd
	s.mu.Unlock()
	if lead == nil {
		return
	}
	lead.peer(name, false)
	if leader := etcd.Server.Leader(); s.cfg.Replica.nameOf(etcd, leader) == name {
		lead.gone(leader)
	}
}

// PeerLives takes back PeerGone: another process of that member has begun.
func (s *Storage) PeerLives(name string) {
	s.mu.Lock()
	lead := s.leadership
	s.mu.Unlock()
	if lead != nil {
		lead.peer(name, true)
	}
}

// Leave says that the process is about to end: nobody is to wait for a leader
// that the members may never have again.
func (s *Storage) Leave() {
	s.mu.Lock()
	lead := s.leadership
	s.mu.Unlock()
	if lead != nil {
		lead.leave()
	}
}

// Led says whether writes have a chance: the embedded members have a leader,
// as far as this one knows. It is true for an etcd of others.
func (s *Storage) Led() bool {
	s.mu.Lock()
	lead := s.leadership
	s.mu.Unlock()
	return s.cfg.Replica == nil || lead != nil && lead.known()
}

// Embedded reports whether Run starts a member of our own.
func (s *Storage) Embedded() bool { return len(s.cfg.Servers) == 0 }

// Endpoints are the URLs under which other processes, and code that insists
// on a connection of its own, reach this etcd.
func (s *Storage) Endpoints() []string {
	if s.Embedded() {
		return []string{"unix://" + s.cfg.Socket}
	}
	return s.cfg.Servers
}

// TLSFiles are the CA, certificate and key files for Endpoints; empty for the
// embedded member.
func (s *Storage) TLSFiles() (ca, cert, key string) {
	if s.Embedded() {
		return "", "", ""
	}
	return s.cfg.CAFile, s.cfg.CertFile, s.cfg.KeyFile
}

// CompactionInterval is zero when old revisions are kept for ever.
func (s *Storage) CompactionInterval() time.Duration { return max(s.cfg.CompactionInterval, 0) }

// Run serves until ctx ends or etcd fails. When it returns, the embedded
// member is closed; so its users must be gone before ctx ends.
func (s *Storage) Run(ctx context.Context) (err error) {
	defer func() {
		if err == nil {
			err = context.Cause(ctx)
		}
		s.set(nil, fmt.Errorf("etcd stopped: %w", err))
		if ctx.Err() != nil {
			err = nil
		}
	}()
	run := s.runEmbedded
	if !s.Embedded() {
		run = s.runRemote
	}
	err = run(ctx)
	var trouble *Trouble
	if errors.As(err, &trouble) {
		s.tell(trouble)
	}
	return err
}

func (s *Storage) tell(t *Trouble) {
	if s.cfg.OnTrouble != nil {
		s.cfg.OnTrouble(t)
	}
}

// Client waits until Run has an etcd that answers and returns the client that
// the whole process shares. The caller must not close it.
func (s *Storage) Client(ctx context.Context) (*kubernetes.Client, error) {
	select {
	case <-s.settled:
		return s.client, s.err
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for etcd: %w", context.Cause(ctx))
	}
}

// set publishes the client, or the reason why there is none, once.
func (s *Storage) set(client *clientv3.Client, err error) {
	s.settle.Do(func() {
		if err != nil {
			s.err = err
		} else {
			// For the share of etcd in the latency of API requests.
			client.KV = etcd3.NewETCDLatencyTracker(client.KV)
			s.client = &kubernetes.Client{Client: client}
			s.client.Kubernetes = s.client
		}
		close(s.settled)
	})
}
