package supervise

import (
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/api/resource"

	cluster "github.com/skiff-k8s/skiff/apis/cluster/v1alpha1"
	machine "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/hostnode/namespaces"
)

const (
	dnsDomain = "cluster.local"
	// dnsAddress is the place of cluster DNS in the service range.
	dnsAddress = 10
	// podTasks is how many processes and threads a declared Pod may count
	// for in the machine's limit, systemTasks what skiff's own may have.
	podTasks    = 1024
	systemTasks = 4096
)

// Files in a machine's /etc/skiff and /var/log/skiff.
const (
	auditPolicyFile = machine.EtcDir + "/audit-policy.yaml"
	auditLogFile    = machine.LogDir + "/audit.log"
	etcdCAFile      = machine.PKIDir + "/etcd-ca.crt"
	etcdCertFile    = machine.PKIDir + "/etcd-client.crt"
	etcdKeyFile     = machine.PKIDir + "/etcd-client.key"
	adminFile       = "/etc/kubernetes/admin.conf"
)

// machinePlan is everything about one machine that follows from the record.
type machinePlan struct {
	node         machine.NodeConfiguration
	controlPlane *machine.ControlPlaneConfiguration
	init         machine.MachineConfiguration
	limits       namespaces.Limits
	// sockets are those of the host that the machine is handed, by name.
	sockets map[string]socket
}

// socket of the host.
type socket struct {
	network string // tcp4, udp4, tcp6, udp6
	address string
	// portField and addressField are their paths in the config file.
	portField, addressField string
}

// host is what a plan depends on besides the record.
type host struct {
	paths     Paths
	layout    namespaces.Hierarchies
	resolvers []string
	// tasks is the most processes and threads that the kernel has; 0: it does
	// not say.
	tasks int
	// dirs says which of the directories that machines share with the host
	// exist as directories.
	dirs []string
}

// planMachine is pure, but for links to the programs of runtime handlers: the
// same record and host give the same plan.
func planMachine(rec *record, i int, h host) (*machinePlan, error) {
	c, m := &rec.Cluster, rec.Machines[i]
	node, limits, err := planNode(rec, i, h.tasks)
	if err != nil {
		return nil, err
	}
	var handlerMounts []machine.Mount
	node.RuntimeHandlers, handlerMounts = planHandlers(c)
	resolvers := reachable(h.resolvers, familiesOf(&c.Networking))
	plan := &machinePlan{node: *node, limits: limits, sockets: planSockets(rec, i)}
	var portNames []string
	for name := range plan.sockets {
		if name != machine.SocketAPIServer {
			portNames = append(portNames, name)
		}
	}
	services := []machine.Service{{
		Name: machine.NodeService, Args: []string{machine.LibexecDir + "/" + machineProgram, "node"}, Sockets: sorted(portNames),
		// It ends its pods then; SIGTERM leaves them running.
		StopSignal: int(unix.SIGPWR),
	}}
	if len(rec.peers()) > 0 {
		// A connection to a server that stands still or is cut off ends soon.
		services[0].Env = map[string]string{"HTTP2_READ_IDLE_TIMEOUT_SECONDS": "2", "HTTP2_PING_TIMEOUT_SECONDS": "2"}
	}
	if m.Role == cluster.ControlPlaneRole {
		if plan.controlPlane, err = planControlPlane(rec, i, resolvers); err != nil {
			return nil, err
		}
		// First: everybody waits for it.
		services = append([]machine.Service{{
			Name: "control-plane", Args: []string{machine.LibexecDir + "/" + machineProgram, "control-plane"},
			Sockets: []string{machine.SocketAPIServer},
		}}, services...)
	}
	plan.init = machine.MachineConfiguration{
		Name:     m.Name,
		Cgroups:  h.layout.Machine(machineCgroup(c.Name, m.Name)),
		Mounts:   planMounts(rec, i, h, handlerMounts),
		NewRoot:  h.paths.root(c.Name),
		Files:    planFiles(rec, i, resolvers),
		Services: services,
		LogDir:   machine.LogDir,
	}
	return plan, nil
}

