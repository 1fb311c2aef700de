package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Control planes and workers of the replicated cluster.
const (
	controlPlanes = 3
	workers       = 3
)

var replicaFigures = []figure{
	{"replicas", "create → 3 control planes and 3 workers Ready, s"},
	{"failoverWrite", "kill the leader → next write accepted, ms, p50"},
	{"failoverWriteMax", "the same, slowest of a run"},
	{"failoverPod", "kill the scheduler's control plane → next Pod scheduled, ms, p50"},
	{"failoverPodMax", "the same, slowest of a run"},
	{"start", "start after stop → API ready, one control plane, s"},
	{"startReplicas", "the same with three, s"},
	{"controlPlane", "PSS of a further control plane, 1 → 3, MB"},
}

// replicas takes the figures of clusters with several control planes.
func replicas(ctx context.Context, s *skiffCluster, opts options, got sample) error {
	if opts.kills == 0 {
		return nil
	}
	one, err := s.empty(ctx, 1, 0, opts.idle)
	if err != nil {
		return err
	}
	three, err := s.empty(ctx, controlPlanes, 0, opts.idle)
	if err != nil {
		return err
	}
	got["controlPlane"] = (three - one) / (controlPlanes - 1)
	if err := s.restarts(ctx, 1, 2, got, "start"); err != nil {
		return err
	}
	if err := s.restarts(ctx, controlPlanes, workers, got, "startReplicas"); err != nil {
		return err
	}
	return s.failovers(ctx, opts.kills, got)
}

func (s *skiffCluster) createRoles(ctx context.Context, controlPlanes, workers int) (*rest.Config, error) {
	config := "kind: Cluster\napiVersion: skiff.cluster/v1alpha1\nnodes:\n" +
		strings.Repeat("- role: control-plane\n", controlPlanes) + strings.Repeat("- role: worker\n", workers)
	return s.create(ctx, []byte(config))
}

// empty is the memory of a cluster without a workload.
func (s *skiffCluster) empty(ctx context.Context, controlPlanes, workers int, idle time.Duration) (used float64, err error) {
	defer func() { err = errors.Join(err, s.Delete(context.WithoutCancel(ctx))) }()
	config, err := s.createRoles(ctx, controlPlanes, workers)
	if err != nil {
		return 0, err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return 0, err
	}
	if err := untilReady(ctx, client, controlPlanes+workers); err != nil {
		return 0, fmt.Errorf("nodes Ready: %w", err)
	}
	select {
	case <-time.After(idle):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	pids, err := s.Processes()
	return pss(pids), err
}

// restarts measures a start after a stop.
func (s *skiffCluster) restarts(ctx context.Context, controlPlanes, workers int, got sample, key string) (err error) {
	defer func() { err = errors.Join(err, s.Delete(context.WithoutCancel(ctx))) }()
	config, err := s.createRoles(ctx, controlPlanes, workers)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	if err := untilReady(ctx, client, controlPlanes+workers); err != nil {
		return err
	}
	for _, args := range [][]string{{"stop", "cluster", "--name", skiffName}, {"start", "cluster", "--name", skiffName, "--wait", "0s"}} {
		begin := time.Now()
		if out, err := exec.CommandContext(ctx, "bin/skiff", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("skiff %s: %w: %s", args[0], err, out)
		}
		got[key] = time.Since(begin).Seconds()
	}
	return nil
}

// failovers creates the replicated cluster and kills control planes, one by
// one; each is back before the next goes.
func (s *skiffCluster) failovers(ctx context.Context, kills int, got sample) (err error) {
	defer func() { err = errors.Join(err, s.Delete(context.WithoutCancel(ctx))) }()
	begin := time.Now()
	config, err := s.createRoles(ctx, controlPlanes, workers)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	if err := untilReady(ctx, client, controlPlanes+workers); err != nil {
		return err
	}
	got["replicas"] = time.Since(begin).Seconds()
	var writes, pods []float64
	for i := range kills {
		took, err := s.killed(ctx, client, s.etcdLeader, func(ctx context.Context) error {
			_, err := client.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "failover-"}}, metav1.CreateOptions{})
			return err
		})
		if err != nil {
			return fmt.Errorf("kill %d of etcd's leader: %w", i+1, err)
		}
		writes = append(writes, took)
		name := fmt.Sprintf("failover-%d", i)
		took, err = s.killed(ctx, client, s.scheduler(client), func(ctx context.Context) error {
			return scheduled(ctx, client, name)
		})
		if err != nil {
			return fmt.Errorf("kill %d of the scheduler: %w", i+1, err)
		}
		pods = append(pods, took)
	}
	got["failoverWrite"], got["failoverWriteMax"] = median(writes), slices.Max(writes)
	got["failoverPod"], got["failoverPodMax"] = median(pods), slices.Max(pods)
	return nil
}

