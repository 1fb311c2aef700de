package upstream

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/rest"

	"github.com/skiff-k8s/skiff/test/bench/cgroup"
)

const (
	cgroupPath = "/skiff-bench-upstream"
	dnsIP      = "10.202.0.10"
)

// Config of an assembled cluster.
type Config struct {
	// Dir is for configuration, logs and data; it is emptied first.
	Dir string
	// Programs holds upstream's programs and the CNI plugins.
	Programs string
	// Archive holds the images; they are imported before Start, outside of
	// what is measured, as kind's node image has them.
	Archive string
	// Script is the path of node.sh.
	Script string
	// AsShipped starts everything with kubeadm's flags; otherwise the client
	// limits are raised, leader election and fsync are off.
	AsShipped bool
}

type node struct{ name, ip, podCIDR, dir, netns string }

// Cluster is one control plane with two workers.
type Cluster struct {
	cfg   Config
	nodes []node
	procs []*exec.Cmd
}

// New allocates the cluster; nothing is started.
func New(cfg Config) *Cluster {
	c := &Cluster{cfg: cfg}
	for i, name := range []string{"bench-control-plane", "bench-worker", "bench-worker2"} {
		c.nodes = append(c.nodes, node{
			name: name, ip: fmt.Sprintf("10.200.0.%d", 11+i), podCIDR: fmt.Sprintf("10.201.%d.0/24", i),
			dir: filepath.Join(cfg.Dir, name), netns: fmt.Sprintf("skiffbench%d", i),
		})
	}
	return c
}

