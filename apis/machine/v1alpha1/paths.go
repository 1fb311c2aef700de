package v1alpha1

// Paths inside every machine. They are fixed: a machine has a mount
// namespace of its own.
const (
	// EtcDir is the read-only directory with this machine's configuration
	// and keys: node.json, control-plane.json, pki/.
	EtcDir = "/etc/skiff"
	// NodeConfigFile is the NodeConfiguration of this machine.
	NodeConfigFile = EtcDir + "/node.json"
	// ControlPlaneConfigFile is the ControlPlaneConfiguration; only machines
	// with the control-plane role have it.
	ControlPlaneConfigFile = EtcDir + "/control-plane.json"
	// PKIDir holds the certificates and keys that this machine may know.
	PKIDir = EtcDir + "/pki"

	// LibexecDir is the read-only directory with skiff's own programs:
	// skiff-machine, skiff-init, skiff-shim, skiff-pause, runc.
	LibexecDir = "/skiff/libexec"

	// RuntimeHandlersDir has a directory for each of NodeConfiguration's
	// RuntimeHandlers, the host's in which its program is.
	RuntimeHandlersDir = "/skiff/runtimes"

	// ImageStoreDir is the host's image store, read-only.
	ImageStoreDir = "/var/lib/skiff/images"
	// PulledDir is where the machines of a cluster and its supervisor meet about
	// images that a machine pulls, read-only: PulledSocket takes the archive of
	// an image for the host's store, and PulledLocks are files to lock, "0" and
	// so on, so that one machine pulls an image and the others wait.
	PulledDir    = "/run/skiff/pulled"
	PulledSocket = "archive.sock"
	PulledLocks  = 16
	// VolumesDir is the cluster's directory for dynamically provisioned
	// volumes, the same directory in every machine of the cluster.
	VolumesDir = "/var/lib/skiff/volumes"

	// EtcdDir is etcd's data directory.
	EtcdDir = "/var/lib/etcd"
	// EtcdFormedFile says that this member of a replicated etcd has been one:
	// a member without data must not vote as if it were new then.
	EtcdFormedFile = EtcdDir + "/formed"
	// EtcdPageSumsFile has the checksums of the pages of etcd's database.
	EtcdPageSumsFile = EtcdDir + "/db.sums"
	// EtcdDamagedFile is where the host says, as a Trouble, that this member of
	// a replicated etcd is damaged, and is to be made anew.
	EtcdDamagedFile = EtcdDir + "/damaged.json"
	// EtcdAsideDir has what a damaged member of a replicated etcd had, after
	// that, and a file like TroubleFile that says why.
	EtcdAsideDir = EtcdDir + "/damaged"
	// KubeletDir is the kubelet's root directory.
	KubeletDir = "/var/lib/kubelet"
	// ContainerdRoot is containerd's persistent directory.
	ContainerdRoot = "/var/lib/containerd"
	// ContainerdState is containerd's run directory, on tmpfs: it dies with
	// the machine, as a production node's does at reboot.
	ContainerdState = "/run/containerd"
	// ContainerdSocket is where crictl finds the CRI.
	ContainerdSocket = "/run/containerd/containerd.sock"
	// CNIConfDir and CNIBinDir are where another CNI plugin has its
	// configuration and its programs, if networking.disableDefaultCNI leaves
	// the pod network to one. They outlive the machine.
	CNIConfDir = "/etc/cni/net.d"
	CNIBinDir  = "/opt/cni/bin"
	// StaticPodDir is where the kubelet looks for static Pod manifests.
	StaticPodDir = "/etc/kubernetes/manifests"

	// BPFDir is the machine's own bpffs: pins outlive skiff-machine and die
	// with the machine.
	BPFDir = "/sys/fs/bpf"
	// SwitchBPFDir is the bpffs directory with the pinned maps of the
	// cluster's switch. Only control-plane machines have it; the node process
	// of one of them keeps those maps up to date.
	SwitchBPFDir = "/run/skiff/switch-bpf"

	// LogDir has the logs of the machine's services: "<service>.log".
	LogDir = "/var/log/skiff"
	// NodeService is the service that is containerd, the kubelet and the
	// dataplane.
	NodeService = "node"

	// RunDir is on the machine's tmpfs.
	RunDir = "/run/skiff"
	// APIServerPort is the port on which the API server listens inside the
	// control-plane machine's network namespace.
	APIServerPort = 6443
	// APIServerName is in the certificate of every API server.
	APIServerName = "kubernetes"
	// EtcdClientPort and EtcdPeerPort are where a member of a replicated etcd
	// serves the others, LifelinePort where its process shows that it lives
	// (package lifeline): on the first of the machine's addresses.
	EtcdClientPort = 2379
	EtcdPeerPort   = 2380
	LifelinePort   = 2381
	// DNSPort is the port on which cluster DNS listens on the control-plane
	// machine's node address; the Service kube-system/kube-dns maps 53 to it.
	DNSPort = 53
)

// Names of sockets that the supervisor opens in the host's network namespace
// and hands over. A service finds them in the environment variable ListenFDs,
// as "name=fd" pairs separated by commas.
const (
	// ListenFDs is the environment variable with the handed-over sockets.
	ListenFDs = "SKIFF_LISTEN_FDS"
	// SocketAPIServer is the host's API endpoint, a TCP listener.
	SocketAPIServer = "apiserver"
	// SocketPortPrefix starts the name of a socket of extraPortMappings:
	// "port/<protocol>/<containerPort>/<index>", protocol tcp or udp.
	SocketPortPrefix = "port/"
)
