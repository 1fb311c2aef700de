package supervise

import (
	"fmt"
	"os"
	"path/filepath"
)

// Environment variables that move skiff's directories.
const (
	EnvStateDir = "SKIFF_STATE_DIR"
	EnvRunDir   = "SKIFF_RUN_DIR"
	EnvLibexec  = "SKIFF_LIBEXEC"
	EnvEtcDir   = "SKIFF_ETC_DIR"
)

// Paths says where everything on the host is.
type Paths struct {
	// StateDir survives reboots: clusters and the image store. Default
	// /var/lib/skiff.
	StateDir string
	// RunDir does not: sockets, process ids, network namespaces. Default
	// /run/skiff.
	RunDir string
	// Libexec holds skiff-machine, skiff-init, skiff-shim, skiff-pause, runc.
	Libexec string
	// EtcDir holds the host's resolv.conf and nsswitch.conf. Default /etc.
	EtcDir string
}

// DefaultPaths reads the environment; libexec is looked for beside the
// running program.
func DefaultPaths() (Paths, error) {
	p := Paths{StateDir: os.Getenv(EnvStateDir), RunDir: os.Getenv(EnvRunDir), Libexec: os.Getenv(EnvLibexec), EtcDir: os.Getenv(EnvEtcDir)}
	if p.StateDir == "" {
		p.StateDir = "/var/lib/skiff"
	}
	if p.RunDir == "" {
		p.RunDir = "/run/skiff"
	}
	if p.EtcDir == "" {
		p.EtcDir = "/etc"
	}
	if p.Libexec != "" {
		return p, p.absolute()
	}
	self, err := os.Executable()
	if err != nil {
		return p, fmt.Errorf("find skiff's programs: %w", err)
	}
	for _, dir := range []string{"../libexec/skiff", "libexec/skiff"} {
		dir = filepath.Join(filepath.Dir(self), dir)
		if _, err := os.Stat(filepath.Join(dir, initProgram)); err == nil {
			p.Libexec = dir
			return p, p.absolute()
		}
	}
	return p, &Refusal{
		Err:  fmt.Errorf("find skiff's programs: no libexec/skiff beside %s", self),
		Help: "run make build, or set " + EnvLibexec + " to the directory with " + initProgram,
	}
}

// initProgram and machineProgram are files of Libexec.
const (
	initProgram    = "skiff-init"
	machineProgram = "skiff-machine"
)

func (p *Paths) absolute() error {
	for _, dir := range []*string{&p.StateDir, &p.RunDir, &p.Libexec, &p.EtcDir} {
		abs, err := filepath.Abs(*dir)
		if err != nil {
			return err
		}
		*dir = abs
	}
	return nil
}

// Images is the host's image store.
func (p Paths) Images() string { return filepath.Join(p.StateDir, "images") }

// Snapshots is the host's store of snapshots.
func (p Paths) Snapshots() string { return filepath.Join(p.StateDir, "snapshots") }

func (p Paths) clusters() string { return filepath.Join(p.StateDir, "clusters") }

// Cluster is the directory of a cluster.
func (p Paths) Cluster(name string) string { return filepath.Join(p.clusters(), name) }

// aside and deleted are what a cluster's directory is called before it is
// published and after it is taken back.
func (p Paths) aside(name string) string   { return filepath.Join(p.clusters(), "."+name+".new") }
func (p Paths) deleted(name string) string { return filepath.Join(p.clusters(), "."+name+".deleted") }

// Kubeconfig is the admin's kubeconfig in the cluster's directory.
func (p Paths) Kubeconfig(name string) string { return filepath.Join(p.Cluster(name), "kubeconfig") }

// Log is a log of a machine: "init", "control-plane", "node".
func (p Paths) Log(cluster, machine, service string) string {
	return filepath.Join(p.Cluster(cluster), "logs", machine, service+".log")
}

// SupervisorLog is the log of the cluster's supervisor.
func (p Paths) SupervisorLog(cluster string) string {
	return filepath.Join(p.Cluster(cluster), "logs", "supervisor.log")
}

// Run is the run directory of a cluster.
func (p Paths) Run(name string) string { return filepath.Join(p.RunDir, name) }

// Socket is the supervisor's control socket.
func (p Paths) Socket(name string) string { return filepath.Join(p.Run(name), "supervisor.sock") }

func (p Paths) netns(name string) string     { return filepath.Join(p.Run(name), "netns") }
func (p Paths) pulled(name string) string    { return filepath.Join(p.Run(name), "pulled") }
func (p Paths) switchBPF(name string) string { return filepath.Join(p.Run(name), "switch-bpf") }

// root is the empty directory on which every machine mounts its own root, in
// its own mount namespace.
func (p Paths) root(name string) string { return filepath.Join(p.Run(name), "root") }

func (p Paths) record(name string) string { return filepath.Join(p.Cluster(name), "cluster.json") }

// wanted is a file that is there as long as the cluster is meant to run: from
// its create or start to its stop or delete. Without it, nobody starts a
// supervisor.
func (p Paths) wanted(name string) string { return filepath.Join(p.Cluster(name), "running") }

// replaced is where a restore keeps what changes places.
func (p Paths) replaced(name string) string { return filepath.Join(p.Cluster(name), "restore") }

func (p Paths) machineState(name, machine string) string {
	return filepath.Join(p.Run(name), "machines", machine+".json")
}

// crashLoopNote is there while the supervisor starts a machine again and again.
func (p Paths) crashLoopNote(name, machine string) string {
	return filepath.Join(p.Run(name), "machines", machine+".crash-loop")
}

// troubleNote keeps a machine's trouble while the cluster does not run.
func (p Paths) troubleNote(name, machine string) string {
	return filepath.Join(p.Cluster(name), "machines", machine, "trouble.json")
}

func (p Paths) watcherState(name string) string { return filepath.Join(p.Run(name), "watcher.json") }

func (p Paths) supervisorState(name string) string {
	return filepath.Join(p.Run(name), "supervisor.pid")
}

// allClusters is the directory of all clusters in every cgroup tree.
const allClusters = "skiff"

// cgroup is the directory of a cluster in every cgroup tree.
func cgroup(name string) string { return allClusters + "/" + name }

// supervisorCgroup holds the supervisor and its watcher; no machine can have
// that name.
func supervisorCgroup(name string) string { return cgroup(name) + "/.supervisor" }

func machineCgroup(name, machine string) string { return cgroup(name) + "/" + machine }
