package v1alpha1

// APIVersion and Kind of the config file; KindAPIVersion is kind's own, which
// is read in as well.
const (
	APIVersion     = "skiff.cluster/v1alpha1"
	Kind           = "Cluster"
	KindAPIVersion = "kind.x-k8s.io/v1alpha4"
)

// Cluster is the config file of `skiff create cluster --config`. It is a
// superset of kind's v1alpha4 Cluster.
type Cluster struct {
	Kind       string `json:"kind,omitempty"`
	APIVersion string `json:"apiVersion,omitempty"`

	// Name of the cluster, a DNS label of at most 49 characters, so that
	// <name>-control-plane is one as well. Default "skiff"; the --name flag
	// wins.
	Name string `json:"name,omitempty"`
	// Nodes of the cluster. Default: one control-plane node.
	Nodes []Node `json:"nodes,omitempty"`
	// Networking of the cluster.
	Networking Networking `json:"networking,omitempty"`
	// FeatureGates are Kubernetes feature gates for every component.
	FeatureGates map[string]bool `json:"featureGates,omitempty"`
	// RuntimeConfig is kube-apiserver's --runtime-config, "api/alpha": "false".
	RuntimeConfig map[string]string `json:"runtimeConfig,omitempty"`

	// Durability is "ephemeral" (no fsync: a power cut or kernel crash may
	// lose the last writes; the death of any process loses nothing) or
	// "durable". Default ephemeral, or durable with "restart: always". skiff
	// only.
	Durability Durability `json:"durability,omitempty" skiff:"only"`
	// Restart is "always" for a cluster that the host starts when it boots
	// (`skiff install-service` tells it to), or "never". Default never. skiff
	// only.
	Restart RestartPolicy `json:"restart,omitempty" skiff:"only"`
	// EtcdServers are the client URLs of an existing etcd to use instead of
	// the embedded one. They are called from the control-plane machine, where
	// 127.0.0.1 is the machine itself: an etcd on this host must listen on
	// another address of the host's, and one elsewhere is reached only while
	// the host forwards packets (net.ipv4.ip_forward=1). The etcd is the
	// cluster's own: all keys are below /registry/, and they stay when the
	// cluster is deleted. skiff only.
	EtcdServers []string `json:"etcdServers,omitempty" skiff:"only"`
	// EtcdTLS are the files for EtcdServers over https. skiff only.
	EtcdTLS *EtcdTLS `json:"etcdTLS,omitempty" skiff:"only"`
	// AuditPolicy is the path of an audit.k8s.io/v1 Policy file. skiff only.
	AuditPolicy string `json:"auditPolicy,omitempty" skiff:"only"`
	// SeccompDefault runs containers without a profile under RuntimeDefault.
	// skiff only.
	SeccompDefault bool `json:"seccompDefault,omitempty" skiff:"only"`
	// RuntimeHandlers are OCI runtimes beside runc, for RuntimeClasses. skiff
	// only.
	RuntimeHandlers []RuntimeHandler `json:"runtimeHandlers,omitempty" skiff:"only"`
	// Cloud is the storage of the clouds whose volumes are part of Kubernetes'
	// API, on this host. skiff only.
	Cloud Cloud `json:"cloud,omitempty" skiff:"only"`
	// RemovedVolumes says what becomes of the volumes that upstream has removed
	// from the kubelet, but not from the API, without a CSI driver in their
	// place (flocker, quobyte, photonPersistentDisk, scaleIO, storageos,
	// glusterfs, rbd, cephfs): "fail" is what upstream does, "emulate" puts
	// them on the storage of the emulated cloud. Default fail. skiff only.
	RemovedVolumes RemovedVolumes `json:"removedVolumes,omitempty" skiff:"only"`
}

// RuntimeHandler is an OCI runtime that Pods choose by a RuntimeClass.
type RuntimeHandler struct {
	// Name is the handler of RuntimeClasses: a DNS label (RFC 1123), and not
	// "runc", which nodes have.
	Name string `json:"name"`
	// Path is the program on the host, called as runc is.
	Path string `json:"path"`
}

// Durability says what survives a power cut.
type Durability string

// The values of Durability.
const (
	Ephemeral Durability = "ephemeral"
	Durable   Durability = "durable"
)

// RemovedVolumes says what becomes of volumes that upstream has removed.
type RemovedVolumes string

// The values of RemovedVolumes.
const (
	FailRemovedVolumes    RemovedVolumes = "fail"
	EmulateRemovedVolumes RemovedVolumes = "emulate"
)

// RestartPolicy says what becomes of the cluster when the host boots.
type RestartPolicy string

// The values of RestartPolicy.
const (
	RestartNever  RestartPolicy = "never"
	RestartAlways RestartPolicy = "always"
)

// EtcdTLS are host paths of PEM files.
type EtcdTLS struct {
	CAFile   string `json:"caFile,omitempty"`
	CertFile string `json:"certFile,omitempty"`
	KeyFile  string `json:"keyFile,omitempty"`
}

// Role of a node.
type Role string

// The values of Role.
const (
	ControlPlaneRole Role = "control-plane"
	WorkerRole       Role = "worker"
)

