package v1alpha1

import (
	"fmt"
	"net/netip"
	"net/url"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	// maxNodes follows from the ranges: a node's address is .10 and up in a
	// range that may be chosen as large as /16, a cluster on one host does not
	// get near.
	maxNodes = 200
	// maxControlPlanes is the largest etcd cluster that upstream recommends.
	maxControlPlanes = 7
	// maxPods fit a node's /24.
	maxPods = 250
	// minMemory is what a machine's own processes and their page cache need to
	// come up at all.
	minMemory = "128Mi"
	// minStorage leaves Pods something of what evictions begin at, and
	// containerd's records.
	minStorage = "64Mi"
)

// label is upstream's DNS label, whose own message is three lines long.
var label = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)

// ValidateName says what is wrong with a cluster's name.
func ValidateName(name string, at *field.Path) field.ErrorList {
	return validateLabel(name, validation.DNS1123LabelMaxLength-len("-"+ControlPlaneRole), at)
}

// validateLabel says what keeps name from being a DNS label of up to longest
// characters.
func validateLabel(name string, longest int, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(name) > longest {
		errs = append(errs, field.TooLong(at, name, longest))
	}
	if !label.MatchString(name) {
		errs = append(errs, field.Invalid(at, name, "a name has lower case letters, digits and '-', and begins and ends with a letter or digit"))
	}
	return errs
}

// Validate says everything that is wrong with c, which has its defaults and
// absolute paths.
func Validate(c *Cluster) field.ErrorList {
	errs := ValidateName(c.Name, field.NewPath("name"))
	errs = append(errs, validateNodes(c)...)
	errs = append(errs, validateNetworking(&c.Networking, len(c.Nodes), field.NewPath("networking"))...)
	errs = append(errs, validatePorts(c)...)
	errs = append(errs, validateStorage(c)...)
	errs = append(errs, validateRuntimeHandlers(c.RuntimeHandlers, field.NewPath("runtimeHandlers"))...)
	errs = append(errs, validateCloud(&c.Cloud, field.NewPath("cloud"))...)
	if c.RemovedVolumes != FailRemovedVolumes && c.RemovedVolumes != EmulateRemovedVolumes {
		errs = append(errs, field.NotSupported(field.NewPath("removedVolumes"), c.RemovedVolumes, []RemovedVolumes{FailRemovedVolumes, EmulateRemovedVolumes}))
	}
	errs = append(errs, validateGates(c.FeatureGates, field.NewPath("featureGates"))...)
	return append(errs, validateRuntimeConfig(c.RuntimeConfig, field.NewPath("runtimeConfig"))...)
}

func validateRuntimeHandlers(handlers []RuntimeHandler, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := map[string]bool{}
	for i, handler := range handlers {
		at := at.Index(i)
		switch name := at.Child("name"); {
		case handler.Name == "":
			errs = append(errs, field.Required(name, "the handler of a RuntimeClass, for example crun"))
		case handler.Name == "runc":
			errs = append(errs, field.Invalid(name, handler.Name, "nodes have this one; take another name"))
		case seen[handler.Name]:
			errs = append(errs, field.Duplicate(name, handler.Name))
		default:
			errs = append(errs, validateLabel(handler.Name, validation.DNS1123LabelMaxLength, name)...)
		}
		seen[handler.Name] = true
		errs = append(errs, validatePath(handler.Path, at.Child("path"))...)
	}
	return errs
}

func validateRuntimeConfig(set map[string]string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, key := range sortedKeys(set) {
		at := at.Key(key)
		if v := set[key]; v != "" && v != "true" && v != "false" {
			errs = append(errs, field.NotSupported(at, v, []string{"true", "false"}))
		}
		if slices.Contains(runtimeConfigGroups, key) {
			continue
		}
		parts := strings.Split(key, "/")
		if parts[0] == "v1" {
			parts = append([]string{""}, parts...)
		}
		if len(parts) < 2 || len(parts) > 3 || !knownGroups[parts[0]] {
			errs = append(errs, field.Invalid(at, key, "not a version or resource of a group of Kubernetes "+KubernetesVersion+
				"; try resource.k8s.io/v1beta2, or one of "+strings.Join(runtimeConfigGroups, ", ")))
		}
	}
	if len(set) == 1 && set["api/all"] == "false" {
		errs = append(errs, field.Forbidden(at.Key("api/all"), "alone it would leave no API at all; turn some on beside it"))
	}
	return errs
}

