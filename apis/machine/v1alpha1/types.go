package v1alpha1

import (
	"fmt"
	"net/netip"
	"strings"
)

// ControlPlaneConfiguration is all that `skiff-machine control-plane` needs.
// Files are paths inside the machine.
type ControlPlaneConfiguration struct {
	ClusterName string `json:"clusterName"`
	NodeName    string `json:"nodeName"`
	// NodeIPs are the machine's addresses on the fabric, one a family, the
	// primary one first: that is the API server's advertise address. Cluster
	// DNS answers on all of them.
	NodeIPs []netip.Addr `json:"nodeIPs"`

	// ControlPlanes are all control-plane machines, this one among them, in
	// the order of the config file; empty: it is the only one.
	ControlPlanes []Peer `json:"controlPlanes,omitempty"`
	// LifelineClients are the ranges from which a replicated control plane is
	// asked whether it lives: the nodes' and the host's.
	LifelineClients []netip.Prefix `json:"lifelineClients,omitempty"`
	// EtcdJoin says that the members of the embedded etcd have formed a
	// cluster before: without data, this one joins it as a learner.
	EtcdJoin bool `json:"etcdJoin,omitempty"`

	// PodSubnets and ServiceSubnets are one a family, in the same order.
	PodSubnets     []netip.Prefix `json:"podSubnets"`
	ServiceSubnets []netip.Prefix `json:"serviceSubnets"`
	// LoadBalancerSubnets are the ranges from which Services of type
	// LoadBalancer get addresses, one a family.
	LoadBalancerSubnets []netip.Prefix `json:"loadBalancerSubnets"`
	// DNSServiceIP is the ClusterIP of kube-system/kube-dns (the tenth
	// address of the first of ServiceSubnets).
	DNSServiceIP netip.Addr `json:"dnsServiceIP"`
	// DNSDomain is the cluster domain, "cluster.local".
	DNSDomain string `json:"dnsDomain"`
	// UpstreamResolvers are the host's nameservers that cluster DNS forwards
	// to; empty: names outside the cluster fail at once.
	UpstreamResolvers []string `json:"upstreamResolvers,omitempty"`

	// EtcdServers are the URLs of an existing etcd; empty: embedded etcd.
	EtcdServers  []string `json:"etcdServers,omitempty"`
	EtcdCAFile   string   `json:"etcdCAFile,omitempty"`
	EtcdCertFile string   `json:"etcdCertFile,omitempty"`
	EtcdKeyFile  string   `json:"etcdKeyFile,omitempty"`
	// Durable makes the embedded etcd fsync; false is the default
	// (`durability: ephemeral`).
	Durable bool `json:"durable,omitempty"`

	FeatureGates  map[string]bool   `json:"featureGates,omitempty"`
	RuntimeConfig map[string]string `json:"runtimeConfig,omitempty"`
	// AuditPolicyFile is optional; the log goes to AuditLogFile.
	AuditPolicyFile string `json:"auditPolicyFile,omitempty"`
	AuditLogFile    string `json:"auditLogFile,omitempty"`

	// TaintControlPlane says that the control-plane node carries
	// node-role.kubernetes.io/control-plane:NoSchedule (there are workers).
	TaintControlPlane bool `json:"taintControlPlane,omitempty"`

	// NodeLabels are the labels of the config file by Node name: the control
	// plane sets those that kubelets may not.
	NodeLabels map[string]map[string]string `json:"nodeLabels,omitempty"`

	// Cloud is the storage of the emulated cloud.
	Cloud Cloud `json:"cloud,omitzero"`

	// Verbosity is klog's -v.
	Verbosity int `json:"verbosity,omitempty"`
}

// Replicated says that there are other control planes.
func (c *ControlPlaneConfiguration) Replicated() bool { return len(c.ControlPlanes) > 1 }

// Peer is a control-plane machine.
type Peer struct {
	Name string `json:"name"`
	// IPs are its NodeIPs.
	IPs []netip.Addr `json:"ips"`
}

