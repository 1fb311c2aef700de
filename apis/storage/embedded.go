package storage

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.uber.org/zap"

	"github.com/skiff-k8s/skiff/apis/storage/pagesum"
)

// MaxTxnOps is how many operations the embedded member takes in one
// transaction, so that the bootstrap objects fit into one.
const MaxTxnOps = 1024

const (
	// tickMs and electionMs are for a cluster of one: nobody's heartbeat can
	// be missed, and the wait for the first election is random in
	// 0..electionMs.
	tickMs     = 10
	electionMs = 50
	// walSegmentBytes replaces 64 MB, which are allocated twice at start.
	walSegmentBytes = 4 << 20
	// quotaBytes is the most etcd upstream recommends; the default of 2 GiB
	// ends in a read-only cluster sooner than a developer expects.
	quotaBytes = 8 << 30
	// sumsLook is how often is looked whether the database has become another
	// one: a member that was far behind receives one, and etcdctl defrag makes
	// one.
	sumsLook = 30 * time.Second
	// MemberName and PeerURL only have to be the same at every start. The
	// member listens for no peers.
	MemberName = "skiff"
	PeerURL    = "http://127.0.0.1:2380"
)

func (s *Storage) runEmbedded(ctx context.Context) error {
	cfg, err := s.embedConfig(ctx)
	if err != nil {
		return err
	}
	replica, joined := s.cfg.Replica, false
	if replica == nil {
		err = Inspect(cfg.Dir)
	} else {
		joined, err = s.enter(ctx, cfg)
	}
	if err != nil {
		return err
	}
	sums := pagesum.New(pagesum.Config{Path: filepath.Join(cfg.Dir, sumsFile), Durable: s.cfg.Durable})
	defer sums.Close()
	etcd, err := startEtcd(cfg)
	if err != nil {
		return fmt.Errorf("start etcd in %s: %w", cfg.Dir, err)
	}
	defer etcd.Close()
	attach(sums, etcd)
	if err := os.Chmod(s.cfg.Socket, 0o600); err != nil {
		return fmt.Errorf("close etcd's socket to others: %w", err)
	}

	if replica != nil {
		closePeers, err := replica.servePeers(etcd, zap.New(logCore{quiet: ctx}))
		if err != nil {
			return err
		}
		defer closePeers()
		lead := newLeadership(etcd.Server, tickPacer(etcd.Server), replicaTickMs*time.Millisecond)
		lead.bearable = (len(replica.Members) - 1) / 2
		led, unled := context.WithCancel(ctx)
		defer unled()
		go lead.run(led)
		lead.hasten()
		s.mu.Lock()
		s.leadership, s.etcd = lead, etcd
		s.mu.Unlock()
	}

	var reads <-chan struct{}
	if replica != nil {
		if joined {
			if err := replica.promote(ctx, etcd); err != nil {
				return err
			}
		}
		reads = replica.reads(ctx, etcd)
	}
	select {
	case <-etcd.Server.ReadyNotify():
	case <-reads:
	case <-etcd.Server.StopNotify():
		return fmt.Errorf("etcd in %s stopped while starting", cfg.Dir)
	case err := <-etcd.Err():
		return fmt.Errorf("etcd in %s: %w", cfg.Dir, err)
	case <-ctx.Done():
		return nil
	}
	client := v3client.New(etcd.Server)
	defer client.Close()
	if replica == nil {
		slowTicks(etcd.Server)
	} else {
		// It may have ended while it was one, and knows only now.
		if learns(etcd) {
			if err := replica.promote(ctx, etcd); err != nil {
				return err
			}
		}
		if err := replica.form(); err != nil {
			return err
		}
		client.KV = ledKV{client.KV, s.leadership}
		attach(sums, etcd) // to the database that the others have sent
	}
	s.set(client, nil)

	look := time.NewTicker(sumsLook)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-etcd.Server.StopNotify():
			return fmt.Errorf("etcd in %s stopped", cfg.Dir)
		case err := <-etcd.Err():
			return fmt.Errorf("etcd in %s: %w", cfg.Dir, err)
		case <-look.C:
			attach(sums, etcd)
		}
	}
}

func attach(sums *pagesum.Keeper, etcd *embed.Etcd) {
	if err := sums.Attach(etcd.Server.Backend()); err != nil {
		slog.Warn("etcd's database has no checksums: damage is not noticed", "error", err)
	}
}

// A variable of etcd's, which whoever writes a log reads: it is set once, before
// anybody does.
func init() { wal.SegmentSizeBytes = walSegmentBytes }

func (s *Storage) embedConfig(ctx context.Context) (*embed.Config, error) {
	if err := os.MkdirAll(s.cfg.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("make etcd's data directory: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(s.cfg.Socket), 0o755); err != nil {
		return nil, fmt.Errorf("make the directory of etcd's socket: %w", err)
	}
	client := url.URL{Scheme: "unix", Path: s.cfg.Socket}
	peer, err := url.Parse(PeerURL)
	if err != nil {
		return nil, err
	}

	cfg := embed.NewConfig()
	cfg.Name = MemberName
	cfg.Dir = s.cfg.DataDir
	cfg.ListenClientUrls = []url.URL{client}
	cfg.AdvertiseClientUrls = []url.URL{client}
	cfg.ListenPeerUrls = nil
	cfg.AdvertisePeerUrls = []url.URL{*peer}
	cfg.InitialCluster = cfg.InitialClusterFromName(MemberName)
	cfg.TickMs, cfg.ElectionMs = tickMs, electionMs
	cfg.ForceNewCluster = s.cfg.LeaveOthers
	cfg.UnsafeNoFsync = !s.cfg.Durable
	cfg.QuotaBackendBytes = quotaBytes
	cfg.MaxTxnOps = MaxTxnOps
	// The REST gateway would connect back to the socket for nobody.
	cfg.EnableGRPCGateway = false
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.New(logCore{quiet: ctx},
		zap.WithFatalHook(lastWord{s.cfg.DataDir, s.tell, exit}), zap.WithPanicHook(lastWord{s.cfg.DataDir, s.tell, throw})))
	return cfg, nil
}