func validateNodes(c *Cluster) field.ErrorList {
	var errs field.ErrorList
	at := field.NewPath("nodes")
	if len(c.Nodes) > maxNodes {
		errs = append(errs, field.TooMany(at, len(c.Nodes), maxNodes))
	}
	controlPlanes := 0
	for i := range c.Nodes {
		n, at := &c.Nodes[i], at.Index(i)
		switch n.Role {
		case ControlPlaneRole:
			controlPlanes++
		case WorkerRole:
		default:
			errs = append(errs, field.NotSupported(at.Child("role"), n.Role, []Role{ControlPlaneRole, WorkerRole}))
		}
		if len(n.Name) > validation.DNS1123LabelMaxLength && len(ValidateName(c.Name, nil)) == 0 {
			errs = append(errs, field.Invalid(field.NewPath("name"), c.Name, "too long: node "+n.Name+" has more than 63 characters"))
		}
		errs = append(errs, validateNode(n, at)...)
	}
	if controlPlanes == 0 {
		errs = append(errs, field.Required(at, "one node of role control-plane"))
	}
	if controlPlanes > maxControlPlanes && len(c.EtcdServers) == 0 {
		errs = append(errs, field.Invalid(at, controlPlanes,
			fmt.Sprintf("at most %d nodes of role control-plane: each is a member of etcd, and every write waits for most of them", maxControlPlanes)))
	}
	return errs
}

// Warnings are what is odd about a valid c, each a sentence.
func Warnings(c *Cluster) []string {
	n := 0
	for i := range c.Nodes {
		if c.Nodes[i].Role == ControlPlaneRole {
			n++
		}
	}
	if n%2 != 0 || len(c.EtcdServers) > 0 {
		return nil
	}
	return []string{fmt.Sprintf("nodes: %d of role control-plane bear the loss of no more of them than %d would; an odd number is better", n, n-1)}
}

func validateNode(n *Node, at *field.Path) field.ErrorList {
	errs := ValidateImage(n.Image, at.Child("image"))
	for _, key := range sortedKeys(n.Labels) {
		at := at.Child("labels").Key(key)
		for _, msg := range validation.IsQualifiedName(key) {
			errs = append(errs, field.Invalid(at, key, msg))
		}
		for _, msg := range validation.IsValidLabelValue(n.Labels[key]) {
			errs = append(errs, field.Invalid(at, n.Labels[key], msg))
		}
	}
	seen := map[string]bool{}
	for j, m := range n.ExtraMounts {
		at := at.Child("extraMounts").Index(j)
		errs = append(errs, validateMount(m, at)...)
		if p := path.Clean(m.ContainerPath); seen[p] {
			errs = append(errs, field.Duplicate(at.Child("containerPath"), m.ContainerPath))
		} else if m.ContainerPath != "" {
			seen[p] = true
		}
	}
	return append(errs, validateResources(n.Resources, at.Child("resources"))...)
}

// releaseImage matches the node images of kind that hold this release's minor
// version.
var releaseImage = regexp.MustCompile(`(^|/)kindest/node:v` + regexp.QuoteMeta(KubernetesMinor) + `\.\d+(@sha256:[0-9a-f]{64})?$`)

// ValidateImage refuses node images that are not of this release.
func ValidateImage(image string, at *field.Path) field.ErrorList {
	if image == "" || releaseImage.MatchString(image) {
		return nil
	}
	return field.ErrorList{field.Invalid(at, image, "skiff's nodes have no image, and this release is Kubernetes "+
		KubernetesVersion+"; remove it, or name kindest/node:v"+KubernetesMinor+".x")}
}

