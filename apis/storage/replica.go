package storage

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/client/pkg/v3/types"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/etcdhttp"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
	"go.uber.org/zap"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
)

// Replica makes the embedded member one of several.
type Replica struct {
	// Name is this member's, among Members.
	Name string
	// Members are all of them, in the same order everywhere.
	Members []Member
	// Join says that the others have formed a cluster: without data, this
	// member joins it instead of founding one.
	Join bool
	// The files are PEM, for both ends of connections between members.
	CAFile, CertFile, KeyFile string
	// Formed is made when the member has been part of the whole.
	Formed string
	// ClientPort and PeerPort; default: the machine API's.
	ClientPort, PeerPort int
}

// Member is where a member is reached by the others.
type Member struct {
	Name    string
	Address netip.Addr
}

const (
	// replicaTickMs and replicaElectionMs are for members on one host: a
	// heartbeat takes less than a millisecond, but a busy host may not run a
	// process for a tenth of a second. What they take longest is to notice a
	// leader that stands still or is cut off; the death of one is told, see
	// hasten.
	replicaTickMs     = 50
	replicaElectionMs = 500
	// hastyTick is the tick in which members without a leader count down.
	hastyTick = 4 * time.Millisecond
	// hasteBound ends the haste when no leader is found: without a majority,
	// waiting is all there is to do.
	hasteBound = time.Second
	// joinRetry is between two tries of a member to be let in, promoteRetry
	// between two questions whether it has caught up.
	joinRetry    = 250 * time.Millisecond
	promoteRetry = 50 * time.Millisecond
	// callBound is how long one call to another member may take.
	callBound = 5 * time.Second
)

func (r *Replica) complete() error {
	if r.ClientPort == 0 {
		r.ClientPort = machinev1alpha1.EtcdClientPort
	}
	if r.PeerPort == 0 {
		r.PeerPort = machinev1alpha1.EtcdPeerPort
	}
	if _, ok := r.self(); !ok {
		return fmt.Errorf("etcd member %q: not among the members", r.Name)
	}
	if r.CAFile == "" || r.CertFile == "" || r.KeyFile == "" {
		return errors.New("etcd peers: CA, certificate and key files are required")
	}
	return nil
}

func (r *Replica) self() (Member, bool) {
	for _, m := range r.Members {
		if m.Name == r.Name {
			return m, true
		}
	}
	return Member{}, false
}

func (r *Replica) url(m Member, port int) url.URL {
	return url.URL{Scheme: "https", Host: net.JoinHostPort(m.Address.String(), strconv.Itoa(port))}
}

func (r *Replica) tls() transport.TLSInfo {
	return transport.TLSInfo{CertFile: r.CertFile, KeyFile: r.KeyFile, TrustedCAFile: r.CAFile, ClientCertAuth: true}
}

// configure puts the member into cfg. It does not let etcd listen for peers:
// while members found a cluster they ask each other, and would wait for one
// that listens and does not answer yet.
func (r *Replica) configure(cfg *embed.Config) {
	self, _ := r.self()
	client, peer := r.url(self, r.ClientPort), r.url(self, r.PeerPort)
	cfg.Name = r.Name
	cfg.ListenClientUrls = append(cfg.ListenClientUrls, client)
	cfg.AdvertiseClientUrls = []url.URL{client}
	cfg.AdvertisePeerUrls = []url.URL{peer}
	cfg.ClientTLSInfo, cfg.PeerTLSInfo = r.tls(), r.tls()
	cfg.TickMs, cfg.ElectionMs = replicaTickMs, replicaElectionMs
	// The check asks for five seconds of connections between all others before
	// one may join again. That guards a majority from whoever removes members
	// that live; here nobody is removed but one without data, by itself, and
	// without a majority of the old ones raft changes nothing.
	cfg.StrictReconfigCheck = false
	var initial []string
	for _, m := range r.Members {
		u := r.url(m, r.PeerPort)
		initial = append(initial, m.Name+"="+u.String())
	}
	cfg.InitialCluster = strings.Join(initial, ",")
}

// servePeers serves the members' protocol until the returned function is
// called.
func (r *Replica) servePeers(etcd *embed.Etcd, logger *zap.Logger) (func(), error) {
	self, _ := r.self()
	info := r.tls()
	l, err := transport.NewListener(r.url(self, r.PeerPort).Host, "https", &info)
	if err != nil {
		return nil, fmt.Errorf("listen for etcd's peers: %w", err)
	}
	server := &http.Server{
		Handler: etcdhttp.NewPeerHandler(logger, etcd.Server), ReadHeaderTimeout: callBound,
		// Members speak HTTP/1.1 on streams that never end.
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
		ErrorLog:     slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug),
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l) // ends with Close
	}()
	return func() {
		server.Close()
		<-done
	}, nil
}