func planNode(rec *record, i, hostTasks int) (*machine.NodeConfiguration, namespaces.Limits, error) {
	c, m, n := &rec.Cluster, rec.Machines[i], rec.Cluster.Nodes[i]
	dns, err := rec.serviceIPs(dnsAddress)
	if err != nil {
		return nil, namespaces.Limits{}, err
	}
	ranges, err := rangesOf(c.Networking)
	if err != nil {
		return nil, namespaces.Limits{}, err
	}
	cpu, err := wholeNumber(n.Resources.CPU)
	if err != nil {
		return nil, namespaces.Limits{}, &Refusal{Field: fmt.Sprintf("nodes[%d].resources.cpu", i), Err: err, Help: "whole cores, for example 2"}
	}
	memory, err := wholeNumber(n.Resources.Memory)
	if err != nil {
		return nil, namespaces.Limits{}, &Refusal{Field: fmt.Sprintf("nodes[%d].resources.memory", i), Err: err, Help: "a quantity, for example 4Gi"}
	}
	storage, err := wholeNumber(n.Resources.EphemeralStorage)
	if err != nil {
		return nil, namespaces.Limits{}, &Refusal{Field: storageField(i), Err: err, Help: "a quantity, for example 10Gi"}
	}
	cloud, err := planCloud(c)
	if err != nil {
		return nil, namespaces.Limits{}, err
	}
	labels := map[string]string{}
	var taints []machine.Taint
	if m.Role == cluster.ControlPlaneRole {
		labels["node-role.kubernetes.io/control-plane"] = ""
		labels["node.kubernetes.io/exclude-from-external-load-balancers"] = ""
		if hasWorkers(c) {
			taints = append(taints, machine.Taint{Key: "node-role.kubernetes.io/control-plane", Effect: "NoSchedule"})
		}
	}
	maps.Copy(labels, n.Labels)
	cfg := &machine.NodeConfiguration{
		ClusterName: c.Name, NodeName: m.Name, NodeIPs: m.IPs,
		APIServer: apiServerURL(rec), APIServers: apiServers(rec, i),
		ControlPlane: m.Role == cluster.ControlPlaneRole,
		Labels:       labels, Taints: taints,
		ProviderID: "skiff://" + c.Name + "/" + m.Name,
		PodCIDRs:   m.PodCIDRs, PodSubnets: ranges.PodSubnets, ServiceSubnets: ranges.ServiceSubnets,
		ClusterDNS: dns[0], DNSDomain: dnsDomain, MTU: rec.MTU, ForeignCNI: c.Networking.DisableDefaultCNI,
		CPU: int(cpu), MemoryBytes: memory, Pods: n.Resources.Pods, EphemeralStorageBytes: storage,
		FeatureGates: c.FeatureGates, SeccompDefault: c.SeccompDefault, Cloud: cloud, Verbosity: rec.Verbosity,
	}
	limits := namespaces.Limits{CPU: int(cpu), MemoryBytes: memory}
	limits.PIDs, cfg.PodTasks = tasks(n.Resources.Pods, hostTasks)
	return cfg, limits, nil
}

// tasks are the most processes and threads of a machine that holds pods Pods,
// and of the Pods alone, on a host that has hostTasks; 0 is unknown, and no
// limit. A fork bomb leaves half of the host's to others, and in the machine
// enough for what ends it.
func tasks(pods, hostTasks int) (machine, ofPods int) {
	machine = hostTasks / 2
	if declared := pods*podTasks + systemTasks; pods > 0 && (machine == 0 || declared < machine) {
		machine = declared
	}
	return machine, max(machine-systemTasks, machine/2)
}

func providerID(cluster, machine string) string { return "skiff://" + cluster + "/" + machine }

// apiServerURL is how machines reach the API server, without a Service.
func apiServerURL(rec *record) string {
	return "https://" + joinPort(rec.controlPlane().IPs[0].String(), machine.APIServerPort)
}

// apiServers are the addresses of all API servers, if there are several: a
// control plane's own first, else another one for every worker.
func apiServers(rec *record, i int) []netip.AddrPort {
	peers := rec.peers()
	if len(peers) == 0 {
		return nil
	}
	first := slices.IndexFunc(peers, func(p machine.Peer) bool { return p.Name == rec.Machines[i].Name })
	if first < 0 {
		first = i % len(peers)
	}
	var list []netip.AddrPort
	for _, p := range slices.Concat(peers[first:], peers[:first]) {
		list = append(list, netip.AddrPortFrom(p.IPs[0], machine.APIServerPort))
	}
	return list
}

