package etcdtest

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver"
)

// electionBound is long because a loaded machine starts three members.
const electionBound = 30 * time.Second

// Member of the cluster.
type Member struct {
	*etcdserver.EtcdServer
	// URL is for clients.
	URL string
	// Stop ends the member; once more does nothing.
	Stop func()
}

// Members of one cluster.
type Members []Member

// Start starts three members that want client certificates of the authority,
// and returns when they have a leader.
func Start(dir string, a *Authority) (members Members, err error) {
	cert, key, err := a.Pair("member")
	if err != nil {
		return nil, err
	}
	tls := transport.TLSInfo{CertFile: cert, KeyFile: key, TrustedCAFile: a.CA(), ClientCertAuth: true}
	var configs []*embed.Config
	var cluster []string
	for i := range 3 {
		client, errClient := freeURL(a.ip)
		peer, errPeer := freeURL(a.ip)
		if err := errors.Join(errClient, errPeer); err != nil {
			return nil, err
		}
		cfg := embed.NewConfig()
		cfg.Name = fmt.Sprintf("m%d", i)
		cfg.Dir = filepath.Join(dir, cfg.Name)
		cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
		cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
		cfg.ClientTLSInfo, cfg.PeerTLSInfo = tls, tls
		cfg.UnsafeNoFsync = true
		cfg.LogLevel = "fatal"
		configs = append(configs, cfg)
		cluster = append(cluster, cfg.Name+"="+peer.String())
	}
	defer func() {
		if err != nil {
			members.Stop()
		}
	}()
	for _, cfg := range configs {
		cfg.InitialCluster = strings.Join(cluster, ",")
		etcd, err := embed.StartEtcd(cfg)
		if err != nil {
			return members, fmt.Errorf("start etcd %s: %w", cfg.Name, err)
		}
		members = append(members, Member{etcd.Server, cfg.AdvertiseClientUrls[0].String(), sync.OnceFunc(etcd.Close)})
	}
	late := time.After(electionBound)
	for _, m := range members {
		select {
		case <-m.ReadyNotify():
		case <-late:
			return members, errors.New("etcd finds no leader")
		}
	}
	return members, nil
}

// URLs are the members' for clients.
func (m Members) URLs() []string {
	var urls []string
	for _, one := range m {
		urls = append(urls, one.URL)
	}
	return urls
}

// StopLeader ends the member that leads.
func (m Members) StopLeader() {
	leader := m[0].Leader()
	for _, one := range m {
		if one.MemberID() == leader {
			one.Stop()
		}
	}
}

// Stop ends all.
func (m Members) Stop() {
	for _, one := range m {
		one.Stop()
	}
}

func freeURL(ip net.IP) (url.URL, error) {
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: ip})
	if err != nil {
		return url.URL{}, err
	}
	defer l.Close()
	return url.URL{Scheme: "https", Host: l.Addr().String()}, nil
}
