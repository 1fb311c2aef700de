package v1alpha1

import (
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	invalid      = field.ErrorTypeInvalid
	forbidden    = field.ErrorTypeForbidden
	required     = field.ErrorTypeRequired
	duplicate    = field.ErrorTypeDuplicate
	notSupported = field.ErrorTypeNotSupported
	tooLong      = field.ErrorTypeTooLong
	tooMany      = field.ErrorTypeTooMany
)

func TestValidateNamesFieldAndType(t *testing.T) {
	type bad struct {
		path string
		typ  field.ErrorType
	}
	workers := func(n int) string { return "nodes:\n- role: control-plane\n" + strings.Repeat("- role: worker\n", n) }
	for name, tc := range map[string]struct {
		file string
		want []bad
	}{
		"defaults":                     {"", nil},
		"a name in capitals":           {"name: Dev", []bad{{"name", invalid}}},
		"a name with a dot":            {"name: a.b", []bad{{"name", invalid}}},
		"a name with a slash":          {"name: ../etc", []bad{{"name", invalid}}},
		"the longest name":             {"name: " + strings.Repeat("a", 49), nil},
		"a name too long":              {"name: " + strings.Repeat("a", 50), []bad{{"name", tooLong}}},
		"no control plane":             {"nodes: [{role: worker}]", []bad{{"nodes", required}}},
		"more members than etcd bears": {"nodes: [{}, {}, {}, {}, {}, {}, {}, {}]", []bad{{"nodes", invalid}}},
		"an unknown role":              {"nodes: [{}, {role: master}]", []bad{{"nodes[1].role", notSupported}}},
		"too many nodes":               {workers(200), []bad{{"nodes", tooMany}}},
		"this release's image":         {"nodes: [{image: 'docker.io/kindest/node:v1.37.0'}]", nil},
		"another release's image":      {"nodes: [{image: 'kindest/node:v1.36.1'}]", []bad{{"nodes[0].image", invalid}}},
		"another image":                {"nodes: [{image: 'evilkindest/node:v1.37.1'}]", []bad{{"nodes[0].image", invalid}}},
		"illegal labels":               {"nodes: [{labels: {'a b': x, ok: 'a b'}}]", []bad{{"nodes[0].labels[a b]", invalid}, {"nodes[0].labels[ok]", invalid}}},
		"an unknown address family":    {"networking: {ipFamily: ipx}", []bad{{"networking.ipFamily", notSupported}}},
		"IPv6":                         {"networking: {ipFamily: ipv6, podSubnet: 'fd00:1::/56', serviceSubnet: 'fd00:2::/108', nodeSubnet: 'fd00:3::/124', loadBalancerSubnet: 'fd00:4::/126'}", nil},
		"dual stack":                   {"networking: {ipFamily: dual, podSubnet: 'fd00:1::/56, 10.0.0.0/16', serviceSubnet: 'fd00:2::/112,10.1.0.0/16'}", nil},
		"dual stack, half written":     {"networking: {ipFamily: dual, podSubnet: 'fd00:1::/56', serviceSubnet: '10.1.0.0/16,fd00:2::/112', nodeSubnet: 10.2.0.0/24}", nil},
		"dual stack in two orders":     {"networking: {ipFamily: dual, podSubnet: 'fd00:1::/56,10.0.0.0/16', serviceSubnet: '10.1.0.0/16,fd00:2::/112'}", []bad{{"networking.podSubnet", invalid}}},
		"dual stack of one family":     {"networking: {ipFamily: dual, podSubnet: '10.0.0.0/16,10.1.0.0/16', serviceSubnet: 'fd00:1::/112,fd00:2::/112,10.2.0.0/16'}", []bad{{"networking.podSubnet", invalid}, {"networking.serviceSubnet", invalid}}},
		"two ranges in one family":     {"networking: {podSubnet: 'fd00:1::/56,10.0.0.0/16', serviceSubnet: '10.1.0.0/16,10.2.0.0/16'}", []bad{{"networking.podSubnet", invalid}, {"networking.serviceSubnet", invalid}}},
		"an IPv4 range in IPv6":        {"networking: {ipFamily: ipv6, podSubnet: 10.0.0.0/16}", []bad{{"networking.podSubnet", invalid}}},
		"IPv6 ranges too small":        {"networking: {ipFamily: ipv6, podSubnet: 'fd00:1::/64', serviceSubnet: 'fd00:2::/124', nodeSubnet: 'fd00:3::/125', loadBalancerSubnet: 'fd00:4::/127'}\n" + workers(1), []bad{{"networking.podSubnet", invalid}, {"networking.serviceSubnet", invalid}, {"networking.nodeSubnet", invalid}, {"networking.loadBalancerSubnet", invalid}}},
		"IPv6 ranges too large":        {"networking: {ipFamily: ipv6, podSubnet: 'fd00:1::/47', serviceSubnet: 'fd00:2::/107'}", []bad{{"networking.podSubnet", invalid}, {"networking.serviceSubnet", invalid}}},
		"IPv6 ranges of the kernel":    {"networking: {ipFamily: ipv6, podSubnet: 'fe80::/56', serviceSubnet: 'ff00::/112', nodeSubnet: '::/64', loadBalancerSubnet: '::ffff:10.0.0.0/112'}", []bad{{"networking.podSubnet", invalid}, {"networking.serviceSubnet", invalid}, {"networking.nodeSubnet", invalid}, {"networking.loadBalancerSubnet", invalid}}},
		"IPv6 ranges that overlap":     {"networking: {ipFamily: dual, podSubnet: '10.0.0.0/16,fd00:1::/56', serviceSubnet: '10.1.0.0/16,fd00:1::/112'}", []bad{{"networking.serviceSubnet", invalid}}},
		"a port above 65535":           {"networking: {apiServerPort: 65536}", []bad{{"networking.apiServerPort", invalid}}},
		"kind's port -1":               {"networking: {apiServerPort: -1}", []bad{{"networking.apiServerPort", invalid}}},
		"a name as address":            {"networking: {apiServerAddress: localhost}", []bad{{"networking.apiServerAddress", invalid}}},
		"a cloud":                      {"cloud: {drivers: [ebs.csi.aws.com], filesystems: images, missingVolumes: refuse, attachLimit: 3, createDelay: 1s, attachDelay: 2.5s}", nil},
		"no cloud":                     {"cloud: {drivers: []}", nil},
		"an unknown driver":            {"cloud: {drivers: [ebs.csi.aws.com, ebs, ebs.csi.aws.com]}", []bad{{"cloud.drivers[1]", notSupported}, {"cloud.drivers[2]", duplicate}}},
		"a cloud of other words":       {"cloud: {filesystems: zfs, missingVolumes: maybe, attachLimit: -1}", []bad{{"cloud.filesystems", notSupported}, {"cloud.missingVolumes", notSupported}, {"cloud.attachLimit", invalid}}},
		"a cloud without time":         {"cloud: {createDelay: soon, attachDelay: 1h}", []bad{{"cloud.createDelay", invalid}, {"cloud.attachDelay", invalid}}},
		"removed volumes":              {"removedVolumes: emulate", nil},
		"removed volumes otherwise":    {"removedVolumes: csi", []bad{{"removedVolumes", notSupported}}},
		"runtime handlers":             {"runtimeHandlers: [{name: crun, path: /usr/bin/crun}]", nil},
		"runtime handlers that cannot": {"runtimeHandlers: [{name: runc, path: /a}, {name: A_b, path: /a}, {path: /a}, {name: x, path: a}, {name: x}]", []bad{{"runtimeHandlers[0].name", invalid}, {"runtimeHandlers[1].name", invalid}, {"runtimeHandlers[2].name", required}, {"runtimeHandlers[3].path", invalid}, {"runtimeHandlers[4].name", duplicate}, {"runtimeHandlers[4].path", required}}},
		"another CNI":                  {"networking: {disableDefaultCNI: true}", nil},
		"no proxy":                     {"networking: {kubeProxyMode: none}", []bad{{"networking.kubeProxyMode", forbidden}}},
		"an unknown proxy":             {"networking: {kubeProxyMode: ebpf}", []bad{{"networking.kubeProxyMode", notSupported}}},
		"a search domain":              {"networking: {dnsSearch: [a.b., 'a b']}", []bad{{"networking.dnsSearch[1]", invalid}}},
		"a subnet that is none":        {"networking: {podSubnet: 10.0.0.0}", []bad{{"networking.podSubnet", invalid}}},
		"a subnet with host bits":      {"networking: {podSubnet: 10.1.2.3/16}", []bad{{"networking.podSubnet", invalid}}},
		"an IPv6 subnet":               {"networking: {serviceSubnet: 'fd00:1::/108'}", []bad{{"networking.serviceSubnet", invalid}}},
		"the loopback range":           {"networking: {podSubnet: 127.0.0.0/16}", []bad{{"networking.podSubnet", invalid}}},
		"multicast":                    {"networking: {serviceSubnet: 230.0.0.0/16}", []bad{{"networking.serviceSubnet", invalid}}},
		"ranges that overlap":          {"networking: {podSubnet: 10.0.0.0/8, serviceSubnet: 10.96.0.0/16, nodeSubnet: 10.96.0.0/24}", []bad{{"networking.serviceSubnet", invalid}, {"networking.nodeSubnet", invalid}, {"networking.nodeSubnet", invalid}}},
		"a pod range for one node":     {"networking: {podSubnet: 10.0.0.0/24}", nil},
		"a pod range too small":        {"networking: {podSubnet: 10.0.0.0/24}\n" + workers(1), []bad{{"networking.podSubnet", invalid}}},
		"a service range too large":    {"networking: {serviceSubnet: 10.0.0.0/11}", []bad{{"networking.serviceSubnet", invalid}}},
		"a service range too small":    {"networking: {serviceSubnet: 10.0.0.0/28}", []bad{{"networking.serviceSubnet", invalid}}},
		"a node range too small":       {"networking: {nodeSubnet: 10.0.0.0/28}\n" + workers(5), []bad{{"networking.nodeSubnet", invalid}}},
		"a node range just so":         {"networking: {nodeSubnet: 10.0.0.0/28}\n" + workers(4), nil},
		"a balancer range too small":   {"networking: {loadBalancerSubnet: 10.0.0.0/31}", []bad{{"networking.loadBalancerSubnet", invalid}}},
		"mounts":                       {"nodes: [{extraMounts: [{hostPath: /a, containerPath: b}, {hostPath: /a}, {containerPath: /x}, {hostPath: /a, containerPath: /x/}]}]", []bad{{"nodes[0].extraMounts[0].containerPath", invalid}, {"nodes[0].extraMounts[1].containerPath", required}, {"nodes[0].extraMounts[2].hostPath", required}, {"nodes[0].extraMounts[3].containerPath", duplicate}}},
		"a mount over everything":      {"nodes: [{extraMounts: [{hostPath: /a, containerPath: //}]}]", []bad{{"nodes[0].extraMounts[0].containerPath", invalid}}},
		"mounts over skiff's own":      {"nodes: [{extraMounts: [{hostPath: /a, containerPath: /var/lib}, {hostPath: /a, containerPath: /etc/skiff/pki}, {hostPath: /a, containerPath: /var/lib/skiff2}, {hostPath: /a, containerPath: /run/../proc}]}]", []bad{{"nodes[0].extraMounts[0].containerPath", invalid}, {"nodes[0].extraMounts[1].containerPath", invalid}, {"nodes[0].extraMounts[3].containerPath", invalid}}},
		"an unknown propagation":       {"nodes: [{extraMounts: [{hostPath: /a, containerPath: /b, propagation: none}]}]", []bad{{"nodes[0].extraMounts[0].propagation", notSupported}}},
		"port mappings":                {"nodes: [{extraPortMappings: [{containerPort: 0}, {containerPort: 80, hostPort: 70000}, {containerPort: 80, hostPort: -1}, {containerPort: 80, listenAddress: all}, {containerPort: 80, protocol: tcp}, {containerPort: 80, protocol: SCTP}]}]", []bad{{"nodes[0].extraPortMappings[0].containerPort", invalid}, {"nodes[0].extraPortMappings[1].hostPort", invalid}, {"nodes[0].extraPortMappings[2].hostPort", invalid}, {"nodes[0].extraPortMappings[3].listenAddress", invalid}, {"nodes[0].extraPortMappings[4].protocol", notSupported}, {"nodes[0].extraPortMappings[5].protocol", forbidden}}},
		"a host port on two nodes":     {"nodes: [{extraPortMappings: [{containerPort: 80, hostPort: 80}]}, {role: worker, extraPortMappings: [{containerPort: 81, hostPort: 80, listenAddress: 0.0.0.0}]}]", []bad{{"nodes[1].extraPortMappings[0].hostPort", duplicate}}},
		"a host port by two protocols": {"nodes: [{extraPortMappings: [{containerPort: 80, hostPort: 80}, {containerPort: 80, hostPort: 80, protocol: UDP}, {containerPort: 1, hostPort: 80, listenAddress: 127.0.0.2}, {containerPort: 1}, {containerPort: 2}]}]", nil},
		"the API server's port":        {"networking: {apiServerPort: 6443}\nnodes: [{extraPortMappings: [{containerPort: 80, hostPort: 6443}]}]", []bad{{"nodes[0].extraPortMappings[0].hostPort", duplicate}}},
		"quantities":                   {"nodes: [{resources: {cpu: two, memory: 12Q, pods: 251}}, {role: worker, resources: {cpu: 1500m, memory: 64Mi, pods: -1}}, {role: worker, resources: {cpu: 2000m, memory: 4Gi}}, {role: worker, resources: {cpu: 0}}]", []bad{{"nodes[0].resources.cpu", invalid}, {"nodes[0].resources.memory", invalid}, {"nodes[0].resources.pods", invalid}, {"nodes[1].resources.cpu", invalid}, {"nodes[1].resources.memory", invalid}, {"nodes[1].resources.pods", invalid}, {"nodes[3].resources.cpu", invalid}}},
		"feature gates":                {"featureGates: {UserNamespacesSupport: true, AllAlpha: true, NoSuchGate: true, contextuallogging: false}", []bad{{"featureGates[NoSuchGate]", invalid}, {"featureGates[contextuallogging]", invalid}}},
		"a locked feature gate":        {"featureGates: {InPlacePodVerticalScaling: false}", []bad{{"featureGates[InPlacePodVerticalScaling]", invalid}}},
		"runtime config":               {"runtimeConfig: {api/alpha: 'no', 'a,b': 'true', api/beta: '', batch/v1: 'true', v1: 'true', resource.k8s.io/v1beta2/devices: 'true', batches/v1: 'true', batch: 'true'}", []bad{{"runtimeConfig[a,b]", invalid}, {"runtimeConfig[api/alpha]", notSupported}, {"runtimeConfig[batch]", invalid}, {"runtimeConfig[batches/v1]", invalid}}},
		"no API at all":                {"runtimeConfig: {api/all: 'false'}", []bad{{"runtimeConfig[api/all]", forbidden}}},
		"an unknown restart":           {"restart: sometimes", []bad{{"restart", notSupported}}},
		"an unknown durability":        {"durability: sometimes", []bad{{"durability", notSupported}}},
		"etcd without files":           {"etcdServers: ['https://10.0.0.1:2379']", []bad{{"etcdTLS", required}}},
		"etcd files without etcd":      {"etcdTLS: {caFile: /a}", []bad{{"etcdTLS", forbidden}}},
		"etcd with half a pair":        {"etcdServers: ['https://10.0.0.1:2379']\netcdTLS: {caFile: /a, certFile: /b}", []bad{{"etcdTLS", required}}},
		"etcd in plain":                {"etcdServers: ['http://10.0.0.1:2379', 'http://10.0.0.2:2379/']", nil},
		"etcd on loopback":             {"etcdServers: ['http://127.0.0.1:2379', 'http://localhost:2379', 'http://[::1]:2379', 'http://0.0.0.0:2379']", []bad{{"etcdServers[0]", invalid}, {"etcdServers[1]", invalid}, {"etcdServers[2]", invalid}, {"etcdServers[3]", invalid}}},
		"etcd URLs that are none":      {"etcdServers: ['10.0.0.1:2379', 'unix:///x', 'http://a/b']", []bad{{"etcdServers[0]", invalid}, {"etcdServers[1]", invalid}, {"etcdServers[2]", invalid}}},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := Load([]byte(skiffHead + tc.file))
			if err != nil {
				t.Fatal(err)
			}
			SetDefaults(c)
			errs := Validate(c)
			var have []bad
			for _, e := range errs {
				have = append(have, bad{e.Field, e.Type})
			}
			if !slices.Equal(have, tc.want) {
				t.Errorf("want %v, have:\n%v", tc.want, &InvalidError{Errs: errs})
			}
		})
	}
}

