package storage

import (
	"context"
	"crypto/tls"
	"fmt"
	"path"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// These are kube-apiserver's own values for its etcd clients.
const (
	keepaliveTime    = 30 * time.Second
	keepaliveTimeout = 10 * time.Second
	dialTimeout      = 20 * time.Second
)

func (s *Storage) runRemote(ctx context.Context) error {
	tlsConfig, err := s.tlsConfig()
	if err != nil {
		return err
	}
	client, err := clientv3.New(clientv3.Config{
		Context:              context.WithoutCancel(ctx),
		Endpoints:            s.cfg.Servers,
		TLS:                  tlsConfig,
		DialTimeout:          dialTimeout,
		DialKeepAliveTime:    keepaliveTime,
		DialKeepAliveTimeout: keepaliveTimeout,
		Logger:               zap.New(logCore{quiet: ctx}),
	})
	if err != nil {
		return fmt.Errorf("connect to etcd %v: %w", s.cfg.Servers, err)
	}
	defer client.Close()

	// The first answer, so that a wrong URL or certificate is an error here
	// and not a hanging API server.
	probe, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if _, err := client.Get(probe, path.Join("/", "registry", "health")); err != nil {
		return fmt.Errorf("read from etcd %v: %w", s.cfg.Servers, err)
	}
	s.set(client, nil)
	<-ctx.Done()
	return nil
}

func (s *Storage) tlsConfig() (*tls.Config, error) {
	if s.cfg.CAFile == "" && s.cfg.CertFile == "" {
		return nil, nil
	}
	info := transport.TLSInfo{CertFile: s.cfg.CertFile, KeyFile: s.cfg.KeyFile, TrustedCAFile: s.cfg.CAFile}
	cfg, err := info.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("load etcd's client certificate: %w", err)
	}
	return cfg, nil
}
