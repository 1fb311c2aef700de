package supervise

import "time"

// Step of a create, start, stop or restore, in order.
type Step string

// The steps of Create and Start; Stop has StepPods and StepDown; the last ones
// are of snapshots. StepMachines and StepNetwork overlap.
const (
	StepCheck    Step = "check"    // the host, the config, ports and ranges
	StepBuild    Step = "build"    // directory, certificates, configuration
	StepNetwork  Step = "network"  // the switch and the cables
	StepMachines Step = "machines" // namespaces, cgroups, process 1
	StepServer   Step = "server"   // until the API server is ready
	StepHostDNS  Step = "host-dns" // the cluster's names on the host, if wished for
	StepPods     Step = "pods"     // until pods and control plane have ended themselves
	StepDown     Step = "down"     // everything in the kernel is taken away
	StepSave     Step = "save"     // of a snapshot: etcd, certificates, the record
	StepVerify   Step = "verify"   // the snapshot is as it was made
	StepRestore  Step = "restore"  // what the cluster had and what the snapshot has change places
	StepUndo     Step = "undo"     // and back again
)

// Event is progress of a create, start or stop.
type Event struct {
	Step Step `json:"step"`
	// Machine is set when the event is about one.
	Machine string `json:"machine,omitempty"`
	// Done says that the step has ended; the first event of a step is its
	// start.
	Done bool `json:"done,omitempty"`
	// Took is how long it took, when done.
	Took time.Duration `json:"took,omitempty"`
	// Note is something the user should know although all went well.
	Note string `json:"note,omitempty"`
	// Error ended the step, and the command.
	Error string `json:"error,omitempty"`
}