func TestMessagesProposeWhatWasMeant(t *testing.T) {
	for file, want := range map[string]string{
		"nodes: [{resources: {memory: 12Q}}]":            `nodes[0].resources.memory: Invalid value: "12Q": not a quantity; try 12Gi`,
		"nodes: [{resources: {ephemeralStorage: 20GB}}]": `nodes[0].resources.ephemeralStorage: Invalid value: "20GB": not a quantity; try 20Gi`,
		"nodes: [{resources: {ephemeralStorage: 10Mi}}]": `nodes[0].resources.ephemeralStorage: Invalid value: "10Mi": a node needs at least 64Mi`,
		"nodes: [{resources: {ephemeralStorage: 1Ei}}]":  `nodes[0].resources.ephemeralStorage: Invalid value: "1Ei": not below 1Ei`,
		"nodes: [{resources: {memory: 512MB}}]":          `nodes[0].resources.memory: Invalid value: "512MB": not a quantity; try 512Mi`,
		"networking: {podSubnet: 10.1.2.0/16}":           `networking.podSubnet: Invalid value: "10.1.2.0/16": not the first address of its range; try 10.1.0.0/16`,
		"nodes: [{image: 'kindest/node:v1.36.0'}]":       `remove it, or name kindest/node:v1.37.x`,
	} {
		c, err := Load([]byte(skiffHead + file))
		if err != nil {
			t.Fatal(err)
		}
		SetDefaults(c)
		if got := (&InvalidError{Errs: Validate(c)}).Error(); !strings.Contains(got, want) {
			t.Errorf("want %q in %q", want, got)
		}
	}
}