func planControlPlane(rec *record, i int, resolvers []string) (*machine.ControlPlaneConfiguration, error) {
	c, m := &rec.Cluster, rec.Machines[i]
	dns, err := rec.serviceIPs(dnsAddress)
	if err != nil {
		return nil, err
	}
	ranges, err := rangesOf(c.Networking)
	if err != nil {
		return nil, err
	}
	cloud, err := planCloud(c)
	if err != nil {
		return nil, err
	}
	cfg := &machine.ControlPlaneConfiguration{
		ClusterName: c.Name, NodeName: m.Name, NodeIPs: m.IPs, ControlPlanes: rec.peers(),
		PodSubnets: ranges.PodSubnets, ServiceSubnets: ranges.ServiceSubnets, LoadBalancerSubnets: ranges.LoadBalancerSubnets,
		DNSServiceIP: dns[0], DNSDomain: dnsDomain, UpstreamResolvers: resolvers,
		EtcdServers: c.EtcdServers, Durable: c.Durability == cluster.Durable,
		FeatureGates: c.FeatureGates, RuntimeConfig: c.RuntimeConfig,
		Cloud: cloud, TaintControlPlane: hasWorkers(c), NodeLabels: map[string]map[string]string{}, Verbosity: rec.Verbosity,
	}
	if cfg.Replicated() {
		// The host has an address in there, too.
		cfg.LifelineClients = ranges.NodeSubnets
	}
	for i, n := range c.Nodes {
		if len(n.Labels) > 0 {
			cfg.NodeLabels[rec.Machines[i].Name] = n.Labels
		}
	}
	if c.EtcdTLS != nil {
		cfg.EtcdCAFile = given(c.EtcdTLS.CAFile, etcdCAFile)
		cfg.EtcdCertFile = given(c.EtcdTLS.CertFile, etcdCertFile)
		cfg.EtcdKeyFile = given(c.EtcdTLS.KeyFile, etcdKeyFile)
	}
	if c.AuditPolicy != "" {
		cfg.AuditPolicyFile, cfg.AuditLogFile = auditPolicyFile, auditLogFile
	}
	return cfg, nil
}

// given is the machine's path of a file when the host's path is set.
func given(hostPath, path string) string {
	if hostPath == "" {
		return ""
	}
	return path
}

// planSockets names the sockets of the host that machine i serves.
func planSockets(rec *record, i int) map[string]socket {
	c, n := &rec.Cluster, rec.Cluster.Nodes[i]
	sockets := map[string]socket{}
	if n.Role == cluster.ControlPlaneRole {
		sockets[machine.SocketAPIServer] = socket{
			network: "tcp", address: joinPort(c.Networking.APIServerAddress, c.Networking.APIServerPort),
			portField: "networking.apiServerPort", addressField: "networking.apiServerAddress"}
	}
	for j, pm := range n.ExtraPortMappings {
		protocol := strings.ToLower(pm.Protocol)
		sockets[fmt.Sprintf("%s%s/%d/%d", machine.SocketPortPrefix, protocol, pm.ContainerPort, j)] = socket{
			network: protocol, address: joinPort(pm.ListenAddress, pm.HostPort),
			portField:    fmt.Sprintf("nodes[%d].extraPortMappings[%d].hostPort", i, j),
			addressField: fmt.Sprintf("nodes[%d].extraPortMappings[%d].listenAddress", i, j)}
	}
	return sockets
}

