package storage

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

// These are kube-apiserver's own values for its etcd clients.
const (
	keepaliveTime    = 30 * time.Second
	keepaliveTimeout = 10 * time.Second
	dialTimeout      = 20 * time.Second
)

// firstAnswer is how long an etcd may take to answer at first. It is less than
// the API server's own clients wait, whose error does not say for whom.
const firstAnswer = dialTimeout * 3 / 4

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
	probe, cancel := context.WithTimeout(ctx, firstAnswer)
	defer cancel()
	// The call beneath client.Get, which says of a connection that fails till
	// the end only that time is over.
	_, err = clientv3.RetryKVClient(client).Range(probe, &etcdserverpb.RangeRequest{Key: []byte("/registry/health")}, grpc.WaitForReady(true))
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		reason := strings.TrimPrefix(status.Convert(err).Message(), "latest balancer error: ")
		return &Trouble{Servers: s.cfg.Servers, Err: errors.New(reason)}
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
