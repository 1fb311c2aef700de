package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/skiff-k8s/skiff/test/bench/cgroup"
	"github.com/skiff-k8s/skiff/test/bench/upstream"
)

// skiffCluster is skiff as a user runs it.
type skiffCluster struct {
	kubeconfig string
	// cli is the processor time of the skiff commands themselves.
	cli time.Duration
}

const skiffName = "bench"

func (s *skiffCluster) Name() string { return "skiff" }

func (s *skiffCluster) Prepare(ctx context.Context) error {
	return exec.CommandContext(ctx, "bin/skiff", "load", "image-archive", "_output/images.tar").Run()
}

func (s *skiffCluster) Create(ctx context.Context) (*rest.Config, error) {
	config, err := os.ReadFile("config/samples/three-nodes.yaml")
	if err != nil {
		return nil, err
	}
	return s.create(ctx, config)
}

func (s *skiffCluster) CreateNodes(ctx context.Context, n int) (*rest.Config, error) {
	config := "kind: Cluster\napiVersion: skiff.cluster/v1alpha1\nnodes:\n- role: control-plane\n" + strings.Repeat("- role: worker\n", n-1)
	return s.create(ctx, []byte(config))
}

func (s *skiffCluster) create(ctx context.Context, config []byte) (*rest.Config, error) {
	s.cli = 0
	cmd := exec.CommandContext(ctx, "bin/skiff", "create", "cluster", "--name", skiffName, "--config", "-", "--kubeconfig", s.kubeconfig, "--wait", "0s")
	var msg bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(config), &msg
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it undoes what it made
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("skiff create: %w: %s", err, msg.String())
	}
	s.cli = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	client, err := clientcmd.BuildConfigFromFlags("", s.kubeconfig)
	if err != nil {
		return nil, err
	}
	client.QPS = -1
	return client, nil
}

func (s *skiffCluster) Delete(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, "bin/skiff", "delete", "cluster", "--name", skiffName, "--kubeconfig", s.kubeconfig).CombinedOutput()
	if err != nil {
		return fmt.Errorf("skiff delete: %w: %s", err, out)
	}
	return nil
}

func (s *skiffCluster) Processes() ([]int, error) {
	pids, err := cgroup.Members("/skiff/" + skiffName)
	if err != nil {
		return nil, err
	}
	return append(pids, supervisors()...), nil
}

func (s *skiffCluster) CPU() (time.Duration, error) {
	used, err := cgroup.CPU("/skiff/" + skiffName)
	for _, pid := range supervisors() {
		used += processCPU(pid)
	}
	return used + s.cli, err
}

// supervisors are the cluster's processes outside of its machines' cgroups.
func supervisors() []int {
	var pids []int
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		cmdline, _ := os.ReadFile(d + "/cmdline")
		cgroup, _ := os.ReadFile(d + "/cgroup")
		if strings.Contains(string(cmdline), "supervise\x00"+skiffName) && !strings.Contains(string(cgroup), "/skiff/"+skiffName) {
			if pid, err := strconv.Atoi(filepath.Base(d)); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// assembled is upstream's own programs.
type assembled struct {
	name    string
	cluster *upstream.Cluster
}

func (a *assembled) Name() string { return "upstream (" + a.name + ")" }

func (a *assembled) Prepare(ctx context.Context) error { return a.cluster.ImportImages(ctx) }

func (a *assembled) Create(ctx context.Context) (*rest.Config, error) {
	return a.cluster.Client(), a.cluster.Start()
}

func (a *assembled) BeforeCreate(ctx context.Context) error { return a.cluster.Prepare(ctx) }

func (a *assembled) Delete(context.Context) error { return a.cluster.Stop() }

func (a *assembled) Processes() ([]int, error) { return cgroup.Members(a.cluster.Cgroup()) }

func (a *assembled) CPU() (time.Duration, error) { return cgroup.CPU(a.cluster.Cgroup()) }

// Addons installs cluster DNS, as kubeadm does after the control plane is up.
func (a *assembled) Addons(ctx context.Context, client kubernetes.Interface) error {
	labels := map[string]string{"k8s-app": "kube-dns"}
	meta := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Name: name, Namespace: metav1.NamespaceSystem, Labels: labels}
	}
	replicas := int32(1)
	corefile := ".:53 {\n  errors\n  kubernetes cluster.local in-addr.arpa {\n    pods insecure\n  }\n  cache 30\n}\n"
	steps := []func() error{
		func() error {
			_, err := client.CoreV1().ServiceAccounts("kube-system").Create(ctx, &corev1.ServiceAccount{ObjectMeta: meta("coredns")}, metav1.CreateOptions{})
			return err
		},
		func() error {
			_, err := client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
				ObjectMeta: metav1.ObjectMeta{Name: "coredns"},
				RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:kube-dns"},
				Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Name: "coredns", Namespace: "kube-system"}},
			}, metav1.CreateOptions{})
			return err
		},
		func() error {
			_, err := client.CoreV1().ConfigMaps("kube-system").Create(ctx, &corev1.ConfigMap{ObjectMeta: meta("coredns"), Data: map[string]string{"Corefile": corefile}}, metav1.CreateOptions{})
			return err
		},
		func() error {
			_, err := client.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "coredns-slices"}, Rules: []rbacv1.PolicyRule{
				{APIGroups: []string{"discovery.k8s.io"}, Resources: []string{"endpointslices"}, Verbs: []string{"list", "watch"}},
				{APIGroups: []string{""}, Resources: []string{"services", "namespaces", "pods", "endpoints"}, Verbs: []string{"list", "watch"}},
			}}, metav1.CreateOptions{})
			return err
		},
		func() error {
			_, err := client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
				ObjectMeta: metav1.ObjectMeta{Name: "coredns-slices"},
				RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "coredns-slices"},
				Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Name: "coredns", Namespace: "kube-system"}},
			}, metav1.CreateOptions{})
			return err
		},
		func() error {
			_, err := client.CoreV1().Services("kube-system").Create(ctx, &corev1.Service{ObjectMeta: meta("kube-dns"), Spec: corev1.ServiceSpec{
				ClusterIP: "10.202.0.10", Selector: labels,
				Ports: []corev1.ServicePort{{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP, TargetPort: intstr.FromInt32(53)}, {Name: "dns-tcp", Port: 53, TargetPort: intstr.FromInt32(53)}},
			}}, metav1.CreateOptions{})
			return err
		},
		func() error {
			_, err := client.AppsV1().Deployments("kube-system").Create(ctx, &appsv1.Deployment{ObjectMeta: meta("coredns"), Spec: appsv1.DeploymentSpec{
				Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
				Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{
					ServiceAccountName: "coredns", DNSPolicy: corev1.DNSDefault,
					Containers: []corev1.Container{{Name: "coredns", Image: agnhostImage, ImagePullPolicy: corev1.PullIfNotPresent, Command: []string{"/coredns", "-conf", "/etc/coredns/Corefile"},
						VolumeMounts: []corev1.VolumeMount{{Name: "c", MountPath: "/etc/coredns"}}}},
					Volumes: []corev1.Volume{{Name: "c", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "coredns"}}}}},
				}},
			}}, metav1.CreateOptions{})
			return err
		},
	}
	for _, step := range steps {
		if err := retry(ctx, step); err != nil {
			return err
		}
	}
	return nil
}