// planMounts are the directories that the machine shares with the host, those of
// runtime handlers among them.
func planMounts(rec *record, i int, h host, handlers []machine.Mount) []machine.Mount {
	c, m := &rec.Cluster, rec.Machines[i]
	dir := h.paths.Cluster(c.Name)
	var mounts []machine.Mount
	for _, path := range h.dirs {
		mounts = append(mounts, machine.Mount{Source: path, Target: path, Type: "rbind", ReadOnly: true})
	}
	own := dir + "/machines/" + m.Name
	mounts = append(mounts,
		machine.Mount{Source: own + "/etc", Target: machine.EtcDir, Type: "bind", ReadOnly: true},
		machine.Mount{Source: own + "/kubernetes", Target: "/etc/kubernetes", Type: "bind"},
		machine.Mount{Source: own + "/var", Target: "/var", Type: "bind"},
		machine.Mount{Source: dir + "/logs/" + m.Name, Target: machine.LogDir, Type: "bind"},
		machine.Mount{Source: volumesDir(dir), Target: machine.VolumesDir, Type: "bind"},
		machine.Mount{Source: h.paths.Images(), Target: machine.ImageStoreDir, Type: "rbind", ReadOnly: true},
		machine.Mount{Source: h.paths.pulled(c.Name), Target: machine.PulledDir, Type: "bind", ReadOnly: true},
		machine.Mount{Source: h.paths.Libexec, Target: machine.LibexecDir, Type: "bind", ReadOnly: true},
	)
	mounts = append(mounts, handlers...)
	if c.Networking.DisableDefaultCNI {
		mounts = append(mounts,
			machine.Mount{Source: own + "/cni/net.d", Target: machine.CNIConfDir, Type: "bind"},
			machine.Mount{Source: own + "/cni/bin", Target: machine.CNIBinDir, Type: "bind"})
	}
	if m.Role == cluster.ControlPlaneRole {
		mounts = append(mounts, machine.Mount{Source: h.paths.switchBPF(c.Name), Target: machine.SwitchBPFDir, Type: "bind"})
	}
	for _, e := range rec.Cluster.Nodes[i].ExtraMounts {
		mounts = append(mounts, machine.Mount{Source: e.HostPath, Target: e.ContainerPath, Type: "rbind",
			ReadOnly: e.ReadOnly, Propagation: propagation[e.Propagation]})
	}
	return mounts
}

// planHandlers names the runtime handlers in a machine, and brings in the
// directory of each one's program: runc looks at the directory that it is in. A
// link leads out of it, and is followed anew at each start.
func planHandlers(c *cluster.Cluster) (handlers []machine.RuntimeHandler, mounts []machine.Mount) {
	for _, handler := range c.RuntimeHandlers {
		path := handler.Path
		if real, err := filepath.EvalSymlinks(path); err == nil {
			path = real
		}
		dir := machine.RuntimeHandlersDir + "/" + handler.Name
		handlers = append(handlers, machine.RuntimeHandler{Name: handler.Name, Path: dir + "/" + filepath.Base(path)})
		mounts = append(mounts, machine.Mount{Source: filepath.Dir(path), Target: dir, Type: "bind", ReadOnly: true})
	}
	return handlers, mounts
}

// propagation translates kind's words.
var propagation = map[string]string{"": "", "None": "", "HostToContainer": "rslave", "Bidirectional": "rshared"}

// planFiles are the machine's own files in /etc.
func planFiles(rec *record, i int, resolvers []string) []machine.File {
	m := rec.Machines[i]
	var hosts, resolv strings.Builder
	hosts.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	for _, other := range rec.Machines {
		for _, ip := range other.IPs {
			fmt.Fprintf(&hosts, "%s\t%s\n", ip, other.Name)
		}
	}
	for _, r := range resolvers {
		fmt.Fprintf(&resolv, "nameserver %s\n", r)
	}
	if search := rec.Cluster.Networking.DNSSearch; search != nil && len(*search) > 0 {
		fmt.Fprintf(&resolv, "search %s\n", strings.Join(*search, " "))
	}
	return []machine.File{
		{Path: "/etc/hostname", Content: m.Name + "\n", Mode: 0o644},
		{Path: "/etc/hosts", Content: hosts.String(), Mode: 0o644},
		{Path: "/etc/resolv.conf", Content: resolv.String(), Mode: 0o644},
		{Path: "/etc/machine-id", Content: machineID(rec.ID, m.Name) + "\n", Mode: 0o444},
		{Path: "/etc/crictl.yaml", Content: "runtime-endpoint: unix://" + machine.ContainerdSocket + "\n", Mode: 0o644},
	}
}

// wholeNumber reads a quantity that must be a whole number; empty is zero.
func wholeNumber(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	q, err := resource.ParseQuantity(s)
	if err != nil {
		return 0, fmt.Errorf("%q is not a quantity: %w", s, err)
	}
	v, ok := q.AsInt64()
	if !ok || v < 0 {
		return 0, fmt.Errorf("%q is not a whole number", s)
	}
	return v, nil
}

func hasWorkers(c *cluster.Cluster) bool {
	for _, n := range c.Nodes {
		if n.Role == cluster.WorkerRole {
			return true
		}
	}
	return false
}