// Files of the control plane under PKIDir. All keys are ECDSA P-256.
const (
	CACertFile               = PKIDir + "/ca.crt"
	CAKeyFile                = PKIDir + "/ca.key"
	APIServerCertFile        = PKIDir + "/apiserver.crt"
	APIServerKeyFile         = PKIDir + "/apiserver.key"
	APIServerKubeletCertFile = PKIDir + "/apiserver-kubelet-client.crt"
	APIServerKubeletKeyFile  = PKIDir + "/apiserver-kubelet-client.key"
	FrontProxyCACertFile     = PKIDir + "/front-proxy-ca.crt"
	FrontProxyClientCertFile = PKIDir + "/front-proxy-client.crt"
	FrontProxyClientKeyFile  = PKIDir + "/front-proxy-client.key"
	ServiceAccountKeyFile    = PKIDir + "/sa.key"
	ServiceAccountPubFile    = PKIDir + "/sa.pub"
	EncryptionConfigFile     = PKIDir + "/encryption.yaml"
	// EtcdPeerCertFile is of a member of a replicated etcd, for both ends of
	// connections between members; its CA signs nothing else.
	EtcdPeerCAFile        = PKIDir + "/etcd-peer-ca.crt"
	EtcdPeerCertFile      = PKIDir + "/etcd-peer.crt"
	EtcdPeerKeyFile       = PKIDir + "/etcd-peer.key"
	KubeletClientCertFile = PKIDir + "/kubelet-client.crt"
	KubeletClientKeyFile  = PKIDir + "/kubelet-client.key"
	KubeletServerCertFile = PKIDir + "/kubelet-server.crt"
	KubeletServerKeyFile  = PKIDir + "/kubelet-server.key"
	// DataplaneClientCertFile is the certificate of user
	// "system:node:<name>"'s dataplane: CN "system:kube-proxy", which
	// upstream's bootstrap roles allow to watch services, endpoint slices
	// and nodes, and a role of ours pods, namespaces and network policies.
	DataplaneClientCertFile = PKIDir + "/dataplane-client.crt"
	DataplaneClientKeyFile  = PKIDir + "/dataplane-client.key"
)

// NodeConfiguration is all that `skiff-machine node` needs.
type NodeConfiguration struct {
	ClusterName string `json:"clusterName"`
	NodeName    string `json:"nodeName"`
	// NodeIPs are the machine's addresses on the fabric, one a family, the
	// primary one first.
	NodeIPs []netip.Addr `json:"nodeIPs"`
	// APIServer is the URL of the API server on the fabric,
	// "https://<control plane's first node IP>:6443".
	APIServer string `json:"apiServer"`
	// APIServers are the addresses of all API servers if there are several, the
	// preferred one first. All of them answer to APIServerName.
	APIServers []netip.AddrPort `json:"apiServers,omitempty"`
	// ControlPlane says that this machine has the control-plane role.
	ControlPlane bool `json:"controlPlane,omitempty"`

	// Labels and Taints go on the Node object when it is created.
	Labels map[string]string `json:"labels,omitempty"`
	Taints []Taint           `json:"taints,omitempty"`
	// ProviderID is "skiff://<cluster>/<node>".
	ProviderID string `json:"providerID"`

	// PodCIDRs are this node's parts of PodSubnets, in the order of NodeIPs.
	PodCIDRs       []netip.Prefix `json:"podCIDRs"`
	PodSubnets     []netip.Prefix `json:"podSubnets"`
	ServiceSubnets []netip.Prefix `json:"serviceSubnets"`
	ClusterDNS     netip.Addr     `json:"clusterDNS"`
	DNSDomain      string         `json:"dnsDomain"`
	MTU            int            `json:"mtu"`
	// ForeignCNI says that another CNI plugin connects the Pods: see
	// CNIConfDir.
	ForeignCNI bool `json:"foreignCNI,omitempty"`

	// CPU (whole cores), MemoryBytes and Pods are the declared capacity;
	// zero CPU or memory means the host's.
	CPU         int   `json:"cpu,omitempty"`
	MemoryBytes int64 `json:"memoryBytes,omitempty"`
	Pods        int   `json:"pods,omitempty"`
	// PodTasks is the most processes and threads that all Pods have together;
	// zero means no limit but the machine's.
	PodTasks int `json:"podTasks,omitempty"`
	// EphemeralStorageBytes is what the kubelet's, containerd's and the logs'
	// directories can hold; zero means the host's disk.
	EphemeralStorageBytes int64 `json:"ephemeralStorageBytes,omitempty"`

	FeatureGates map[string]bool `json:"featureGates,omitempty"`
	// SeccompDefault runs containers without a seccomp profile under
	// RuntimeDefault, which a container's start does not notice.
	SeccompDefault bool `json:"seccompDefault,omitempty"`
	// RuntimeHandlers are OCI runtimes beside runc.
	RuntimeHandlers []RuntimeHandler `json:"runtimeHandlers,omitempty"`

	// Cloud is the storage of the emulated cloud.
	Cloud Cloud `json:"cloud,omitzero"`

	// Verbosity is klog's -v.
	Verbosity int `json:"verbosity,omitempty"`
}