func validateMount(m Mount, at *field.Path) field.ErrorList {
	errs := validatePath(m.HostPath, at.Child("hostPath"))
	errs = append(errs, validatePath(m.ContainerPath, at.Child("containerPath"))...)
	if p := path.Clean(m.ContainerPath); slices.Contains(systemDirs, p) {
		errs = append(errs, field.Invalid(at.Child("containerPath"), m.ContainerPath, "would cover what the node runs on; name a directory below it"))
	} else if dir := skiffsDir(p); dir != "" {
		errs = append(errs, field.Invalid(at.Child("containerPath"), m.ContainerPath, dir+" is skiff's own; name another directory"))
	}
	if modes := []string{"None", "HostToContainer", "Bidirectional"}; !slices.Contains(modes, m.Propagation) {
		errs = append(errs, field.NotSupported(at.Child("propagation"), m.Propagation, modes))
	}
	return errs
}

// systemDirs of a node: without what they hold it cannot run.
var systemDirs = []string{"/", "/bin", "/dev", "/etc", "/lib", "/lib64", "/proc", "/run", "/sbin", "/sys", "/usr", "/var", "/var/lib", "/var/log"}

// skiffsDir is the directory of skiff's own in a node that p is in.
func skiffsDir(p string) string {
	for _, dir := range []string{"/skiff", "/etc/skiff", "/var/lib/skiff", "/var/log/skiff", "/run/skiff"} {
		if p == dir || strings.HasPrefix(p, dir+"/") {
			return dir
		}
	}
	return ""
}

func validatePath(p string, at *field.Path) field.ErrorList {
	switch {
	case p == "":
		return field.ErrorList{field.Required(at, "an absolute path")}
	case !filepath.IsAbs(p):
		return field.ErrorList{field.Invalid(at, p, "not an absolute path")}
	case strings.ContainsRune(p, 0):
		return field.ErrorList{field.Invalid(at, p, "contains a zero byte")}
	}
	return nil
}

func validateResources(r Resources, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if r.CPU != "" {
		q, err := resource.ParseQuantity(r.CPU)
		switch {
		case err != nil:
			errs = append(errs, field.Invalid(at.Child("cpu"), r.CPU, "not a quantity; try 2"))
		case q.MilliValue() < 1000 || q.MilliValue()%1000 != 0 || q.Value() > 4096:
			errs = append(errs, field.Invalid(at.Child("cpu"), r.CPU, "a node has whole cores, from 1 to 4096"))
		}
	}
	errs = append(errs, validateBytes(r.Memory, minMemory, at.Child("memory"))...)
	errs = append(errs, validateBytes(r.EphemeralStorage, minStorage, at.Child("ephemeralStorage"))...)
	if r.Pods < 1 || r.Pods > maxPods {
		errs = append(errs, field.Invalid(at.Child("pods"), r.Pods, validation.InclusiveRangeError(1, maxPods)))
	}
	return errs
}

// validateBytes says what keeps v, unless it is empty, from being at least least.
func validateBytes(v, least string, at *field.Path) field.ErrorList {
	if v == "" {
		return nil
	}
	q, err := resource.ParseQuantity(v)
	switch {
	case err != nil:
		return field.ErrorList{field.Invalid(at, v, "not a quantity; try "+tryBytes(v))}
	case q.Cmp(resource.MustParse(least)) < 0:
		return field.ErrorList{field.Invalid(at, v, "a node needs at least "+least)}
	case q.Cmp(resource.MustParse("1Ei")) >= 0:
		return field.ErrorList{field.Invalid(at, v, "not below 1Ei")}
	}
	return nil
}

// tryBytes proposes the number that was meant, with a unit that exists.
func tryBytes(v string) string {
	digits := strings.TrimRight(v, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return "4Gi"
	}
	if strings.ContainsAny(v, "mM") {
		return digits + "Mi"
	}
	return digits + "Gi"
}

