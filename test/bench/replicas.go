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
	{"start", "start after stop → API ready, one control plane, s"},
	{"startReplicas", "the same with three and three workers, s"},
	{"failoverWrite", "kill etcd's leader → next write accepted, ms, p50"},
	{"failoverWrite99", "the same, p99"},
	{"failoverPod", "kill the scheduler's control plane → next Pod scheduled, ms, p50"},
	{"failoverPod99", "the same, p99"},
	{"controlPlane", "PSS of a further control plane, 1 → 3, MB"},
}

// replicaParts are what can be measured alone, in the order in which all are.
var replicaParts = []string{"create", "start", "failover", "memory"}

// replicas takes the figures of clusters with several control planes.
func replicas(ctx context.Context, s *skiffCluster, opts options, got sample) error {
	parts := map[string]func() error{
		"create":   func() error { return s.creates(ctx, got) },
		"start":    func() error { return s.starts(ctx, got) },
		"failover": func() error { return s.failovers(ctx, opts.kills, got) },
		"memory":   func() error { return s.memories(ctx, opts.idle, got) },
	}
	for _, part := range opts.parts {
		if err := parts[part](); err != nil {
			return fmt.Errorf("%s: %w", part, err)
		}
	}
	return nil
}

// readParts reads a list of them; empty is none.
func readParts(text string) ([]string, error) {
	var parts []string
	for part := range strings.SplitSeq(text, ",") {
		switch {
		case part == "":
		case slices.Contains(replicaParts, part):
			parts = append(parts, part)
		default:
			return nil, fmt.Errorf("-replicas: %q: want some of %s", part, strings.Join(replicaParts, ","))
		}
	}
	return parts, nil
}

// with makes a cluster, waits until its nodes are Ready, and takes it away.
func (s *skiffCluster) with(ctx context.Context, controlPlanes, workers int, do func(kubernetes.Interface) error) (err error) {
	config, err := s.createRoles(ctx, controlPlanes, workers)
	if err != nil {
		return err // and skiff has undone it, or it was somebody's before
	}
	defer func() { err = errors.Join(err, s.Delete(context.WithoutCancel(ctx))) }()
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	if err := untilReady(ctx, client, controlPlanes+workers); err != nil {
		return fmt.Errorf("nodes Ready: %w", err)
	}
	return do(client)
}

// creates measures from the command to the last node that is Ready.
func (s *skiffCluster) creates(ctx context.Context, got sample) error {
	begin := time.Now()
	return s.with(ctx, controlPlanes, workers, func(kubernetes.Interface) error {
		got["replicas"] = time.Since(begin).Seconds()
		return nil
	})
}

func (s *skiffCluster) createRoles(ctx context.Context, controlPlanes, workers int) (*rest.Config, error) {
	config := "kind: Cluster\napiVersion: skiff.cluster/v1alpha1\nnodes:\n" +
		strings.Repeat("- role: control-plane\n", controlPlanes) + strings.Repeat("- role: worker\n", workers)
	return s.create(ctx, []byte(config))
}

// memories compares clusters without a workload.
func (s *skiffCluster) memories(ctx context.Context, idle time.Duration, got sample) error {
	var used []float64
	for _, n := range []int{1, controlPlanes} {
		err := s.with(ctx, n, 0, func(kubernetes.Interface) error {
			select {
			case <-time.After(idle):
			case <-ctx.Done():
				return ctx.Err()
			}
			pids, err := s.Processes()
			used = append(used, pss(pids))
			return err
		})
		if err != nil {
			return err
		}
	}
	got["controlPlane"] = (used[1] - used[0]) / (controlPlanes - 1)
	return nil
}

func (s *skiffCluster) starts(ctx context.Context, got sample) error {
	if err := s.restarts(ctx, 1, 2, got, "start"); err != nil {
		return err
	}
	return s.restarts(ctx, controlPlanes, workers, got, "startReplicas")
}