// RuntimeHandler is an OCI runtime of the machine.
type RuntimeHandler struct {
	// Name is the handler of RuntimeClasses.
	Name string `json:"name"`
	// Path is the program, in RuntimeHandlersDir.
	Path string `json:"path"`
}

// Join writes addresses or ranges as upstream's flags take them.
func Join[T fmt.Stringer](list []T) string {
	texts := make([]string, len(list))
	for i, item := range list {
		texts[i] = item.String()
	}
	return strings.Join(texts, ",")
}

// Taint is corev1.Taint without its time.
type Taint struct {
	Key    string `json:"key"`
	Value  string `json:"value,omitempty"`
	Effect string `json:"effect"`
}

// MachineConfiguration is what skiff-init reads (as JSON, from fd 3) before
// anything else of the machine exists.
type MachineConfiguration struct {
	Name string `json:"name"`
	// Cgroups are the absolute directories on the host that become the
	// machine's cgroup roots: one per v1 hierarchy, and the cgroup2 one.
	// They exist, with limits set, before init starts.
	Cgroups []Cgroup `json:"cgroups"`
	// Mounts are made in order under NewRoot, before pivot_root.
	Mounts []Mount `json:"mounts"`
	// NewRoot is an empty host directory on which the machine's root tmpfs
	// is mounted (inside the new mount namespace only).
	NewRoot string `json:"newRoot"`
	// Files are written into the new root before pivot_root.
	Files []File `json:"files,omitempty"`
	// Services run until the machine stops; they are restarted with
	// back-off when they end.
	Services []Service `json:"services"`
	// LogDir is where each service's log goes, a path inside the machine.
	LogDir string `json:"logDir"`
}

// Cgroup is one hierarchy of the machine.
type Cgroup struct {
	// HostPath is the machine's directory in this hierarchy on the host.
	HostPath string `json:"hostPath"`
	// Controllers is the v1 mount option ("cpu,cpuacct", "name=systemd") or
	// empty for cgroup2.
	Controllers string `json:"controllers,omitempty"`
	// MountPath is where the machine sees the hierarchy,
	// "/sys/fs/cgroup/memory", "/sys/fs/cgroup/unified", "/sys/fs/cgroup".
	MountPath string `json:"mountPath"`
}

// Mount is one mount(2) call, or a bind of a plain file or directory.
type Mount struct {
	Source string `json:"source"`
	Target string `json:"target"`
	// Type is the file system, or "bind", "rbind".
	Type     string `json:"type"`
	Data     string `json:"data,omitempty"`
	ReadOnly bool   `json:"readOnly,omitempty"`
	// Propagation is "", "rslave" or "rshared" (extraMounts).
	Propagation string `json:"propagation,omitempty"`
}

// File is a plain file of the machine's root.
type File struct {
	Path    string `json:"path"`
	Content string `json:"content"`
	Mode    uint32 `json:"mode"`
}

// Service is one program that init keeps running.
type Service struct {
	Name string            `json:"name"`
	Args []string          `json:"args"`
	Env  map[string]string `json:"env,omitempty"`
	// Sockets name inherited descriptors that go to this service.
	Sockets []string `json:"sockets,omitempty"`
	// StopSignal asks the service to stop because the machine does, and is
	// repeated until it has stopped. Default: SIGTERM, once.
	StopSignal int `json:"stopSignal,omitempty"`
}