func validateStorage(c *Cluster) field.ErrorList {
	var errs field.ErrorList
	if c.Durability != Ephemeral && c.Durability != Durable {
		errs = append(errs, field.NotSupported(field.NewPath("durability"), c.Durability, []Durability{Ephemeral, Durable}))
	}
	if c.Restart != RestartNever && c.Restart != RestartAlways {
		errs = append(errs, field.NotSupported(field.NewPath("restart"), c.Restart, []RestartPolicy{RestartNever, RestartAlways}))
	}
	if c.AuditPolicy != "" {
		errs = append(errs, validatePath(c.AuditPolicy, field.NewPath("auditPolicy"))...)
	}
	tls := false
	for i, s := range c.EtcdServers {
		u, err := url.Parse(s)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.Path != "" && u.Path != "/" {
			errs = append(errs, field.Invalid(field.NewPath("etcdServers").Index(i), s, "not the client URL of an etcd; try https://10.0.0.5:2379"))
			continue
		}
		if ip, err := netip.ParseAddr(u.Hostname()); u.Hostname() == "localhost" || err == nil && (ip.IsLoopback() || ip.IsUnspecified()) {
			errs = append(errs, field.Invalid(field.NewPath("etcdServers").Index(i), s,
				"the control-plane machine itself, where no etcd is; let etcd listen on another address of this host's and name that"))
		}
		tls = tls || u.Scheme == "https"
	}
	return append(errs, validateEtcdTLS(c, tls)...)
}

func validateEtcdTLS(c *Cluster, https bool) field.ErrorList {
	t, at := c.EtcdTLS, field.NewPath("etcdTLS")
	if t == nil {
		if https {
			return field.ErrorList{field.Required(at, "the files for etcdServers over https")}
		}
		return nil
	}
	if !https {
		return field.ErrorList{field.Forbidden(at, "needs etcdServers with https URLs")}
	}
	errs := validatePath(t.CAFile, at.Child("caFile"))
	if (t.CertFile == "") != (t.KeyFile == "") {
		errs = append(errs, field.Required(at, fmt.Sprintf("certFile and keyFile together; have %q and %q", t.CertFile, t.KeyFile)))
	}
	return errs
}

// validatePorts looks at all host ports of the cluster together: they are all
// opened on the same host.
func validatePorts(c *Cluster) field.ErrorList {
	var errs field.ErrorList
	taken := ports{}
	if p := c.Networking.APIServerPort; p > 0 {
		if addr, err := netip.ParseAddr(c.Networking.APIServerAddress); err == nil {
			taken.take("TCP", addr, p)
		}
	}
	for i, n := range c.Nodes {
		for j, m := range n.ExtraPortMappings {
			at := field.NewPath("nodes").Index(i).Child("extraPortMappings").Index(j)
			bad := validatePort(m, at)
			if addr, err := netip.ParseAddr(m.ListenAddress); err == nil && len(bad) == 0 && m.HostPort > 0 && !taken.take(m.Protocol, addr, m.HostPort) {
				bad = append(bad, field.Duplicate(at.Child("hostPort"), m.HostPort))
			}
			errs = append(errs, bad...)
		}
	}
	return errs
}

func validatePort(m PortMapping, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, msg := range validation.IsValidPortNum(int(m.ContainerPort)) {
		errs = append(errs, field.Invalid(at.Child("containerPort"), m.ContainerPort, msg))
	}
	if m.HostPort < 0 || m.HostPort > 65535 {
		errs = append(errs, field.Invalid(at.Child("hostPort"), m.HostPort, validation.InclusiveRangeError(0, 65535)+"; 0 picks a free one"))
	}
	if _, err := netip.ParseAddr(m.ListenAddress); err != nil {
		errs = append(errs, field.Invalid(at.Child("listenAddress"), m.ListenAddress, "not an IP address; try 127.0.0.1"))
	}
	switch m.Protocol {
	case "TCP", "UDP":
	case "SCTP":
		errs = append(errs, field.Forbidden(at.Child("protocol"), "SCTP is not in this release; use TCP or UDP"))
	default:
		errs = append(errs, field.NotSupported(at.Child("protocol"), m.Protocol, []string{"TCP", "UDP"}))
	}
	return errs
}

// ports are the host ports that a cluster asks for: addresses by protocol and
// port. The unspecified address takes a port on all of them.
type ports map[string][]netip.Addr

func (p ports) take(protocol string, addr netip.Addr, port int32) bool {
	key := fmt.Sprint(protocol, port)
	for _, a := range p[key] {
		if a == addr || a.IsUnspecified() || addr.IsUnspecified() {
			return false
		}
	}
	p[key] = append(p[key], addr)
	return true
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