// Node is one machine of the cluster.
type Node struct {
	// Role is control-plane (default) or worker.
	Role Role `json:"role,omitempty"`
	// Image is accepted for kind's configs when it is kindest/node of this
	// release's Kubernetes minor version, and refused otherwise: skiff's nodes
	// have no image.
	Image string `json:"image,omitempty"`
	// Labels go on the Node object.
	Labels map[string]string `json:"labels,omitempty"`
	// ExtraMounts bring host paths into the node.
	ExtraMounts []Mount `json:"extraMounts,omitempty"`
	// ExtraPortMappings open host ports that lead to node ports.
	ExtraPortMappings []PortMapping `json:"extraPortMappings,omitempty"`
	// Resources is the node's declared capacity. Default: the host's. skiff only.
	Resources Resources `json:"resources,omitempty" skiff:"only"`

	// Name is set by SetDefaults: <cluster>-control-plane[N], <cluster>-worker[N].
	Name string `json:"-"`
}

// Resources are Kubernetes quantities.
type Resources struct {
	// CPU in whole cores, at least "1".
	CPU string `json:"cpu,omitempty"`
	// Memory, for example "4Gi"; at least 128Mi.
	Memory string `json:"memory,omitempty"`
	// Pods is the most Pods on the node, at most 250 (a node has a /24).
	// Default 110.
	Pods int `json:"pods,omitempty"`
	// EphemeralStorage is what containers' layers, logs and emptyDirs may
	// take together, for example "10Gi"; at least 64Mi. Where skiff keeps
	// clusters the file system must have project quotas.
	EphemeralStorage string `json:"ephemeralStorage,omitempty"`
}

// Mount is kind's extraMounts entry.
type Mount struct {
	// HostPath must exist. Relative paths count from the directory in which
	// skiff is run, as with kind.
	HostPath string `json:"hostPath"`
	// ContainerPath is an absolute path inside the node.
	ContainerPath string `json:"containerPath"`
	// ReadOnly mounts cannot be written to from the node.
	ReadOnly bool `json:"readOnly,omitempty"`
	// Propagation is None (default), HostToContainer or Bidirectional.
	Propagation string `json:"propagation,omitempty"`
}

// PortMapping is kind's extraPortMappings entry.
type PortMapping struct {
	// ContainerPort is the port inside the node, for example a NodePort.
	ContainerPort int32 `json:"containerPort"`
	// HostPort 0 picks a free one.
	HostPort int32 `json:"hostPort,omitempty"`
	// ListenAddress defaults to 127.0.0.1, or ::1 in an ipv6 cluster (kind:
	// 0.0.0.0 and ::): safe by default.
	ListenAddress string `json:"listenAddress,omitempty"`
	// Protocol is TCP (default) or UDP; SCTP is refused by this release.
	Protocol string `json:"protocol,omitempty"`
}

// Networking of a cluster.
type Networking struct {
	// IPFamily is ipv4 (default), ipv6 or dual. In a dual cluster nodes and
	// Pods have an address of each family; the order of the ranges below, in
	// those that name two, says which is the primary one. Default: IPv4.
	IPFamily IPFamily `json:"ipFamily,omitempty"`
	// APIServerPort on the host; 0 picks a free one.
	APIServerPort int32 `json:"apiServerPort,omitempty"`
	// APIServerAddress on the host. Default 127.0.0.1, or ::1 in an ipv6
	// cluster.
	APIServerAddress string `json:"apiServerAddress,omitempty"`
	// PodSubnet: default 10.244.0.0/16, fd00:10:244::/56, or the next free
	// ones. Each node gets a /24 or a /64 of it. In a dual cluster, this and
	// the ranges below are one of each family, separated by a comma; the
	// default stands in for a family that is left out.
	PodSubnet string `json:"podSubnet,omitempty"`
	// ServiceSubnet: default 10.96.0.0/16, fd00:10:96::/112, or the next free
	// ones.
	ServiceSubnet string `json:"serviceSubnet,omitempty"`
	// NodeSubnet holds the machines' own addresses: default 172.30.0.0/24,
	// fd00:172:30::/64, or the next free ones. skiff only.
	NodeSubnet string `json:"nodeSubnet,omitempty" skiff:"only"`
	// LoadBalancerSubnet: default 172.31.0.0/24, fd00:172:31::/112, or the
	// next free ones. skiff only.
	LoadBalancerSubnet string `json:"loadBalancerSubnet,omitempty" skiff:"only"`
	// HostDNS makes the cluster's names, *.svc.cluster.local, resolve on the
	// host as long as the cluster lives: through systemd-resolved, or as the
	// first nameserver of /etc/resolv.conf. One cluster of a host can have it.
	// skiff only.
	HostDNS bool `json:"hostDNS,omitempty" skiff:"only"`
	// DNSSearch are the search domains of the nodes' resolv.conf.
	DNSSearch *[]string `json:"dnsSearch,omitempty"`
	// DisableDefaultCNI leaves the pod network to another CNI plugin: nodes
	// are NotReady until its configuration is in their /etc/cni/net.d and its
	// programs in their /opt/cni/bin. Default false.
	DisableDefaultCNI bool `json:"disableDefaultCNI,omitempty"`
	// KubeProxyMode is read from kind's configs: iptables, ipvs and nftables
	// are served by skiff's eBPF dataplane; none is refused.
	KubeProxyMode string `json:"kubeProxyMode,omitempty"`
}

// IPFamily says which kinds of addresses a cluster has.
type IPFamily string

// The values of IPFamily.
const (
	IPv4      IPFamily = "ipv4"
	IPv6      IPFamily = "ipv6"
	DualStack IPFamily = "dual"
)
