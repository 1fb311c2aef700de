package runtime

import (
	"net"
	"path/filepath"
	"slices"

	srvconfig "github.com/containerd/containerd/v2/cmd/containerd/server/config"
	"github.com/containerd/containerd/v2/version"
	"github.com/containerd/platforms"
)

const (
	// snapshotterName and sandboxerName are ours, see register.
	snapshotterName = "skiff"
	sandboxerName   = "skiff"
	// defaultHandler is the OCI runtime of Pods without a RuntimeClass.
	defaultHandler = "runc"
	// registryHosts is where a machine may say how registries are reached:
	// mirrors, plain HTTP, certificates. One directory: upstream's default of
	// two, separated by a colon, is taken for one name by its own puller.
	registryHosts = "/etc/containerd/certs.d"
	// pauseImage is only a name that the kubelet may pin; sandboxes have no
	// image.
	pauseImage = "registry.k8s.io/pause:3.10.2"
)

// serverConfig is containerd's configuration file, in Go.
func (r *Runtime) serverConfig() *srvconfig.Config {
	streamHost, streamPort, _ := net.SplitHostPort(r.cfg.StreamAddress) // checked
	seccomp := ""
	if r.cfg.SeccompDefault {
		seccomp = "runtime/default"
	}
	return &srvconfig.Config{
		Version: version.ConfigVersion,
		Root:    r.cfg.Root,
		State:   r.cfg.State,
		// Nothing goes without these: their errors end the start, and say why.
		RequiredPlugins: []string{"io.containerd.metadata.v1.bolt", "io.containerd.snapshotter.v1." + snapshotterName, "io.containerd.grpc.v1.cri"},
		Plugins: map[string]any{
			// A machine's data survive any death of a process; only a power
			// failure of the host could lose the last writes.
			"io.containerd.metadata.v1.bolt": map[string]any{"no_sync": true},
			"io.containerd.server.v1.ttrpc":  map[string]any{"address": r.eventAddress()},
			"io.containerd.shim.v1.manager":  map[string]any{"socket_dir": filepath.Join(r.cfg.State, "s")},
			"io.containerd.transfer.v1.local": map[string]any{
				"config_path": registryHosts,
				"unpack_config": []map[string]any{{
					"platform":    platforms.Format(platforms.DefaultSpec()),
					"snapshotter": snapshotterName,
					"differ":      "walking",
				}},
			},
			"io.containerd.cri.v1.images": map[string]any{
				"snapshotter":   snapshotterName,
				"pinned_images": map[string]any{"sandbox": pauseImage},
				"registry":      map[string]any{"config_path": registryHosts},
			},
			"io.containerd.cri.v1.runtime": map[string]any{
				// Without that capability no process may have a lower score
				// than ours, and runc would fail.
				"restrict_oom_score_adj":       !slices.Contains(r.capabilities, "CAP_SYS_RESOURCE"),
				"disable_apparmor":             true,
				"netns_mounts_under_state_dir": true,
				// The kubelet computes rates itself.
				"stats_collect_period": "1h",
				// Nothing that a user of the cluster can act on.
				"ignore_deprecation_warnings": []string{"io.containerd.deprecation/cgroup-v1"},
				"unset_seccomp_profile":       seccomp,
				"cdi_spec_dirs":               []string{"/etc/cdi", "/var/run/cdi"},
				"cni": map[string]any{
					// Without a directory, no watch on it: see hookNetwork.
					"conf_dir":              r.cfg.CNIConfDir,
					"bin_dirs":              []string{r.cfg.CNIBinDir},
					"max_conf_num":          1,
					"use_internal_loopback": true,
					// Ours has the primary family's address first.
					"ip_pref": "cni",
				},
				"containerd": map[string]any{
					"default_runtime_name": defaultHandler,
					"runtimes":             r.handlers(),
				},
			},
			"io.containerd.grpc.v1.cri": map[string]any{
				"disable_tcp_service":   true,
				"stream_server_address": streamHost,
				"stream_server_port":    streamPort,
			},
		},
	}
}

// handlers are the OCI runtimes, by their names in RuntimeClasses.
func (r *Runtime) handlers() map[string]any {
	handlers := map[string]any{defaultHandler: handler(r.libexec("runc"), filepath.Join(r.cfg.State, "runc"))}
	for name, program := range r.cfg.Handlers {
		handlers[name] = handler(program, filepath.Join(r.cfg.State, "handlers", name))
	}
	return handlers
}

// handler calls program, which keeps the state of its containers in root.
func handler(program, root string) map[string]any {
	return map[string]any{
		// Not runtime_path: with it, every container costs a run of the shim
		// binary.
		"runtime_type":             "io.containerd.runc.v2",
		"sandboxer":                sandboxerName,
		"disable_pause_image_pull": true,
		"options":                  map[string]any{"BinaryName": program, "Root": root},
	}
}