// restarts measures a start after a stop.
func (s *skiffCluster) restarts(ctx context.Context, controlPlanes, workers int, got sample, key string) error {
	return s.with(ctx, controlPlanes, workers, func(kubernetes.Interface) error {
		for _, args := range [][]string{{"stop", "cluster", "--name", skiffName}, {"start", "cluster", "--name", skiffName, "--wait", "0s"}} {
			begin := time.Now()
			if out, err := exec.CommandContext(ctx, "bin/skiff", args...).CombinedOutput(); err != nil {
				return fmt.Errorf("skiff %s: %w: %s", args[0], err, out)
			}
			got[key] = time.Since(begin).Seconds()
		}
		return nil
	})
}

// failovers kills control planes, one by one; each is back before the next
// goes.
func (s *skiffCluster) failovers(ctx context.Context, kills int, got sample) error {
	return s.with(ctx, controlPlanes, workers, func(client kubernetes.Interface) error {
		write := func(ctx context.Context) error {
			_, err := client.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "failover-"}}, metav1.CreateOptions{})
			return err
		}
		var writes, pods []float64
		for i := range kills {
			took, err := s.killed(ctx, s.etcdLeader, write)
			if err != nil {
				return fmt.Errorf("kill %d of etcd's leader: %w", i+1, err)
			}
			writes = append(writes, took)
			// The lease names who schedules only once somebody does again.
			if err := retry(ctx, func() error { return scheduled(ctx, client, fmt.Sprintf("before-%d", i)) }); err != nil {
				return fmt.Errorf("schedule before kill %d: %w", i+1, err)
			}
			took, err = s.killed(ctx, s.scheduler(client), func(ctx context.Context) error {
				return scheduled(ctx, client, fmt.Sprintf("failover-%d", i))
			})
			if err != nil {
				return fmt.Errorf("kill %d of the scheduler: %w", i+1, err)
			}
			pods = append(pods, took)
		}
		got["failoverWrite"], got["failoverWrite99"] = median(writes), quantile(writes, 0.99)
		got["failoverPod"], got["failoverPod99"] = median(pods), quantile(pods, 0.99)
		fmt.Fprintf(os.Stderr, "writes after kills, ms: %.0f\npods: %.0f\n", writes, pods)
		return nil
	})
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
// many milliseconds the call works again. All are back at the end.
func (s *skiffCluster) killed(ctx context.Context, who func(context.Context) (string, error), call func(context.Context) error) (float64, error) {
	if err := retry(ctx, func() error { return s.whole(ctx) }); err != nil {
		return 0, err
	}
	var at node
	if err := retry(ctx, func() error {
		name, err := who(ctx)
		if err == nil {
			at, err = s.node(ctx, name)
		}
		return err
	}); err != nil {
		return 0, err
	}
	begin := time.Now()
	if err := syscall.Kill(at.PID, syscall.SIGKILL); err != nil {
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
	return took, retry(ctx, func() error { return s.whole(ctx) })
}

// node is one of `skiff get nodes`.
type node struct {
	Name string `json:"name"`
	Role string `json:"role"`
	IP   string `json:"ip"`
	PID  int    `json:"pid"`
	// APIServer is what a control plane says of itself.
	APIServer string `json:"apiServer"`
}

// node that runs.
func (s *skiffCluster) node(ctx context.Context, name string) (node, error) {
	nodes, err := s.nodes(ctx)
	if err != nil {
		return node{}, err
	}
	at := slices.IndexFunc(nodes, func(n node) bool { return n.Name == name && n.PID > 1 })
	if at < 0 {
		return node{}, fmt.Errorf("machine %q does not run", name)
	}
	return nodes[at], nil
}

func (s *skiffCluster) nodes(ctx context.Context) ([]node, error) {
	out, err := exec.CommandContext(ctx, "bin/skiff", "get", "nodes", "--name", skiffName, "-o", "json").Output()
	if err != nil {
		return nil, err
	}
	var nodes []node
	return nodes, json.Unmarshal(out, &nodes)
}

// whole says what is missing until every control plane serves: its etcd has
// then all that there is.
func (s *skiffCluster) whole(ctx context.Context) error {
	nodes, err := s.nodes(ctx)
	if err != nil {
		return err
	}
	for _, n := range nodes {
		if n.Role == "control-plane" && n.APIServer != "serving" {
			return fmt.Errorf("the API server of %s is %s", n.Name, n.APIServer)
		}
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