// scheduled makes a Pod, once, and says whether it has a node.
func scheduled(ctx context.Context, client kubernetes.Interface, name string) error {
	p, err := client.CoreV1().Pods("default").Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		if p, err = client.CoreV1().Pods("default").Create(ctx, pausePod(name, false), metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	if p.Spec.NodeName == "" {
		return errors.New("not scheduled")
	}
	return nil
}

// killed pulls the plug of the machine that who names and returns after how
// many milliseconds the call works again. The machine is back at the end.
func (s *skiffCluster) killed(ctx context.Context, client kubernetes.Interface, who func(context.Context) (string, error), call func(context.Context) error) (float64, error) {
	name, err := who(ctx)
	if err != nil {
		return 0, err
	}
	nodes, err := s.nodes(ctx)
	if err != nil {
		return 0, err
	}
	at := slices.IndexFunc(nodes, func(n node) bool { return n.Name == name })
	if at < 0 || nodes[at].PID == 0 {
		return 0, fmt.Errorf("machine %q does not run", name)
	}
	begin := time.Now()
	if err := syscall.Kill(nodes[at].PID, syscall.SIGKILL); err != nil {
		return 0, err
	}
	if err := retry(ctx, func() error {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		return call(ctx)
	}); err != nil {
		return 0, err
	}
	took := float64(time.Since(begin).Microseconds()) / 1000
	return took, retry(ctx, func() error { return s.whole(ctx, client) })
}

// node is one of `skiff get nodes`.
type node struct {
	Name string `json:"name"`
	Role string `json:"role"`
	IP   string `json:"ip"`
	PID  int    `json:"pid"`
}

func (s *skiffCluster) nodes(ctx context.Context) ([]node, error) {
	out, err := exec.CommandContext(ctx, "bin/skiff", "get", "nodes", "--name", skiffName, "-o", "json").Output()
	if err != nil {
		return nil, err
	}
	var nodes []node
	return nodes, json.Unmarshal(out, &nodes)
}

// whole says what is missing until every control plane serves again.
func (s *skiffCluster) whole(ctx context.Context, client kubernetes.Interface) error {
	endpoints, err := client.DiscoveryV1().EndpointSlices("default").Get(ctx, "kubernetes", metav1.GetOptions{})
	if err != nil {
		return err
	}
	if n := len(endpoints.Endpoints); n != controlPlanes {
		return fmt.Errorf("%d API servers", n)
	}
	members, err := s.members(ctx)
	if err != nil {
		return err
	}
	if len(members) != controlPlanes {
		return fmt.Errorf("%d members of etcd", len(members))
	}
	return nil
}

func (s *skiffCluster) etcdLeader(ctx context.Context) (string, error) {
	members, err := s.members(ctx)
	if err != nil {
		return "", err
	}
	for name, leads := range members {
		if leads {
			return name, nil
		}
	}
	return "", errors.New("etcd has no leader")
}

// members are the members of etcd that answer, and whether they lead.
func (s *skiffCluster) members(ctx context.Context) (map[string]bool, error) {
	nodes, err := s.nodes(ctx)
	if err != nil {
		return nil, err
	}
	members := map[string]bool{}
	for _, n := range nodes {
		if n.Role != "control-plane" {
			continue
		}
		dir := filepath.Join("/var/lib/skiff/clusters", skiffName, "machines", n.Name, "etc/pki")
		if leads, err := leads(ctx, dir, net.JoinHostPort(n.IP, "2379")); err == nil {
			members[n.Name] = leads
		}
	}
	return members, nil
}

func leads(ctx context.Context, pki, address string) (bool, error) {
	cert, err := tls.LoadX509KeyPair(filepath.Join(pki, "etcd-peer.crt"), filepath.Join(pki, "etcd-peer.key"))
	if err != nil {
		return false, err
	}
	ca, err := os.ReadFile(filepath.Join(pki, "etcd-peer-ca.crt"))
	if err != nil {
		return false, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{cert}}, DisableKeepAlives: true}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+"/metrics", nil)
	if err != nil {
		return false, err
	}
	response, err := client.Do(request)
	if err != nil {
		return false, err
	}
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		if value, ok := bytes.CutPrefix(lines.Bytes(), []byte("etcd_server_is_leader ")); ok {
			return string(value) == "1", nil
		}
	}
	return false, errors.Join(errors.New("no such metric"), lines.Err())
}

// scheduler names the control plane that schedules.
func (s *skiffCluster) scheduler(client kubernetes.Interface) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		lease, err := client.CoordinationV1().Leases("kube-system").Get(ctx, "kube-scheduler", metav1.GetOptions{})
		if err != nil {
			return "", err
		}
		if lease.Spec.HolderIdentity == nil {
			return "", errors.New("nobody schedules")
		}
		name, _, _ := strings.Cut(*lease.Spec.HolderIdentity, "_")
		return name, nil
	}
}