func TestNodesAreNumberedByRole(t *testing.T) {
	c := &Cluster{Name: "dev", Nodes: []Node{{Role: WorkerRole}, {}, {}, {Role: WorkerRole}}}
	SetDefaults(c)
	var names []string
	for _, n := range c.Nodes {
		names = append(names, n.Name)
	}
	if want := []string{"dev-worker", "dev-control-plane", "dev-control-plane2", "dev-worker2"}; !slices.Equal(names, want) {
		t.Errorf("want %v, have %v", want, names)
	}
}

func TestThePrimaryFamilyIsTheFirstWritten(t *testing.T) {
	for name, tc := range map[string]struct {
		networking Networking
		want       []IPFamily
	}{
		"nothing written":                  {Networking{IPFamily: DualStack}, []IPFamily{IPv4, IPv6}},
		"one family":                       {Networking{IPFamily: IPv6, PodSubnet: "10.0.0.0/16,fd00:1::/56"}, []IPFamily{IPv6}},
		"half written":                     {Networking{IPFamily: DualStack, PodSubnet: "fd00:1::/56"}, []IPFamily{IPv4, IPv6}},
		"a pod range with IPv6 first":      {Networking{IPFamily: DualStack, PodSubnet: "fd00:1::/56, 10.0.0.0/16"}, []IPFamily{IPv6, IPv4}},
		"the service range goes before":    {Networking{IPFamily: DualStack, PodSubnet: "10.0.0.0/16,fd00:1::/56", ServiceSubnet: "fd00:2::/112,10.1.0.0/16"}, []IPFamily{IPv6, IPv4}},
		"the node range alone says it":     {Networking{IPFamily: DualStack, NodeSubnet: "fd00:1::/64,10.0.0.0/24"}, []IPFamily{IPv6, IPv4}},
		"what cannot be read says nothing": {Networking{IPFamily: DualStack, ServiceSubnet: "fd00:2::/112,x"}, []IPFamily{IPv4, IPv6}},
	} {
		if got := tc.networking.Families(); !slices.Equal(got, tc.want) {
			t.Errorf("%s: want %v, have %v", name, tc.want, got)
		}
	}
}

func TestAClusterThatRestartsIsDurableUnlessItSays(t *testing.T) {
	for _, tt := range []struct {
		restart    RestartPolicy
		given, get Durability
	}{
		{"", "", Ephemeral},
		{RestartNever, "", Ephemeral},
		{RestartAlways, "", Durable},
		{RestartAlways, Ephemeral, Ephemeral},
	} {
		c := &Cluster{Restart: tt.restart, Durability: tt.given}
		SetDefaults(c)
		if c.Durability != tt.get {
			t.Errorf("restart %q, durability %q: default %q, want %q", tt.restart, tt.given, c.Durability, tt.get)
		}
	}
}
