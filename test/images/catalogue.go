package main

import (
	"fmt"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// recipe says what an image is made of. Layers come in the order: Debian
// packages, programs, files; recipes with the same packages share the layer.
type recipe struct {
	names []string
	// sets are those that the image belongs to besides "test".
	sets []string
	// csi makes the image one of the set "csi" alone: sidecars are large, and
	// only upstream's CSI specs run them.
	csi bool
	// debs are Debian packages, with their dependencies.
	debs []string
	// programs maps a path in the image to a Go package of the module graph,
	// for the set "csi" to one of test/images/csi.
	programs map[string]string
	// files maps a path in the image to its content.
	files map[string]file
	// from maps a path in the image to a file of a module.
	from   map[string]moduleFile
	links  map[string]string
	config v1.Config
	// registry fills /var/registry with the image pause:testing, in the
	// layout of agnhost's fake-registry-server.
	registry bool
}

type file struct {
	content string
	mode    int64
	uid     int
}

type moduleFile struct{ module, path string }

const (
	e2eRegistry = "registry.k8s.io/e2e-test-images/"
	sigStorage  = "registry.k8s.io/sig-storage/"
	csiModules  = "github.com/kubernetes-csi/"
	kubernetes  = "k8s.io/kubernetes"
	shellPath   = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

const (
	passwd = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\nwww-data:x:33:33:www-data:/var/www:/bin/false\n"
	group  = "root:x:0:\ntty:x:5:\nwww-data:x:33:\nnogroup:x:65534:\n"
)

// users are those of every image.
var users = map[string]file{
	"etc/passwd": {content: passwd, mode: 0o644},
	"etc/group":  {content: group, mode: 0o644},
	// The ImageVolume spec reads this name out of the kitten image.
	"etc/os-release":    {content: "NAME=\"Alpine Linux\"\nID=alpine\nPRETTY_NAME=\"Alpine Linux (skiff's stand-in)\"\n", mode: 0o644},
	"etc/nsswitch.conf": {content: "passwd: files\ngroup: files\nhosts: files dns\n", mode: 0o644},
	// busybox's wget, which specs count on, does not try again.
	"etc/wgetrc":    {content: "tries = 1\n", mode: 0o644},
	"tmp/.keep":     {mode: 0o644},
	"uploads/.keep": {mode: 0o644},
}

// definedInImage are the user (1000) and the group (50000) of upstream's agnhost
// image that the SupplementalGroups specs look for. Others must not have them:
// those of fsGroup read numbers out of ls.
var definedInImage = map[string]file{
	"etc/passwd": {content: passwd + "user-defined-in-image:x:1000:1000::/home/user-defined-in-image:/bin/sh\n", mode: 0o644},
	"etc/group":  {content: group + "user-defined-in-image:x:1000:\ngroup-defined-in-image:x:50000:user-defined-in-image\n", mode: 0o644},
}

// commands are those that Debian's busybox lacks.
var commands = merge(users, map[string]file{
	"usr/bin/printenv": {content: "#!/bin/sh\n[ $# = 0 ] && exec env\nenv | sed -n \"s/^$1=//p\"\n", mode: 0o755},
})

// shellAnd gives the packages of an image with a shell and busybox's
// commands, and more. wget is GNU's: the one in Debian's static busybox ends
// with a segmentation fault, whatever it is asked for.
func shellAnd(more ...string) []string {
	return append([]string{"bash-static", "busybox-static", "wget"}, more...)
}

// tools are what upstream's agnhost image takes from Alpine.
var tools = shellAnd("bind9-dnsutils", "libc-bin", "curl", "netcat-openbsd", "iproute2", "iperf", "socat", "util-linux")

// shell is bash where no spec compares messages: busybox's shell prefers its
// applets to PATH (its nc lacks the suite's flags) and drops variables whose
// names have a dash. The busybox stand-in has test/images/sh instead.
var shell = map[string]string{"usr/bin/sh": "bash-static", "usr/bin/bash": "bash-static"}

func agnhost(names ...string) recipe {
	return recipe{
		names:    names,
		debs:     tools,
		programs: map[string]string{"agnhost": kubernetes + "/test/images/agnhost", "coredns": "github.com/coredns/coredns"},
		files:    merge(commands, definedInImage),
		from: map[string]moduleFile{
			"localhost.crt": {kubernetes, "test/images/agnhost/porter/localhost.crt"},
			"localhost.key": {kubernetes, "test/images/agnhost/porter/localhost.key"},
		},
		links:    merge(shell, map[string]string{"agnhost-2": "agnhost", "usr/bin/nc": "nc.openbsd", "usr/local/bin/iperf": "/usr/bin/iperf"}),
		config:   v1.Config{Entrypoint: []string{"/agnhost"}, Cmd: []string{"pause"}, Env: []string{shellPath}},
		registry: true,
	}
}

func pictured(name, picture string) recipe {
	r := agnhost(e2eRegistry + name + ":1.8")
	r.from = merge(r.from, map[string]moduleFile{
		picture:     {kubernetes, "test/images/" + name + "/html/" + picture},
		"data.json": {kubernetes, "test/images/" + name + "/html/data.json"},
	})
	r.config.Cmd = []string{"test-webserver"}
	return r
}

func busybox(names ...string) recipe {
	return recipe{
		names: names,
		debs:  shellAnd(),
		programs: map[string]string{
			"usr/bin/hostname": kubernetes + "/test/images/busybox",
			"usr/bin/sh":       "github.com/skiff-k8s/skiff/test/images/sh",
		},
		files:  commands,
		config: v1.Config{Cmd: []string{"sh"}, Env: []string{shellPath}},
	}
}

func nginx(tag string) recipe {
	return recipe{
		names: []string{e2eRegistry + "nginx:" + tag},
		debs:  shellAnd("nginx-light"),
		files: merge(users, map[string]file{
			"usr/share/nginx/html/index.html": {content: "<!DOCTYPE html>\n<html>\n<head>\n<title>Welcome to nginx!</title>\n</head>\n<body><h1>Welcome to nginx!</h1></body>\n</html>\n", mode: 0o644},
			"etc/nginx/nginx.conf":            {content: "user www-data;\nworker_processes 1;\npid /run/nginx.pid;\nerror_log /dev/stderr;\nevents { worker_connections 512; }\nhttp {\n  include /etc/nginx/mime.types;\n  access_log /dev/stdout;\n  server {\n    listen 80 default_server;\n    listen [::]:80 default_server;\n    root /usr/share/nginx/html;\n  }\n}\n", mode: 0o644},
			"run/.keep":                       {mode: 0o644},
			"var/log/nginx/.keep":             {mode: 0o644},
			"var/lib/nginx/.keep":             {mode: 0o644},
		}),
		links:  shell,
		config: v1.Config{Cmd: []string{"nginx", "-g", "daemon off;"}, Env: []string{shellPath}},
	}
}

// catalogue lists the recipes of a set: "demo" is what config/samples needs,
// "vm" what test/vm and "robustness" what test/robustness needs, "csi" the
// sidecars of upstream's CSI specs, "test" is everything else.
func catalogue(set string) ([]recipe, error) {
	if !slices.Contains([]string{"demo", "vm", "robustness", "csi", "test"}, set) {
		return nil, fmt.Errorf("-set %q: want demo, vm, robustness, csi or test", set)
	}
	var chosen []recipe
	for _, r := range recipes() {
		if r.csi == (set == "csi") && (set == "test" || set == "csi" || slices.Contains(r.sets, set)) {
			chosen = append(chosen, r)
		}
	}
	return chosen, nil
}

func recipes() []recipe {
	shellOnly := busybox(e2eRegistry+"busybox:1.37.0-2", e2eRegistry+"busybox:1.36.1-1", "docker.io/library/busybox:latest")
	shellOnly.sets = []string{"vm", "robustness"}
	nonroot := busybox(e2eRegistry + "nonroot:1.5")
	nonroot.config.User = "1234"
	nonewprivs := busybox(e2eRegistry + "nonewprivs:1.4")
	nonewprivs.programs = merge(nonewprivs.programs, map[string]string{"usr/local/bin/nnp": kubernetes + "/test/images/nonewprivs"})
	nonewprivs.config.Cmd = []string{"nnp"}
	program := func(tag, path, pkg string) recipe {
		return recipe{names: []string{e2eRegistry + tag}, programs: map[string]string{path: kubernetes + pkg}, files: users, config: v1.Config{Entrypoint: []string{"/" + path}}}
	}
	device := program("sample-device-plugin:1.7", "sampledeviceplugin", "/test/images/sample-device-plugin")
	// The DRA specs deploy a manifest with a newer tag.
	device.names = append(device.names, e2eRegistry+"sample-device-plugin:1.8.0")
	device.config.Entrypoint = append(device.config.Entrypoint, "-alsologtostderr")
	sidecar := func(tag, module string) recipe {
		path, _, _ := strings.Cut(tag, ":")
		return recipe{csi: true, names: []string{sigStorage + tag}, programs: map[string]string{path: csiModules + module + "/cmd/" + path}, files: users, config: v1.Config{Entrypoint: []string{"/" + path}}}
	}
	consumer := program("resource-consumer:1.14", "consumer", "/test/images/resource-consumer")
	consumer.programs["consume-cpu"] = kubernetes + "/test/images/resource-consumer/consume-cpu"
	consumer.debs = shellAnd("stress")
	consumer.links = shell
	return []recipe{
		{
			names:    []string{"skiff.cluster/demo:latest"},
			sets:     []string{"demo", "vm"},
			programs: map[string]string{"demo": "github.com/skiff-k8s/skiff/test/images/demo"},
			files:    users,
			config:   v1.Config{Entrypoint: []string{"/demo"}, ExposedPorts: map[string]struct{}{"8080/tcp": {}}},
		},
		{
			names:    []string{"skiff.cluster/load:latest"},
			programs: map[string]string{"load": "github.com/skiff-k8s/skiff/test/images/load"},
			files:    users,
			config:   v1.Config{Entrypoint: []string{"/load"}},
		},
		{
			names:    []string{"skiff.cluster/journal:latest"},
			sets:     []string{"robustness"},
			programs: map[string]string{"journal": "github.com/skiff-k8s/skiff/test/images/journal"},
			files:    users,
			config:   v1.Config{Entrypoint: []string{"/journal"}},
		},
		pause("registry.k8s.io/pause:3.10.2"),
		shellOnly,
		agnhost(e2eRegistry+"agnhost:2.66.1", e2eRegistry+"agnhost:2.55"),
		nginx("1.27.0-2"),
		nginx("1.28.0-2"),
		nonroot,
		nonewprivs,
		pictured("kitten", "kitten.jpg"),
		pictured("nautilus", "nautilus.jpg"),
		{
			// coreutils: specs of block volumes write with dd's oflag=nocache.
			names:    []string{e2eRegistry + "glibc-dns-testing:2.1.1"},
			debs:     shellAnd("bind9-dnsutils", "coreutils", "libc-bin"),
			programs: map[string]string{"coredns": "github.com/coredns/coredns"},
			files:    users,
			links:    shell,
			config:   v1.Config{Cmd: []string{"bash"}, Env: []string{shellPath}},
		},
		{
			names:  []string{e2eRegistry + "ipc-utils:1.4"},
			debs:   shellAnd("util-linux"),
			files:  users,
			links:  shell,
			config: v1.Config{Cmd: []string{"sh"}, Env: []string{shellPath}},
		},
		{
			names:  []string{e2eRegistry + "perl:5.26"},
			debs:   shellAnd("perl"),
			files:  users,
			links:  shell,
			config: v1.Config{Cmd: []string{"perl"}, Env: []string{shellPath}},
		},
		{
			// What kube-proxy's image is built on. Debian's scripts, which do not
			// run here, choose between iptables on nftables and the older one.
			names: []string{"registry.k8s.io/build-image/distroless-iptables:v0.9.9"},
			debs:  shellAnd("conntrack", "ipset", "iptables", "kmod", "nftables"),
			files: users,
			links: merge(shell, map[string]string{
				"usr/sbin/ebtables": "xtables-nft-multi", "usr/sbin/arptables": "xtables-nft-multi",
				"usr/sbin/iptables": "xtables-nft-multi", "usr/sbin/iptables-save": "xtables-nft-multi", "usr/sbin/iptables-restore": "xtables-nft-multi",
				"usr/sbin/ip6tables": "xtables-nft-multi", "usr/sbin/ip6tables-save": "xtables-nft-multi", "usr/sbin/ip6tables-restore": "xtables-nft-multi",
			}),
			config: v1.Config{Cmd: []string{"sh"}, Env: []string{shellPath}},
		},
		{
			names:    []string{e2eRegistry + "apparmor-loader:1.4"},
			debs:     shellAnd("apparmor"),
			programs: map[string]string{"usr/bin/loader": kubernetes + "/test/images/apparmor-loader"},
			files:    users,
			links:    shell,
			config:   v1.Config{Entrypoint: []string{"/usr/bin/loader", "-logtostderr", "-v=2"}, Cmd: []string{"/profiles"}, Env: []string{shellPath}},
		},
		program("regression-issue-74839:1.5", "regression-issue-74839", "/test/images/regression-issue-74839"),
		consumer,
		device,
		{
			// DRA specs run a shell in it, and the proxy; CSI mock specs both
			// modes.
			names:    []string{sigStorage + "hostpathplugin:v1.17.1"},
			debs:     shellAnd(),
			programs: map[string]string{"hostpathplugin": "github.com/skiff-k8s/skiff/test/images/hostpathplugin"},
			files:    users,
			links:    shell,
			config:   v1.Config{Entrypoint: []string{"/hostpathplugin"}, Env: []string{shellPath}},
		},
		{
			names:    []string{sigStorage + "csi-node-driver-registrar:v2.17.0"},
			programs: map[string]string{"registrar": "github.com/skiff-k8s/skiff/test/images/registrar"},
			files:    users,
			config:   v1.Config{Entrypoint: []string{"/registrar"}},
		},
		sidecar("csi-attacher:v4.12.0", "external-attacher/v4"),
		sidecar("csi-provisioner:v6.3.0", "external-provisioner/v6"),
		sidecar("csi-resizer:v2.2.0", "external-resizer/v2"),
		sidecar("csi-snapshotter:v8.6.0", "external-snapshotter/v8"),
		{
			names:    []string{e2eRegistry + "sample-apiserver:1.29.2"},
			programs: map[string]string{"sample-apiserver": "k8s.io/sample-apiserver"},
			files:    users,
			config:   v1.Config{Entrypoint: []string{"/sample-apiserver"}},
		},
		{
			names:    []string{"registry.k8s.io/etcd:3.7.0-0"},
			programs: map[string]string{"usr/local/bin/etcd": "go.etcd.io/etcd/server/v3"},
			files:    users,
			config:   v1.Config{Env: []string{shellPath}},
		},
	}
}

func pause(names ...string) recipe {
	return recipe{
		names:    names,
		sets:     []string{"robustness"},
		programs: map[string]string{"pause": "github.com/skiff-k8s/skiff/test/images/pause"},
		config:   v1.Config{Entrypoint: []string{"/pause"}, User: "65535:65535"},
	}
}

func merge[V any](maps ...map[string]V) map[string]V {
	out := map[string]V{}
	for _, m := range maps {
		for k, v := range m {
			out[k] = v
		}
	}
	return out
}