// Prepare makes directories, namespaces and image stores: what kind has in
// its node image and Docker in its network.
func (c *Cluster) Prepare(ctx context.Context) error {
	if err := os.RemoveAll(c.cfg.Dir); err != nil {
		return err
	}
	if err := c.writeControlPlane(); err != nil {
		return err
	}
	if err := serviceAccountKey(filepath.Join(c.cfg.Dir, "sa.key")); err != nil {
		return err
	}
	if err := c.network(); err != nil {
		return err
	}
	for _, n := range c.nodes {
		if err := c.writeNode(n); err != nil {
			return err
		}
		if err := cgroup.Make(cgroupPath + "/" + n.name); err != nil {
			return err
		}
		if err := sh(fmt.Sprintf("mkdir -p %[1]s/lib %[1]s/log && cp -a %[2]s %[1]s/lib/containerd", n.dir, c.imageStore())); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) imageStore() string { return c.cfg.Dir + ".images" }

// ImportImages fills the image store that every node starts with a copy of.
func (c *Cluster) ImportImages(ctx context.Context) error {
	store := c.imageStore()
	if _, err := os.Stat(store); err == nil {
		return nil
	}
	script := fmt.Sprintf(`set -e
mount --make-rprivate /; mount -t tmpfs tmpfs /run; mkdir -p /run/c
%[1]s/containerd --root %[2]s --state /run/c --address /run/c/c.sock >/dev/null 2>&1 &
pid=$!
for i in $(seq 200); do [ -S /run/c/c.sock ] && break; sleep 0.05; done
%[1]s/ctr --address /run/c/c.sock -n k8s.io images import --snapshotter overlayfs %[3]s >/dev/null
kill $pid; wait $pid || true`, c.cfg.Programs, store, c.cfg.Archive)
	out, err := exec.CommandContext(ctx, "unshare", "-m", "bash", "-c", script).CombinedOutput()
	if err != nil {
		return errors.Join(fmt.Errorf("import images: %w: %s", err, out), os.RemoveAll(store))
	}
	return nil
}

// network joins the nodes' namespaces by a bridge in a namespace of its own.
func (c *Cluster) network() error {
	lines := []string{"set -e", "ip netns add skiffbench", "ip -n skiffbench link add br0 type bridge", "ip -n skiffbench link set br0 up"}
	for i, n := range c.nodes {
		lines = append(lines,
			"ip netns add "+n.netns,
			fmt.Sprintf("ip -n skiffbench link add p%d type veth peer name eth0 netns %s", i, n.netns),
			fmt.Sprintf("ip -n skiffbench link set p%d master br0 up", i),
			fmt.Sprintf("ip -n %s link set lo up", n.netns),
			fmt.Sprintf("ip -n %s link set eth0 up", n.netns),
			fmt.Sprintf("ip -n %s addr add %s/24 dev eth0", n.netns, n.ip),
			fmt.Sprintf("ip -n %s route add unreachable 10.200.0.0/14 metric 9999", n.netns))
		for j, other := range c.nodes {
			if i != j {
				lines = append(lines, fmt.Sprintf("ip -n %s route add %s via %s", n.netns, other.podCIDR, other.ip))
			}
		}
		// kube-proxy's rules translate; the route only has to exist.
		lines = append(lines, fmt.Sprintf("ip -n %s route add 10.202.0.0/16 dev eth0", n.netns))
	}
	return sh(strings.Join(lines, "\n"))
}

// Start runs all programs at once and returns when they are started.
func (c *Cluster) Start() error {
	bin := func(name string) string { return filepath.Join(c.cfg.Programs, name) }
	dir, first := c.cfg.Dir, c.nodes[0]
	etcd := []string{bin("etcd"), "--data-dir", dir + "/etcd", "--listen-client-urls", "http://127.0.0.1:2379", "--advertise-client-urls", "http://127.0.0.1:2379", "--listen-peer-urls", "http://127.0.0.1:2380"}
	api := []string{bin("kube-apiserver"), "--kubelet-preferred-address-types", "InternalIP", "--etcd-servers", "http://127.0.0.1:2379", "--token-auth-file", dir + "/tokens.csv",
		"--service-account-key-file", dir + "/sa.key", "--service-account-signing-key-file", dir + "/sa.key", "--service-account-issuer", "https://kubernetes.default.svc.cluster.local",
		"--service-cluster-ip-range", "10.202.0.0/16", "--authorization-mode", "Node,RBAC", "--enable-admission-plugins", "NodeRestriction", "--allow-privileged",
		"--cert-dir", dir + "/apiserver", "--advertise-address", first.ip, "--bind-address", "0.0.0.0"}
	kcm := []string{bin("kube-controller-manager"), "--kubeconfig", dir + "/admin.kubeconfig", "--authentication-kubeconfig", dir + "/admin.kubeconfig", "--authorization-kubeconfig", dir + "/admin.kubeconfig",
		"--service-account-private-key-file", dir + "/sa.key", "--root-ca-file", dir + "/apiserver/apiserver.crt", "--use-service-account-credentials", "--cert-dir", dir + "/kcm"}
	scheduler := []string{bin("kube-scheduler"), "--kubeconfig", dir + "/admin.kubeconfig", "--authentication-kubeconfig", dir + "/admin.kubeconfig", "--authorization-kubeconfig", dir + "/admin.kubeconfig", "--cert-dir", dir + "/scheduler"}
	if !c.cfg.AsShipped {
		etcd = append(etcd, "--unsafe-no-fsync")
		kcm = append(kcm, "--kube-api-qps", "1000", "--kube-api-burst", "2000", "--leader-elect=false")
		scheduler = append(scheduler, "--kube-api-qps", "1000", "--kube-api-burst", "2000", "--leader-elect=false")
	}
	for _, n := range c.nodes {
		if err := c.run(n, []string{"unshare", "-m", "-p", "-u", "-i", "-f", "--kill-child", c.cfg.Script, n.name, n.dir, c.cfg.Programs}); err != nil {
			return err
		}
	}
	for _, args := range [][]string{etcd, api} {
		if err := c.run(first, args); err != nil {
			return err
		}
	}
	// kubeadm's static pods restart until the API server is there; so do these.
	for _, args := range [][]string{kcm, scheduler} {
		loop := fmt.Sprintf("while ! [ -s %s/apiserver/apiserver.crt ]; do sleep 0.02; done; while :; do %s; sleep 0.1; done", dir, strings.Join(args, " "))
		if err := c.run(first, []string{"bash", "-c", loop}); err != nil {
			return err
		}
	}
	return nil
}

// run starts a program in a node's network namespace and the bench's cgroup,
// in a process group of its own.
func (c *Cluster) run(n node, args []string) error {
	log, err := os.Create(filepath.Join(c.cfg.Dir, fmt.Sprintf("%d-%s.log", len(c.procs), filepath.Base(args[0]))))
	if err != nil {
		return err
	}
	defer log.Close()
	join := fmt.Sprintf("for d in /sys/fs/cgroup/*%[1]s /sys/fs/cgroup%[1]s; do [ -d $d ] && echo $$ >$d/cgroup.procs; done; exec \"$@\"", cgroupPath+"/"+n.name)
	cmd := exec.Command("nsenter", append([]string{"--net=/run/netns/" + n.netns, "bash", "-c", join, "bash"}, args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", args[0], err)
	}
	c.procs = append(c.procs, cmd)
	return nil
}

// Client reaches the API server through the first node's namespace.
func (c *Cluster) Client() *rest.Config {
	cfg := &rest.Config{Host: "https://" + c.nodes[0].ip + ":6443", BearerToken: token, QPS: -1}
	cfg.Insecure = true
	cfg.Dial = func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		err = inNetns("/run/netns/"+c.nodes[0].netns, func() error {
			var d net.Dialer
			conn, err = d.DialContext(ctx, network, address)
			return err
		})
		return conn, err
	}
	return cfg
}

// Cgroup is where all processes are, below every hierarchy.
func (c *Cluster) Cgroup() string { return cgroupPath }

// Stop kills everything and removes namespaces, cgroups and data.
func (c *Cluster) Stop() error {
	for _, p := range c.procs {
		_ = syscall.Kill(-p.Process.Pid, syscall.SIGKILL)
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		pids, err := cgroup.Members(cgroupPath)
		if err != nil {
			return err
		}
		if len(pids) == 0 {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v do not end", pids)
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		time.Sleep(10 * time.Millisecond)
	}
	for _, p := range c.procs {
		_ = p.Wait()
	}
	c.procs = nil
	var errs []error
	errs = append(errs, cgroup.Remove(cgroupPath))
	for _, n := range append([]node{{netns: "skiffbench"}}, c.nodes...) {
		errs = append(errs, sh("! [ -e /run/netns/"+n.netns+" ] || ip netns del "+n.netns))
	}
	return errors.Join(append(errs, os.RemoveAll(c.cfg.Dir))...)
}

func serviceAccountKey(path string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600)
}

func sh(script string) error {
	out, err := exec.Command("bash", "-c", script).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", script, err, out)
	}
	return nil
}