// others are clients of the other members, for one call each.
func (r *Replica) each(ctx context.Context, call func(context.Context, *clientv3.Client) error) error {
	info := r.tls()
	config, err := info.ClientConfig()
	if err != nil {
		return fmt.Errorf("load etcd's peer certificate: %w", err)
	}
	errs := []error{errors.New("no other member answers")}
	for _, m := range r.Members {
		if m.Name == r.Name {
			continue
		}
		u := r.url(m, r.ClientPort)
		client, err := clientv3.New(clientv3.Config{Context: ctx, Endpoints: []string{u.String()}, TLS: config, Logger: zap.NewNop()})
		if err != nil {
			return fmt.Errorf("connect to etcd member %s: %w", m.Name, err)
		}
		bounded, cancel := context.WithTimeout(ctx, callBound)
		err = call(bounded, client)
		cancel()
		client.Close()
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("etcd member %s: %w", m.Name, err))
	}
	return errors.Join(errs...)
}

// join has the others forget the member that this one was, adds a learner in
// its place, and writes the cluster as it is then into cfg.
func (r *Replica) join(ctx context.Context, cfg *embed.Config) error {
	self, _ := r.self()
	peer := r.url(self, r.PeerPort)
	for logged := false; ; {
		var members []*etcdserverpb.Member
		err := r.each(ctx, func(ctx context.Context, client *clientv3.Client) error {
			list, err := client.MemberList(ctx)
			if err != nil {
				return err
			}
			for _, id := range remains(list.Members, peer.String()) {
				if _, err := client.MemberRemove(ctx, id); err != nil {
					return fmt.Errorf("remove the member of before: %w", err)
				}
			}
			added, err := client.MemberAddAsLearner(ctx, []string{peer.String()})
			if err != nil {
				return fmt.Errorf("add as a learner: %w", err)
			}
			members = added.Members
			return nil
		})
		if err == nil {
			slog.Info("etcd member joins as a learner", "member", r.Name)
			cfg.InitialCluster, cfg.ClusterState = r.initial(members), embed.ClusterStateFlagExisting
			return nil
		}
		if !logged {
			logged = true
			slog.Warn("etcd member without data waits for the others to let it in", "member", r.Name, "error", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("join etcd: %w", err)
		case <-time.After(joinRetry):
		}
	}
}

// remains are the ids of members that were reached at the URL.
func remains(members []*etcdserverpb.Member, peer string) []uint64 {
	var ids []uint64
	for _, m := range members {
		for _, u := range m.PeerURLs {
			if u == peer {
				ids = append(ids, m.ID)
			}
		}
	}
	return ids
}

// initial is etcd's --initial-cluster for the members. One that has not
// started yet has no name of its own.
func (r *Replica) initial(members []*etcdserverpb.Member) string {
	names := map[string]string{}
	for _, m := range r.Members {
		u := r.url(m, r.PeerPort)
		names[u.String()] = m.Name
	}
	var list []string
	for _, m := range members {
		for _, u := range m.PeerURLs {
			list = append(list, names[u]+"="+u)
		}
	}
	return strings.Join(list, ",")
}

// promote makes a learner a voter as soon as it has caught up.
func (r *Replica) promote(ctx context.Context, etcd *embed.Etcd) error {
	for {
		bounded, cancel := context.WithTimeout(ctx, callBound)
		_, err := etcd.Server.PromoteMember(bounded, uint64(etcd.Server.MemberID()))
		cancel()
		if err == nil || errors.Is(err, membership.ErrMemberNotLearner) {
			slog.Info("etcd member votes", "member", r.Name)
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-etcd.Server.StopNotify():
			return fmt.Errorf("promote etcd member %s: etcd stopped", r.Name)
		case <-time.After(promoteRetry):
		}
	}
}

// learns says whether this member is a learner, as far as it knows.
func learns(etcd *embed.Etcd) bool {
	self := etcd.Server.Cluster().Member(etcd.Server.MemberID())
	return self != nil && self.IsLearner
}

// reads is closed when the member can tell what the cluster holds. For etcd a member is ready when the others know its name: what it sends
// for that is lost while connections are being made, and sent again only after
// six seconds. Nobody here asks for that name.
func (r *Replica) reads(ctx context.Context, etcd *embed.Etcd) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		for {
			bounded, cancel := context.WithTimeout(ctx, callBound)
			err := etcd.Server.LinearizableReadNotify(bounded)
			cancel()
			if err == nil {
				close(done)
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-etcd.Server.StopNotify():
				return
			case <-time.After(promoteRetry):
			}
		}
	}()
	return done
}

// form notes that this member has been part of the whole.
func (r *Replica) form() error {
	if r.Formed == "" {
		return nil
	}
	f, err := os.OpenFile(r.Formed, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("note that etcd has formed: %w", err)
	}
	return f.Close()
}

// nameOf is the name of a member by its id; empty: unknown.
func (r *Replica) nameOf(etcd *embed.Etcd, id types.ID) string {
	for _, m := range etcd.Server.Cluster().Members() {
		if m.ID != id {
			continue
		}
		for _, peer := range r.Members {
			if u := r.url(peer, r.PeerPort); len(m.PeerURLs) > 0 && m.PeerURLs[0] == u.String() {
				return peer.Name
			}
		}
	}
	return ""
}

// founded says that the data directory has a member's log.
func founded(dataDir string) bool {
	return exists(filepath.Join(dataDir, memberDir, "wal"))
}
